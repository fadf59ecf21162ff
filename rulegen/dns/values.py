"""Text of names and records comes in, dnspython's values of them go out.

Quickly: a cluster has a hundred thousand, and our own text needs no parser that is made for everybody's zone files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dns import name, rdata, rdataclass, rdatatype
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from dns.rdtypes.IN.SRV import SRV
from dns.rrset import RRset


class _WrittenName(name.Name):
    """A name that keeps how it is written, since it is written again and again.

    As dnspython writes it where nothing is compressed: it takes far longer to compress than a server to read more.
    """

    __slots__ = ("_written",)

    _written: bytes

    def __init__(self, labels: Iterable[bytes]) -> None:
        super().__init__(labels)
        # Names cannot be changed, but by those who make them.
        object.__setattr__(self, "_written", super().to_wire())

    def to_wire(
        self, file: Any = None, compress: Any = None, origin: name.Name | None = None, canonicalize: bool = False
    ) -> bytes | None:
        """See `Name`."""
        if file is None or canonicalize:
            return super().to_wire(file, compress, origin, canonicalize)
        file.write(self._written)
        return None


class Values:
    """Remembers names."""

    NONE = rdataclass.NONE

    def __init__(self) -> None:
        self._names: dict[str, name.Name] = {".": name.root, "": name.root}

    def rrset(
        self, owner: str, kind: str, ttl: int, texts: Iterable[str], deleting: rdataclass.RdataClass | None = None
    ) -> RRset:
        """Records with their owner; `deleting`: the class that says so (RFC 2136, 2.5.4)."""
        made = RRset(self._name(owner), rdataclass.IN, rdatatype.from_text(kind), deleting=deleting)
        make = getattr(self, f"_{kind.lower()}", None)
        for text in texts:
            made.add(make(text) if make is not None else self._parsed(kind, text), ttl)
        return made

    def marker(self, owner: str, kind: str, *, is_there: bool) -> RRset:
        """That there are records of this owner and type, or none (RFC 2136, 2.4.1 and 2.4.3)."""
        asked = rdataclass.ANY if is_there else rdataclass.NONE
        return RRset(self._name(owner), rdataclass.IN, rdatatype.from_text(kind), deleting=asked)

    def deletion(self, owner: str, kind: str) -> RRset:
        """That there are to be none (RFC 2136, 2.5.2)."""
        return RRset(self._name(owner), rdataclass.IN, rdatatype.from_text(kind), deleting=rdataclass.ANY)

    def _name(self, text: str) -> name.Name:
        found = self._names.get(text)
        if found is None:
            if "\\" in text:
                return name.from_text(text)
            label, _, rest = text.partition(".")
            found = self._names[text] = _WrittenName((label.encode(), *self._name(rest).labels))
        return found

    def _a(self, text: str) -> rdata.Rdata:
        return A(rdataclass.IN, rdatatype.A, text)

    def _aaaa(self, text: str) -> rdata.Rdata:
        return AAAA(rdataclass.IN, rdatatype.AAAA, text)

    def _cname(self, text: str) -> rdata.Rdata:
        return CNAME(rdataclass.IN, rdatatype.CNAME, self._name(text))

    def _ptr(self, text: str) -> rdata.Rdata:
        return PTR(rdataclass.IN, rdatatype.PTR, self._name(text))

    def _srv(self, text: str) -> rdata.Rdata:
        priority, weight, port, target = text.split(" ")
        return SRV(rdataclass.IN, rdatatype.SRV, int(priority), int(weight), int(port), self._name(target))

    def _parsed(self, kind: str, text: str) -> rdata.Rdata:
        return rdata.from_text(rdataclass.IN, kind, text, relativize=False)
