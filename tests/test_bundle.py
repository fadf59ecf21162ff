"""The archive of a support bundle: what was packed comes back, and whatever else a file is, is one line."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen import bundle
from rulegen.bundle import OBJECTS, Part, is_compressed, pack_bundle, read_member
from rulegen.errors import InputError
from rulegen.kube.manifests import load

SERVICE = b"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n"
PARTS = [Part("MANIFEST", b"a list\n"), Part("empty", b""), Part(OBJECTS, SERVICE)]
PACKED = pack_bundle(PARTS)


def test_what_was_packed_comes_back() -> None:
    assert is_compressed(PACKED)
    assert [read_member("it", PACKED, part.name) for part in PARTS] == [part.data for part in PARTS]
    assert pack_bundle(PARTS) == PACKED


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    for name in ("b.tar.gz", "b.yaml", "b"):
        (tmp_path / name).write_bytes(PACKED)
        (service,) = load([str(tmp_path / name)], None).services
        assert service.metadata.name == "web"
    # In a folder only manifests are.
    (problem,) = load([str(tmp_path)], None).problems
    assert "b.yaml" in str(problem)
    with pytest.raises(InputError, match="standard input: a support bundle has to be a file"):
        load(["-"], io.BytesIO(PACKED))


def packed_by_hand(member: tarfile.TarInfo, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(SERVICE), "expected manifests or a support bundle, got a compressed file"),
        (b"\x1f\x8b", "expected manifests or a support bundle"),
        (PACKED[:-100], "expected manifests or a support bundle"),
        (pack_bundle([]), "holds no objects.yaml of a support bundle"),
        (pack_bundle([Part("else", b"x")]), "holds no objects.yaml of a support bundle"),
        (packed_by_hand(tarfile.TarInfo(OBJECTS)), "holds no objects.yaml of a support bundle"),
    ],
    ids=["gzip", "begin", "cut", "empty", "other", "elsewhere"],
)
def test_what_is_none_is_one_line(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_member("it", data, OBJECTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_only_plain_files_count(kind: bytes) -> None:
    member = tarfile.TarInfo(f"rulegen-support-bundle/{OBJECTS}")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(InputError, match="holds no"):
        read_member("it", packed_by_hand(member), OBJECTS)


@pytest.mark.parametrize("name", ["else", OBJECTS])
def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(bundle, "_MOST_BYTES", 8 << 20)
    bomb = pack_bundle([Part(name, bytes(16 << 20)), Part(OBJECTS, SERVICE)])
    assert len(bomb) < 100_000
    with pytest.raises(InputError, match="holds more than 8 MiB"):
        read_member("it", bomb, OBJECTS)


@given(st.integers(0, 2047), st.binary(min_size=1, max_size=12), st.booleans())
def test_damage_is_an_error_of_its_own(at: int, damage: bytes, inside: bool) -> None:
    """In the compressed file, or in the archive inside."""
    data = gzip.decompress(PACKED) if inside else PACKED
    data = data[:at] + damage + data[at + len(damage) :]
    # Where the damage is in a part, that part is what it is.
    with contextlib.suppress(InputError):
        read_member("it", gzip.compress(data, 1) if inside else data, OBJECTS)
