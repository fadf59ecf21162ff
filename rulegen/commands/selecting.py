"""Which changes are asked about: those of some objects, of a namespace, or of objects with some labels.

In: options, and changes with whom they belong to. Out: the changes that are meant. Decides nothing about what is
applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import click

from rulegen.commands.completing import complete_namespaces, complete_services
from rulegen.commands.options import Decorated
from rulegen.errors import InputError, shown

if TYPE_CHECKING:
    from rulegen.kube.label_selectors import LabelSelector
    from rulegen.reconcile.driver import ShownChange

# What stands for the rest of a name that was too long for a comment.
_CUT = "~"

# Of objects, by namespace and name; those of several kinds may have one name, and a namespace that is there has "".
Labels: TypeAlias = dict[tuple[str, str], list[Mapping[str, str]]]


class Owner(NamedTuple):
    """Whose an entry is, as `Compiler.owners` writes it: `default/web:http`, `Pod default/web:8080`, `default/deny`.

    `namespace`: "" for what has none.
    """

    namespace: str
    name: str
    port: str = ""

    @classmethod
    def of(cls, text: str) -> Owner:
        """The parts of `text`; a kind before the name says nothing here."""
        namespace, _, rest = text.rpartition(" ")[2].rpartition("/")
        name, _, port = rest.partition(":")
        return cls(namespace, name, port)

    @property
    def object(self) -> str:
        """`default/web`."""
        return "/".join(filter(None, (self.namespace, self.name)))


class Wish(NamedTuple):
    """One object that is named on the command line; "" for what is not said."""

    namespace: str
    name: str
    port: str

    def means(self, owner: Owner) -> bool:
        """Whether it is that object, or was before its name was cut."""
        if self.namespace and self.namespace != owner.namespace:
            return False
        if _CUT in owner.name:
            return self.name.startswith(owner.name.partition(_CUT)[0])
        return self.name == owner.name and (not self.port or _may_be(self.port, owner.port))


def _may_be(whole: str, text: str) -> bool:
    head, cut, _ = text.partition(_CUT)
    return whole.startswith(head) if cut else whole == text


class Selection(NamedTuple):
    """What is asked about; without anything: everything, also what is no single object's."""

    wishes: Sequence[Wish] = ()
    namespace: str = ""
    labels: LabelSelector | None = None

    def __bool__(self) -> bool:
        return bool(self.wishes or self.namespace or self.labels is not None)


class Selected(NamedTuple):
    """The changes that are meant.

    `unlabelled`: how many are not, because nothing is known of their objects' labels. `has_objects`: whether any object
    of the input is asked about.
    """

    changes: list[ShownChange]
    unlabelled: int
    has_objects: bool


def selection_options(command: Decorated) -> Decorated:
    """SERVICE..., -n and -l: what `make_selection` reads."""
    for option in (
        click.option(
            "-l",
            "--selector",
            metavar="SELECTOR",
            help="Only objects with these labels: app=web, 'tier in (a,b)', !old.",
        ),
        click.option(
            "-n",
            "--namespace",
            metavar="NAMESPACE",
            shell_complete=complete_namespaces,
            help="Only objects in this namespace.",
        ),
        click.argument("services", nargs=-1, metavar="[SERVICE]...", shell_complete=complete_services),
    ):
        command = option(command)
    return command


def make_selection(options: Mapping[str, Any]) -> Selection:
    """What the options of `selection_options` say. Raises InputError."""
    from rulegen.kube.label_selectors import parse_selector

    namespace = options["namespace"] or ""
    wishes = [_wish(text, namespace) for text in options["services"]]
    return Selection(wishes, namespace, parse_selector(options["selector"]) if options["selector"] else None)


def _wish(text: str, in_namespace: str) -> Wish:
    """`default/web`, `default/web:http`, or `web` of whichever namespace."""
    head, slash, rest = text.partition("/")
    namespace, whole = (head, rest) if slash else (in_namespace, text)
    name, colon, port = whole.partition(":")
    if not name or (slash and not namespace) or (colon and not port) or "/" in whole:
        raise InputError(f"expected a Service as NAMESPACE/NAME, NAMESPACE/NAME:PORT or NAME, got {shown(text)}")
    if in_namespace and namespace != in_namespace:
        raise InputError(f"{shown(text)} is not in the namespace that -n says, {shown(in_namespace)}")
    return Wish(namespace, name, port)


def add_labels(labels: Labels, objects: Iterable[Any]) -> None:
    """Puts the labels of objects to those of others."""
    for item in objects:
        metadata = item.metadata
        if type(item).__name__ == "Namespace":
            labels.setdefault((metadata.name, ""), [])
        key = (getattr(metadata, "namespace", ""), metadata.name)
        labels.setdefault(key, []).append(getattr(metadata, "labels", None) or {})


def select(changes: Iterable[ShownChange], selection: Selection, known: Labels) -> Selected:
    """The changes of the selection. `known`: the objects of the input.

    Raises InputError for an object or a namespace that is neither there nor among the changes.
    """
    owned = [(change, [Owner.of(name) for name in change.owned.named]) for change in changes]
    _check_names(selection, [owner for _, owners in owned for owner in owners], known)
    meant = [(change, owners) for change, owners in owned if any(_is_meant(selection, owner) for owner in owners)]
    if selection.labels is None:
        return Selected([change for change, _ in meant], 0, has_objects=True)
    matches = _matcher(selection.labels, known)
    unlabelled = sum(all((owner.namespace, owner.name) not in known for owner in owners) for _, owners in meant)
    chosen = [
        change for change, owners in meant if any(_is_meant(selection, owner) and matches(owner) for owner in owners)
    ]
    has_objects = any(matches(owner) for owner in map(Owner._make, ((*key, "") for key in known)))
    return Selected(chosen, unlabelled, has_objects)


def _is_meant(selection: Selection, owner: Owner) -> bool:
    if selection.namespace and owner.namespace != selection.namespace:
        return False
    return not selection.wishes or any(wish.means(owner) for wish in selection.wishes)


def _matcher(selector: LabelSelector, known: Labels) -> Callable[[Owner], bool]:
    def matches(owner: Owner) -> bool:
        return any(selector.matches(labels) for labels in known.get((owner.namespace, owner.name), ()))

    return matches


def _check_names(selection: Selection, owners: Iterable[Owner], known: Labels) -> None:
    from rulegen.alike import there_is

    there = {*(Owner(*key) for key in known), *owners}
    namespaces = {owner.namespace for owner in there} - {""}
    if selection.namespace and selection.namespace not in namespaces:
        near = there_is(selection.namespace, namespaces)
        raise InputError(
            f"-n: nothing is in namespace {shown(selection.namespace)}, neither in the input nor in what differs{near}"
        )
    for wish in selection.wishes:
        # Of the input no ports are known here.
        if not any(wish.means(owner if owner.port else owner._replace(port=wish.port)) for owner in there):
            named = "/".join(filter(None, (wish.namespace, wish.name)))
            near = there_is(named, {owner.object if wish.namespace else owner.name for owner in there if owner.name})
            raise InputError(f"no {shown(named)}: neither in the input nor in what differs{near}")
