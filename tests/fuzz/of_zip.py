"""Mutations of a ZIP by its structure: local headers, central directory, end record, and the names in them.

In: the members; out: bytes of an archive that is valid but for one to three fields, or that another writer
would have made.
"""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from random import Random

from tests.fuzz import raw

LOCAL = [
    ("signature", "I"), ("need", "H"), ("flags", "H"), ("method", "H"), ("time", "H"), ("date", "H"), ("crc", "I"),
    ("packed", "I"), ("size", "I"), ("n_name", "H"), ("n_extra", "H"),
]  # fmt: skip
CENTRAL = [
    ("signature", "I"), ("made", "H"), ("need", "H"), ("flags", "H"), ("method", "H"), ("time", "H"), ("date", "H"),
    ("crc", "I"), ("packed", "I"), ("size", "I"), ("n_name", "H"), ("n_extra", "H"), ("n_comment", "H"), ("disk", "H"),
    ("internal", "H"), ("external", "I"), ("offset", "I"),
]  # fmt: skip
END = [
    ("signature", "I"), ("disk", "H"), ("start_disk", "H"), ("here", "H"), ("total", "H"), ("size", "I"),
    ("offset", "I"), ("n_comment", "H"),
]  # fmt: skip
_NAMES = (
    b"../manifest.json",
    b"/card.md",
    b"card.md\0",
    b"CARD.MD",
    b"sub/",
    b"",
    b"gate.ort",
    b"\xff\xfe",
    b"a" * 300,
)
_EXTRAS = (
    b"\xfe\xca\0\0", b"\x01\0\x08\0" + bytes(8), b"\x01\0\x1c\0" + b"\xff" * 28, b"\x75\x70\x0c\0\x01" + bytes(4) + b"card.md",
    b"\x01\0\xff\xff", b"\x01",
)  # fmt: skip

Fields = dict[str, int]


def _record(fields: list[tuple[str, str]], values: Fields) -> bytes:
    return b"".join(
        struct.pack("<" + form, values[name] % 2 ** (8 * struct.calcsize(form))) for name, form in fields
    )


class Archive:
    """Every field of an archive of stored members, still to be written."""

    def __init__(self, members: dict[str, bytes]) -> None:
        self.names = [name.encode() for name in members]
        self.bodies = list(members.values())
        self.local = [self._fields(body, name) for name, body in members.items()]
        self.central = [dict(fields) for fields in self.local]
        self.extras, self.central_extras = [b""] * len(members), [b""] * len(members)
        self.central_names = list(self.names)
        self.comments = [b""] * len(members)
        self.descriptors = [b""] * len(members)
        self.gap, self.before_end = b"", b""
        self.end: Fields = {"signature": 0x06054B50, "disk": 0, "start_disk": 0, "n_comment": 0}
        self.comment = b""
        self.lies: list[tuple[Fields, str, int]] = []

    @staticmethod
    def _fields(body: bytes, name: str) -> Fields:
        return {
            "signature": 0x04034B50, "made": 0x0314, "need": 20, "flags": 0, "method": 0, "time": 0, "date": 0x21,
            "crc": zlib.crc32(body), "packed": len(body), "size": len(body), "n_name": len(name), "n_extra": 0,
            "n_comment": 0, "disk": 0, "internal": 0, "external": 0o100644 << 16,
        }  # fmt: skip

    def bytes(self) -> bytes:
        out, index = b"", b""
        for i, body in enumerate(self.bodies):
            central = {**self.central[i], "signature": 0x02014B50, "offset": len(out)}
            for fields, lengths in (
                (self.local[i], (self.names, self.extras)),
                (central, (self.central_names, self.central_extras)),
            ):
                fields |= {"n_name": len(lengths[0][i]), "n_extra": len(lengths[1][i])}
            central["n_comment"] = len(self.comments[i])
            self._lie(self.local[i], self.local[i])
            self._lie(self.central[i], central)
            out += _record(LOCAL, self.local[i]) + self.names[i] + self.extras[i] + body + self.descriptors[i]
            index += (
                _record(CENTRAL, central) + self.central_names[i] + self.central_extras[i] + self.comments[i]
            )
        count = len(self.bodies)
        end = {
            **self.end,
            "here": count,
            "total": count,
            "size": len(index),
            "offset": len(out) + len(self.gap),
        }
        end["n_comment"] = len(self.comment)
        self._lie(self.end, end)
        return out + self.gap + index + self.before_end + _record(END, end) + self.comment

    def _lie(self, of: Fields, fields: Fields) -> None:
        for target, name, value in self.lies:
            if target is of and name in fields:
                fields[name] = value


def mutate(members: dict[str, bytes], rng: Random) -> bytes:
    if rng.random() < 0.15:
        return _foreign(members, rng)
    archive = Archive(members)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_WAYS)(archive, rng)
    return archive.bytes()


