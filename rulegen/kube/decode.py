"""One object comes in, as JSON text or as plain values out of YAML; its Struct goes out, or every fault of it.

A good object is decoded by msgspec in one pass. Only one that it refuses is walked field by field: an optional field
that is null is absent, as the API server reads it, and so is "" where that sets a default; what is still wrong then is
reported. Labels and policies are not judged here, and nothing is read.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Raw

from rulegen.errors import UNDECODABLE, InputError, printable, shown
from rulegen.kube.faults import Fault
from rulegen.kube.kinds import kind_of
from rulegen.kube.objects import DEFAULT_NAMESPACE, EMPTY_IS_ABSENT, KubeStruct

Encoded: TypeAlias = bytes | memoryview | Raw

T = TypeVar("T", bound=KubeStruct)

_MAX_FAULTS = 10
# kubectl keeps a copy of the whole object here, which nobody reads.
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class ObjectError(InputError):
    """An object that cannot be used: its kind, its name (`namespace/name`, as safe text, or "") and its faults."""

    def __init__(self, kind: str, name: str, faults: tuple[Fault, ...]) -> None:
        super().__init__(f"{kind} {name}: ".replace(" :", ":") + "; ".join(str(fault) for fault in faults))
        self.kind = kind
        self.name = name
        self.faults = faults


def decode_object(kind: type[T], text: Encoded) -> T:
    """The Struct of one object in JSON.

    Raises:
        ObjectError: the text is not JSON, or a field has a wrong type or is out of bounds.
    """
    try:
        item: T = _decoder(kind).decode(text)
    except UNDECODABLE:
        return convert_object(kind, _plain_object(kind, text))
    return _checked(kind, item)


def convert_object(kind: type[T], value: object) -> T:
    """The Struct of one object that is given as plain values.

    Raises:
        ObjectError: a field has a wrong type or is out of bounds.
    """
    try:
        item = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        item = _repaired(kind, value)
    return _checked(kind, item)


def plain_value(text: Encoded) -> object:
    """The plain values of a JSON text, numbers that are out of all bounds included.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.ValidationError:
        return json.loads(bytes(memoryview(text)), parse_int=_number)


def object_name(kind: type[KubeStruct], value: object) -> str:
    """`namespace/name` (or `name`, of a cluster-scoped kind) of plain values, as safe text; "" without a name."""
    metadata = value.get("metadata") if isinstance(value, Mapping) else None
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not isinstance(metadata, Mapping):
        return ""
    if not kind_of(kind).is_namespaced:
        return printable(name)
    namespace = metadata.get("namespace")
    return f"{printable(namespace) if isinstance(namespace, str) else DEFAULT_NAMESPACE}/{printable(name)}"


@cache
def _decoder(kind: type[KubeStruct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _plain_object(kind: type[KubeStruct], text: Encoded) -> object:
    try:
        return plain_value(text)
    except ValueError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise ObjectError(kind.__name__, "", (Fault("", f"invalid JSON: {reason}"),)) from error
    except RecursionError as error:
        raise ObjectError(kind.__name__, "", (Fault("", "nested too deeply"),)) from error


def _number(digits: str) -> float:
    return int(digits) if len(digits) < 20 else float(digits)


def _checked(kind: type[T], item: T) -> T:
    faults = tuple(kind_of(kind).faults(item))
    if faults:
        raise ObjectError(kind.__name__, object_name(kind, msgspec.to_builtins(item)), faults[:_MAX_FAULTS])
    annotations = item.metadata.annotations  # type: ignore[attr-defined]
    if annotations:
        annotations.pop(_LAST_APPLIED, None)
    return item


# The walk over an object that msgspec refused.


def _repaired(kind: type[T], value: object) -> T:
    faults: list[Fault] = []
    cleaned = _walk(value, kind, "", faults)
    if faults:
        raise ObjectError(kind.__name__, object_name(kind, value), tuple(faults[:_MAX_FAULTS]))
    return msgspec.convert(cleaned, kind)


def _walk(value: object, type_: Any, path: str, faults: list[Fault]) -> object:
    """`value` without its nulls for absent fields; each value that does not fit `type_` is added to `faults`."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in (Union, types.UnionType):
        # Every union here is one type or None.
        return None if value is None else _walk(value, arguments[0], path, faults)
    if origin is list:
        return _walk_list(value, arguments[0], path, faults)
    if origin is dict:
        return _walk_dict(value, arguments[1], path, faults)
    if isinstance(type_, type) and issubclass(type_, KubeStruct):
        return _walk_struct(value, type_, path, faults)
    if isinstance(value, float) and value.is_integer():
        # 80.0 and 8e1 are 80 in the JSON that kubectl sends.
        value = int(value)
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        faults.append(Fault(path, f"expected {_expected(error, type_)}, got {shown(value)}"))
        return None


def _walk_struct(value: object, type_: type[KubeStruct], path: str, faults: list[Fault]) -> object:
    if not isinstance(value, Mapping):
        faults.append(Fault(path, f"expected an object, got {shown(value)}"))
        return None
    cleaned = {}
    for name, field in _field_types(type_).items():
        field_path = f"{path}.{name}" if path else name
        found = value.get(name)
        if found is not None and not (found == "" and _empty_is_absent(field.type)):
            cleaned[name] = _walk(found, field.type, field_path, faults)
        elif field.required:
            faults.append(Fault(field_path, "missing"))
    return cleaned


def _walk_list(value: object, type_: Any, path: str, faults: list[Fault]) -> object:
    if not isinstance(value, list):
        faults.append(Fault(path, f"expected an array, got {shown(value)}"))
        return None
    return [_walk(item, type_, f"{path}[{index}]", faults) for index, item in enumerate(value)]


def _walk_dict(value: object, type_: Any, path: str, faults: list[Fault]) -> object:
    if not isinstance(value, Mapping):
        faults.append(Fault(path, f"expected an object, got {shown(value)}"))
        return None
    cleaned = {}
    for key, item in value.items():
        if isinstance(key, str):
            cleaned[key] = _walk(item, type_, f"{path}[{shown(key)}]", faults)
        else:
            faults.append(Fault(path, f"expected str as a key, got {shown(key)}"))
    return cleaned


@cache
def _empty_is_absent(type_: Any) -> bool:
    return any(isinstance(meta, Meta) and meta.extra == EMPTY_IS_ABSENT for meta in get_args(type_))


@cache
def _field_types(type_: type[KubeStruct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(type_)}


def _expected(error: msgspec.ValidationError, type_: Any) -> str:
    """What msgspec expected of a single value, or the type's own description when only a bound was missed."""
    wrong_type = re.match(r"Expected `(\w+)`, got ", str(error))
    if wrong_type:
        return wrong_type[1]
    metas = (meta for meta in get_args(type_) if get_origin(type_) is Annotated and isinstance(meta, Meta))
    return next((meta.description for meta in metas if meta.description), getattr(type_, "__name__", "another value"))
