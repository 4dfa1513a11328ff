"""A bundle's ZIP: the same bytes every time, and read only where every field of every record tells the
truth."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesteer.bundle import load
from edgesteer.bundle.container import MEMBERS, zip_bytes
from edgesteer.errors import BundleError
from tests.bundle.samples import foreign_zip, in_order, psr, refused_file, saved, vector, write_members
from tests.fuzz import of_zip

WHOLE = zip_bytes(vector().members)
RECORDS = {"local": of_zip.LOCAL, "central": of_zip.CENTRAL, "end": of_zip.END}
SIGNATURES = {"local": b"PK\3\4", "central": b"PK\1\2", "end": b"PK\5\6"}

FREE = {
    ("central", "made"): "which program wrote the archive, on which system",
    ("central", "internal"): "whether the program took the member for text",
}
"""Fields that change nothing for a reader of bundles."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bad.steer"


def records(data: bytes) -> list[tuple[str, int]]:
    """(kind, offset) of every record of an archive that was written by `zip_bytes`, in order."""
    found = []
    for kind, signature in SIGNATURES.items():
        at = data.find(signature)
        while at >= 0:
            found.append((kind, at))
            at = data.find(signature, at + 4)
    return found


def place(kind: str, field: str) -> tuple[int, str]:
    """Offset in the record, and struct's code."""
    at = 0
    for name, code in RECORDS[kind]:
        if name == field:
            return at, "<" + code
        at += struct.calcsize("<" + code)
    raise KeyError(field)


def patched(data: bytes, at: int, kind: str, field: str, value: int) -> bytes:
    offset, code = place(kind, field)
    out = bytearray(data)
    struct.pack_into(code, out, at + offset, value)
    return bytes(out)


def value_of(data: bytes, at: int, kind: str, field: str) -> int:
    offset, code = place(kind, field)
    return int(struct.unpack_from(code, data, at + offset)[0])


