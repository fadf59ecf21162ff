"""Ingress as a feature: Ingresses, their classes, Services and Secrets come in, sites go out, host by host.

It runs once for a cluster, on no node, and its driver is `nginx`. What an object changes costs the hosts that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple, Self

from rulegen.config import NodeConfiguration
from rulegen.errors import InputError, TargetError
from rulegen.ingress.certificates import certificate_of
from rulegen.ingress.classes import Classes
from rulegen.ingress.model import ANY_HOST, Site
from rulegen.ingress.reading import ReadIngress, read_ingress
from rulegen.ingress.sites import About, ObjectName, Owned, Reason, Resolved, ServicePorts, site_of
from rulegen.ingress.status import patch, published, said
from rulegen.kube.objects import CERTIFICATE_TYPE, Ingress, IngressClass, Secret, Service
from rulegen.nginx.configuration import Pem
from rulegen.reconcile.feature import AnyCompiler, Need
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference, bounded

NAME = "ingress"


class TakenSites(NamedTuple):
    """See `Taken`; by host. No item depends on anything else."""

    items: Mapping[str, Site | None]
    context: None = None

    def followed_by(self, later: Self) -> TakenSites:
        return TakenSites({**self.items, **later.items})


class _Known(NamedTuple):
    """An Ingress as it was put. `class_name`: as the spec says it; `read`: None where it has faults."""

    item: Ingress
    reference: ObjectReference
    class_name: str | None
    read: ReadIngress | None
    faults: tuple[Finding, ...]

    @property
    def hosts(self) -> frozenset[str]:
        return self.read.hosts if self.read is not None else frozenset()


class Mention(NamedTuple):
    """An Ingress, `shop/web`, that names a host; `is_served`: it is ours and has no fault.

    `findings`: those about the host come first, and of each kind the first few are there.
    """

    name: str
    is_served: bool
    findings: tuple[Finding, ...]


class IngressFeature:
    """See `Feature`."""

    name = NAME
    kinds: Mapping[type, Need] = {
        Ingress: Need.FIRST,
        IngressClass: Need.FIRST,
        Service: Need.FIRST,
        Secret: Need.FIRST,
    }
    tells = (Ingress,)

    def __init__(self, configuration: NodeConfiguration) -> None:
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = Tracked()
        self.sites: Tracked[str, Site] = Tracked()
        self.statuses: Tracked[ObjectReference, Mapping[str, Any]] = Tracked()
        self._published = published(configuration.ingress.published)
        self.says_status = bool(self._published)
        # The Ingresses that were ours, and may have our status.
        self._told: set[ObjectName] = set()
        self._classes = Classes(configuration.ingress.controller)
        self._ingresses: dict[ObjectName, _Known] = {}
        self._services: dict[ObjectName, ServicePorts] = {}
        self._certificates: dict[ObjectName, Pem | str] = {}
        # Who names a host, a Service, a Secret.
        self._by_host: dict[str, set[ObjectName]] = {}
        self._by_service: dict[ObjectName, set[ObjectName]] = {}
        self._by_secret: dict[ObjectName, set[ObjectName]] = {}
        self._conflicts: dict[str, dict[ObjectName, tuple[Finding, ...]]] = {}
        self._changed_hosts: set[str] = set()
        self._changed: dict[ObjectName, ObjectReference] = {}

    def put(self, item: Any) -> None:
        """See `Feature`."""
        name = (getattr(item.metadata, "namespace", ""), item.metadata.name)
        if isinstance(item, Ingress):
            self._forget(name)
            self._note(name, item)
        elif isinstance(item, Service):
            self._set(self._services, name, ServicePorts.of(item), self._by_service)
        elif isinstance(item, Secret):
            self._set(self._certificates, name, _certificate(item), self._by_secret)
        elif isinstance(item, IngressClass):
            self._classes.put(item)
            self._touch_all()

    def remove(self, reference: ObjectReference) -> None:
        """See `Feature`."""
        name = (reference.namespace, reference.name)
        if reference.kind == Ingress.__name__:
            self._forget(name)
        elif reference.kind == Service.__name__:
            self._set(self._services, name, None, self._by_service)
        elif reference.kind == Secret.__name__:
            self._set(self._certificates, name, None, self._by_secret)
        elif reference.kind == IngressClass.__name__:
            self._classes.remove(reference.name)
            self._touch_all()

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        """See `Feature`: it keeps what it last meant."""
        del reference, error
        return False

    def take(self) -> TakenSites:
        """See `Feature`."""
        hosts, self._changed_hosts = self._changed_hosts, set()
        changed, self._changed = self._changed, {}
        for host in hosts:
            self._update(host, changed)
        for name, reference in changed.items():
            self._find(name, reference)
            self._tell(name, reference)
        return TakenSites({host: change.after for host, change in self.sites.take().items()})

    def reference(self, item_id: str) -> ObjectReference | None:
        """The oldest Ingress of a host: without it, nobody's."""
        names = self._in_order(item_id)
        return self._ingresses[names[0]].reference if names else None

    def title(self, item_id: str) -> str:
        """`host shop.example.org`."""
        return f"host {item_id or 'of all others'}"

    def mentions(self, hosts: Iterable[str]) -> list[Mention]:
        """The Ingresses that name one of the hosts, from which all was taken, with what is found about them."""
        wanted = set(hosts)
        names = {name for host in wanted for name in self._by_host.get(host, ())}
        names |= {name for name, known in self._ingresses.items() if known.read is None and wanted & _hosts(known.item)}
        return [
            Mention("/".join(name), self._is_served(name), self._findings(self._ingresses[name], wanted))
            for name in sorted(names)
        ]

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        """See `Feature`."""
        if driver != "nginx":
            raise TargetError(f"Ingresses are served by nginx; there are none for {driver}")
        from rulegen.ingress.on_nginx import SiteCompiler

        return SiteCompiler(node)

    # -- objects --

    def _note(self, name: ObjectName, item: Ingress) -> None:
        read, faults = read_ingress(item.spec)
        reference = ObjectReference.of(item)
        findings = tuple(
            Finding(reference.without_uid, Reason.UNUSABLE, f"left out: {fault}", is_for_owner=True) for fault in faults
        )
        self._ingresses[name] = _Known(item, reference, read.class_name, None if faults else read, findings)
        self._index(name, add=True)

    def _forget(self, name: ObjectName) -> None:
        known = self._ingresses.get(name)
        if known is None:
            return
        self._index(name, add=False)
        del self._ingresses[name]
        self.findings.set(known.reference, None)
        self.statuses.set(known.reference, None)

    def _index(self, name: ObjectName, *, add: bool) -> None:
        known = self._ingresses[name]
        self._touch(name)
        if known.read is None:
            return
        places: list[tuple[dict[Any, set[ObjectName]], Any]] = [(self._by_host, host) for host in known.hosts]
        places += ((self._by_service, (name[0], backend.service)) for _, _, backend in known.read.backends)
        places += ((self._by_secret, (name[0], tls.secret)) for tls in known.read.tls)
        for index, key in places:
            if add:
                index.setdefault(key, set()).add(name)
            elif key in index:
                index[key].discard(name)
                if not index[key]:
                    del index[key]

    def _set(self, known: dict[ObjectName, Any], name: ObjectName, value: Any, index: Mapping[Any, Any]) -> None:
        """An object that others name is otherwise now; None: gone."""
        if known.get(name) == value:
            return
        if value is None:
            del known[name]
        else:
            known[name] = value
        for ingress in index.get(name, ()):
            self._touch(ingress)

    def _touch(self, name: ObjectName) -> None:
        known = self._ingresses[name]
        self._changed[name] = known.reference
        self._changed_hosts |= known.hosts

    def _touch_all(self) -> None:
        for name in self._ingresses:
            self._touch(name)

    # -- what they mean together --

    def _is_served(self, name: ObjectName) -> bool:
        known = self._ingresses[name]
        return known.read is not None and self._is_ours(known)

    def _is_ours(self, known: _Known) -> bool:
        return self._classes.is_ours(known.item, known.class_name)

    def _in_order(self, host: str) -> list[ObjectName]:
        """The Ingresses of a host, the oldest first: it wins."""
        names = [name for name in self._by_host.get(host, ()) if self._is_served(name)]
        # Without a time, as in manifests, nothing is older than what has one.
        return sorted(names, key=lambda name: (self._ingresses[name].item.metadata.creation_timestamp or "~", *name))

    def _update(self, host: str, changed: dict[ObjectName, ObjectReference]) -> None:
        owned = [Owned(name, read) for name in self._in_order(host) if (read := self._ingresses[name].read)]
        made = site_of(host, owned, Resolved(self._services, self._certificates))
        self.sites.set(host, made.site)
        before = self._conflicts.pop(host, {})
        if made.conflicts:
            self._conflicts[host] = made.conflicts
        for name in before.keys() | made.conflicts.keys():
            if name in self._ingresses:
                changed.setdefault(name, self._ingresses[name].reference)

    def _find(self, name: ObjectName, reference: ObjectReference) -> None:
        known = self._ingresses.get(name)
        if known is None:
            self.findings.set(reference, None)
            return
        self.findings.set(reference, self._findings(known) or None)

    def _findings(self, known: _Known, hosts: Set[str] = frozenset()) -> tuple[Finding, ...]:
        """Of each kind the first few; those about `hosts` come first."""
        subject = known.reference.without_uid
        problem = self._classes.problem(known.item, known.class_name)
        if known.read is None:
            # What another controller takes for right is no fault.
            return known.faults if problem or self._is_ours(known) else ()
        if problem:
            return (Finding(subject, Reason.NO_CLASS, problem, is_for_owner=True),)
        if not self._is_ours(known):
            return ()
        name = (subject.namespace, subject.name)
        found = list(Resolved(self._services, self._certificates).findings(Owned(name, known.read)))
        for host in sorted(known.hosts):
            found += (About((host,), one) for one in self._conflicts.get(host, {}).get(name, ()))
        if hosts:
            found.sort(key=lambda about: hosts.isdisjoint(about.hosts))
        return bounded(dict.fromkeys(about.finding for about in found))

    def _tell(self, name: ObjectName, reference: ObjectReference) -> None:
        """What has to be written into its status, if anything."""
        known = self._ingresses.get(name)
        if known is None or not self._published:
            self._told.discard(name)
            return
        now, wanted = said(known.item), None
        if self._is_served(name):
            self._told.add(name)
            wanted = patch(self._published) if now != self._published else None
        elif now == self._published and (name in self._told or not self._is_anothers(known)):
            wanted = patch(None)
        else:
            self._told.discard(name)
        self.statuses.set(reference, wanted)

    def _is_anothers(self, known: _Known) -> bool:
        return self._classes.is_anothers(known.item, known.class_name)


def _certificate(secret: Secret) -> Pem | str | None:
    """What is wrong with it, in words, where it cannot be used; None: it is of another type, which no cluster gives."""
    if secret.type != CERTIFICATE_TYPE:
        return None
    try:
        return certificate_of(secret)
    except InputError as error:
        return str(error)


def _hosts(item: Ingress) -> set[str]:
    """What one with faults says of hosts, whatever it is."""
    rules = item.spec.get("rules") if isinstance(item.spec, Mapping) else None
    found = [rule.get("host") for rule in rules if isinstance(rule, Mapping)] if isinstance(rules, list) else []
    return {host for host in found if isinstance(host, str)}


def site_for_any(sites: Mapping[str, Site]) -> Site:
    """What is served where no host matches; there may be nothing."""
    return sites.get(ANY_HOST, Site(ANY_HOST, ()))