def _lie_somewhere(archive: Archive, rng: Random) -> None:
    place, fields = rng.choice(((archive.local, LOCAL), (archive.central, CENTRAL), ([archive.end], END)))
    target, (name, _) = rng.choice(place), rng.choice(fields)
    archive.lies.append((target, name, raw.number(rng, target.get(name, 0))))


def _lie_twice(archive: Archive, rng: Random) -> None:
    """The same lie in the local header and in the index: they agree with each other."""
    i, (name, _) = rng.randrange(len(archive.bodies)), rng.choice(LOCAL)
    value = raw.number(rng, archive.local[i].get(name, 0))
    archive.lies += [(archive.local[i], name, value), (archive.central[i], name, value)]


def _extra(archive: Archive, rng: Random) -> None:
    i = rng.randrange(len(archive.bodies))
    rng.choice((archive.extras, archive.central_extras, archive.comments))[i] = rng.choice(_EXTRAS)


def _hide(archive: Archive, rng: Random) -> None:
    """Bytes that only one of two readers sees: the body shifted by an extra field that the index denies."""
    i = rng.randrange(len(archive.bodies))
    shift = rng.choice((1, 4, 8))
    true = archive.bodies[i]
    archive.lies.append((archive.local[i], "n_extra", shift))
    archive.bodies[i] = rng.choice((bytes(shift) + true[:-shift], bytes(shift) + true, true))
    if rng.random() < 0.5:
        archive.central[i]["crc"] = zlib.crc32(true)


def _name(archive: Archive, rng: Random) -> None:
    i, name = rng.randrange(len(archive.names)), rng.choice((*_NAMES, rng.choice(archive.names)))
    for names in rng.choice(
        ((archive.names,), (archive.central_names,), (archive.names, archive.central_names))
    ):
        names[i] = name


def _repeat(archive: Archive, rng: Random) -> None:
    i, times = rng.randrange(len(archive.bodies)), rng.choice((1, 1, 2, 500))
    for items in (
        archive.names, archive.central_names, archive.bodies, archive.extras, archive.central_extras, archive.comments,
        archive.descriptors,
    ):  # fmt: skip
        items += [items[i]] * times  # type: ignore[list-item]
    for fields in (archive.local, archive.central):
        fields += [dict(fields[i]) for _ in range(times)]


def _swap(archive: Archive, rng: Random) -> None:
    i, j = rng.randrange(len(archive.bodies)), rng.randrange(len(archive.bodies))
    for items in (archive.names, archive.central_names, archive.bodies, archive.local, archive.central):
        items[i], items[j] = items[j], items[i]  # type: ignore[index]


def _descriptor(archive: Archive, rng: Random) -> None:
    """As a writer that streams leaves it: the sizes behind the member, with or without a signature."""
    i = rng.randrange(len(archive.bodies))
    entry = archive.local[i]
    sizes = struct.pack("<III", entry["crc"], entry["packed"], entry["size"])
    archive.descriptors[i] = rng.choice((b"PK\x07\x08" + sizes, sizes))
    if rng.random() < 0.7:
        archive.lies += [(fields[i], "flags", 8) for fields in (archive.local, archive.central)]
        archive.lies += [(entry, name, 0) for name in rng.choice(((), ("crc", "packed", "size")))]


def _zip64(archive: Archive, rng: Random) -> None:
    """ZIP64's end record and its locator, true or not, in front of an end record that points there or not."""
    count, at = len(archive.bodies), rng.choice((0, 10**6))
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, at, at)
    locator = struct.pack("<IIQI", 0x07064B50, 0, at, 1)
    archive.before_end = rng.choice((record + locator, record, locator))
    if rng.random() < 0.5:
        archive.lies += [(archive.end, name, 2**32 - 1) for name in ("here", "total", "size", "offset")]


def _around(archive: Archive, rng: Random) -> None:
    filler = rng.choice(
        (b"x", bytes(100), b"PK\x05\x06" + bytes(18), b"PK\x06\x06" + bytes(52), b"PK\x06\x07" + bytes(16))
    )
    if rng.random() < 0.5:
        archive.gap = filler
    else:
        archive.comment = filler


def _foreign(members: dict[str, bytes], rng: Random) -> bytes:
    """What Python's own writer makes with other settings: compressed, with ZIP64 fields, streamed."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # a duplicate name is the point
        method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        for name, body in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = method if rng.random() < 0.7 else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=rng.random() < 0.2) as file:
                file.write(body if rng.random() < 0.9 else bytes(2**20))
    return buffer.getvalue()


_WAYS = (
    _lie_somewhere,
    _lie_somewhere,
    _lie_somewhere,
    _lie_twice,
    _extra,
    _hide,
    _name,
    _repeat,
    _swap,
    _around,
    _descriptor,
    _zip64,
)