def lies(true: int, code: str) -> Iterator[int]:
    """Other values of a field: the ends of its range, the neighbours, single bits."""
    top = 2 ** (8 * struct.calcsize(code)) - 1
    values = {0, 1, 8, 10, 45, top, top - 1, top // 2 + 1, true + 1, true - 1, true ^ 0x10, true ^ 0x800}
    yield from sorted(value for value in values if 0 <= value <= top and value != true)


def a_plain_file(attributes: int) -> bool:
    """For Unix, or without a type there; and for DOS neither a directory nor a label."""
    return stat.S_IFMT(attributes >> 16) in (0, stat.S_IFREG) and not attributes & 0x18


def reads_alike(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert load(path).members == vector().members


# --- every field of every record, contradicted


@pytest.mark.parametrize(("kind", "field"), [(kind, name) for kind in RECORDS for name, _ in RECORDS[kind]])
def test_a_field_that_says_anything_else(path: Path, kind: str, field: str) -> None:
    for at in (at for found, at in records(WHOLE) if found == kind):
        for value in lies(value_of(WHOLE, at, kind, field), place(kind, field)[1]):
            data = patched(WHOLE, at, kind, field, value)
            if (kind, field) in FREE or ((kind, field) == ("central", "external") and a_plain_file(value)):
                reads_alike(path, data)
            else:
                path.write_bytes(data)
                refused_file(path)


@pytest.mark.parametrize("field", [name for name, _ in of_zip.LOCAL])
def test_a_field_that_says_anything_else_in_header_and_index_alike(path: Path, field: str) -> None:
    (_, header), (_, entry) = (
        next(r for r in records(WHOLE) if r[0] == kind) for kind in ("local", "central")
    )
    for value in lies(value_of(WHOLE, header, "local", field), place("local", field)[1]):
        data = patched(WHOLE, header, "local", field, value)
        data = patched(data, entry, "central", field, value)
        if field == "need" and value <= 20:
            reads_alike(path, data)  # a version of ZIP that has all that is used here
        else:
            path.write_bytes(data)
            refused_file(path)


@pytest.mark.parametrize("mode", [0o100600, 0o100777, 0o000644, 0])
def test_permissions_mean_nothing(path: Path, mode: int) -> None:
    foreign_zip(path, in_order(dict(vector().members)), create_system=3, external_attr=mode << 16)
    assert load(path).members == vector().members


@pytest.mark.parametrize(
    "attributes",
    [(stat.S_IFLNK | 0o777) << 16, (stat.S_IFDIR | 0o755) << 16, (stat.S_IFIFO | 0o644) << 16, 0x10, 0x08],
)
def test_a_link_a_folder_a_pipe(path: Path, attributes: int) -> None:
    foreign_zip(path, in_order(dict(vector().members)), create_system=3, external_attr=attributes)
    refused_file(path, "link")


# --- what other writers add


def with_parts(**parts: Any) -> bytes:
    """An archive with lists of bytes put in for each member, or bytes for the whole."""
    archive = of_zip.Archive(dict(vector().members))
    for name, value in parts.items():
        setattr(
            archive,
            name,
            [value] * len(archive.bodies) if isinstance(getattr(archive, name), list) else value,
        )
    return archive.bytes()


def descriptors(signature: bytes, sizes_in_header: bool) -> bytes:
    archive = of_zip.Archive(dict(vector().members))
    archive.descriptors = [
        signature + struct.pack("<III", zlib.crc32(body), len(body), len(body)) for body in archive.bodies
    ]
    for fields in (*archive.local, *archive.central):
        archive.lies.append((fields, "flags", 8))
    if not sizes_in_header:
        archive.lies += [(fields, name, 0) for fields in archive.local for name in ("crc", "packed", "size")]
    return archive.bytes()


def zip64(*, record: bool, locator: bool, pointing: bool) -> bytes:
    archive = of_zip.Archive(dict(vector().members))
    count = len(archive.bodies)
    index = sum(46 + len(name) for name in archive.names)
    start = sum(30 + len(name) + len(body) for name, body in zip(archive.names, archive.bodies, strict=True))
    if record:
        archive.before_end += struct.pack(
            "<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, index, start
        )
    if locator:
        archive.before_end += struct.pack("<IIQI", 0x07064B50, 0, start + index, 1)
    if pointing:
        archive.lies += [(archive.end, name, 2**16 - 1) for name in ("here", "total")]
        archive.lies += [(archive.end, name, 2**32 - 1) for name in ("size", "offset")]
    return archive.bytes()


class Pipe(io.BytesIO):
    """What cannot go back, so that sizes stand behind the members."""

    def seek(self, *_: Any) -> int:
        raise OSError


def by_python(**options: Any) -> bytes:
    """As Python's own writer does it: with ZIP64's extra fields, or streamed."""
    buffer = Pipe() if options.pop("streamed", False) else io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in in_order(dict(vector().members)):
            with archive.open(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), "w", **options) as file:
                file.write(data)
    return buffer.getvalue()


VARIANTS: dict[str, Callable[[], bytes]] = {
    "a comment of the archive": lambda: with_parts(comment=b"hello"),
    "a comment that ends like an archive": lambda: with_parts(comment=WHOLE[-22:]),
    "comments of the members": lambda: with_parts(comments=b"hello"),
    "extra fields in the headers": lambda: with_parts(extras=b"\xfe\xca\0\0"),
    "extra fields in the index": lambda: with_parts(central_extras=b"\xfe\xca\0\0"),
    "extra fields in both": lambda: with_parts(extras=b"\xfe\xca\0\0", central_extras=b"\xfe\xca\0\0"),
    "ZIP64 fields in both": lambda: with_parts(
        extras=b"\1\0\x10\0" + bytes(16), central_extras=b"\1\0\x10\0" + bytes(16)
    ),
    "descriptors": lambda: descriptors(b"PK\7\10", sizes_in_header=False),
    "descriptors beside sizes": lambda: descriptors(b"PK\7\10", sizes_in_header=True),
    "descriptors without a signature": lambda: descriptors(b"", sizes_in_header=False),
    "ZIP64's end": lambda: zip64(record=True, locator=True, pointing=True),
    "ZIP64's end that is not needed": lambda: zip64(record=True, locator=True, pointing=False),
    "ZIP64's record without its locator": lambda: zip64(record=True, locator=False, pointing=True),
    "ZIP64's locator without its record": lambda: zip64(record=False, locator=True, pointing=False),
    "ZIP64 by Python": lambda: by_python(force_zip64=True),
    "streamed by Python": lambda: by_python(streamed=True),
    "data in front": lambda: b"PK" + WHOLE,
    "data before the index": lambda: with_parts(gap=b"x"),
    "data after the end": lambda: WHOLE + b"more",
    "data before the end": lambda: with_parts(before_end=b"x"),
    "two archives, one after the other": lambda: WHOLE + WHOLE,
    "no members": lambda: zip_bytes({}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_the_format_does_not_have(path: Path, variant: str) -> None:
    path.write_bytes(VARIANTS[variant]())
    refused_file(path)


def test_the_archives_of_these_tests_are_sound_but_for_what_they_vary(path: Path) -> None:
    reads_alike(path, of_zip.Archive(dict(vector().members)).bytes())
    assert foreign_zip(path, in_order(dict(vector().members)), create_system=3).read_bytes()
    assert load(path).members == vector().members


def test_pythons_reader_takes_what_we_write(path: Path) -> None:
    with zipfile.ZipFile(saved(psr(), path)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [name for name in MEMBERS if name in psr().members]
        assert {info.external_attr >> 16 for info in archive.infolist()} == {stat.S_IFREG | 0o644}
        assert all(archive.read(name) == data for name, data in psr().members.items())


# --- members


def test_every_truncation(path: Path) -> None:
    for size in range(0, len(WHOLE), 37):
        path.write_bytes(WHOLE[:size])
        refused_file(path)


@pytest.mark.parametrize(
    "name", ["../manifest.json", "/manifest.json", "sub/manifest.json", "C:\\x", "a\0b", "", "\xe9"]
)
def test_an_unsafe_name(path: Path, name: str) -> None:
    foreign_zip(path, [(name.replace("\0", "?"), b"{}"), *in_order(dict(vector().members))])
    if "\0" in name:
        path.write_bytes(path.read_bytes().replace(b"a?b", b"a\0b"))
    refused_file(path, "unsafe member")


def test_an_extra_member(path: Path) -> None:
    foreign_zip(path, [*in_order(dict(vector().members)), ("run.py", b"")])
    refused_file(path, "run.py")


def test_a_duplicate_member(path: Path) -> None:
    members = in_order(dict(vector().members))
    with pytest.warns(UserWarning, match="Duplicate"):
        foreign_zip(path, [*members, members[0]])
    refused_file(path, "duplicate", "manifest.json")


def test_a_missing_member(path: Path) -> None:
    for name in ("manifest.json", "directions.gguf", "card.md"):
        members = dict(vector().members)
        del members[name]
        refused_file(write_members(path, members), f"no {name}")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression(path: Path, method: int) -> None:
    foreign_zip(path, in_order(dict(vector().members)), compress_type=method)
    refused_file(path, "compressed")


def test_another_date(path: Path) -> None:
    foreign_zip(path, in_order(dict(vector().members)), date_time=(2020, 2, 2, 0, 0, 0))
    refused_file(path, "manifest.json", "1980-01-01")


def test_another_order(path: Path) -> None:
    foreign_zip(path, in_order(dict(vector().members))[::-1])
    refused_file(path, "order")


def test_a_member_that_claims_over_one_gibibyte(path: Path) -> None:
    data = WHOLE
    for field in ("packed", "size"):
        for kind in ("local", "central"):
            at = next(at for found, at in records(data) if found == kind)
            data = patched(data, at, kind, field, 2**30 + 1)
    path.write_bytes(data)
    refused_file(path, "at most 1073741824")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_one_flipped_byte_is_refused_or_harmless(path: Path, at: float, byte: int) -> None:
    """Never another exception; and where it is accepted, the members are those that were written."""
    whole = bytearray(WHOLE)
    whole[int(at * len(whole))] = byte
    path.write_bytes(whole)
    try:
        read = load(path)
    except BundleError as error:
        assert "\n" not in str(error)
    else:
        assert read.members == vector().members
