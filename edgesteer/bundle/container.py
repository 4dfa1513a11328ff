"""Knows how a bundle's members lie on disk: as a directory, or as a ZIP of stored members.

In: a path; out: member name -> bytes, or BundleError. And back, atomically and to the same bytes every time.
What the members mean is not known here, only their names, order and size.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from edgesteer.bundle.refusal import FETCH_AGAIN, refusal
from edgesteer.errors import OutputError

MEMBERS = (
    "manifest.json",
    "directions.gguf",
    "gate.onnx",
    "gate.ort",
    "gate.gguf",
    "card.md",
    "signature.json",
)
"""Every member that may occur, in the order that a ZIP has them."""

MAX_MEMBER_BYTES = 2**30
_DATE = (1980, 1, 1, 0, 0, 0)
_REPACK = "extract it, check it, and save it again with edgesteer"
_LOCAL, _CENTRAL, _END = 30, 46, 22  # sizes of ZIP's fixed headers, without names


def read_directory(path: Path) -> dict[str, bytes]:
    """The members of an extracted bundle.

    Raises:
        BundleError: an entry that is not a member, not a plain file, or over 1 GiB; or it cannot be read.
    """
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        for entry in entries:
            _check_entry(path, entry)
        found = {entry.name: Path(entry.path).read_bytes() for entry in entries}
    except OSError as error:
        raise refusal(str(path), error.strerror or str(error), "a readable directory", FETCH_AGAIN) from None
    return {name: found[name] for name in MEMBERS if name in found}


def _check_entry(path: Path, entry: os.DirEntry[str]) -> None:
    if entry.name not in MEMBERS:
        raise refusal(str(path), f"the extra entry '{entry.name}'", f"only {', '.join(MEMBERS)}", "remove it")
    if not entry.is_file(follow_symlinks=False):
        raise refusal(
            str(path), f"'{entry.name}' that is a link or no file", "plain files", "replace it by a copy"
        )
    _check_size(str(path), entry.name, entry.stat(follow_symlinks=False).st_size)


def _check_size(where: str, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise refusal(where, f"{name} of {size} bytes", f"at most {MAX_MEMBER_BYTES}", "make it smaller")


def read_zip(data: bytes, where: str) -> dict[str, bytes]:
    """The members of a ZIP.

    Raises:
        BundleError: not a ZIP, or one outside the format's rules: see `_check_info` and `_check_layout`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            for info in infos:
                _check_info(where, info, names)
            _check_layout(where, archive, infos, len(data))
            for info in infos:
                _check_local(where, data, info)
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise refusal(where, f"a damaged ZIP ({error})", "a ZIP of stored members") from None


def _check_info(where: str, info: zipfile.ZipInfo, names: list[str]) -> None:
    name = info.orig_filename
    if name not in MEMBERS:
        expected = "only the members of edgesteer/1 at the root, no folders, no '..'"
        raise refusal(where, f"the extra or unsafe member '{name}'", expected, _REPACK)
    if names.count(name) > 1:
        raise refusal(where, f"the duplicate member {name}", "each name once", FETCH_AGAIN)
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise refusal(where, f"{name} that is a link or no file", "plain files", FETCH_AGAIN)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise refusal(where, f"{name} compressed (method {info.compress_type})", "STORED members", _REPACK)
    if info.flag_bits or info.extra or info.comment or info.date_time != _DATE:
        expected = "no flags, extra fields or comments, date 1980-01-01"
        raise refusal(
            where, f"{name} with flags {info.flag_bits}, date {info.date_time[:3]}", expected, _REPACK
        )
    _check_size(where, name, info.file_size)


def _check_layout(where: str, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], size: int) -> None:
    """Members in order, back to back from byte 0, then the index, then nothing: one way to read the file."""
    names = [info.filename for info in infos]
    if names != [name for name in MEMBERS if name in names]:
        raise refusal(
            where, f"members in the order {', '.join(names)}", f"the order {', '.join(MEMBERS)}", _REPACK
        )
    offset = 0
    for info in infos:
        if info.header_offset != offset:
            raise refusal(where, f"{info.filename} at byte {info.header_offset}", f"byte {offset}", _REPACK)
        offset += _LOCAL + len(info.filename) + info.file_size
    end = offset + sum(_CENTRAL + len(name) for name in names) + _END
    if archive.comment or archive.start_dir != offset or end != size:
        raise refusal(
            where, f"{size} bytes", f"{end}, without comment or other data between or after", _REPACK
        )


def _check_local(where: str, data: bytes, info: zipfile.ZipInfo) -> None:
    """The member's own header says what the index says: a reader that follows the one sees what the other does."""
    header = data[info.header_offset : info.header_offset + _LOCAL]
    flags, method, _, _, *sizes, name, extra = struct.unpack("<6xHHHHIIIHH", header)
    agreed = [info.CRC, info.file_size, info.file_size]
    if flags or method or extra or sizes != agreed or name != len(info.filename):
        found = f"a header of {info.filename} that differs from the index"
        raise refusal(where, found, "the same checksum and size in both, nothing else", _REPACK)


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """The ZIP of these members: the same bytes on every platform."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in (name for name in MEMBERS if name in members):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def write_file(path: Path, data: bytes, force: bool) -> None:
    """Write `data` to `path`, all or nothing; an existing file stays unless `force`.

    Raises:
        OutputError: it exists, or it cannot be written; the folder is left as it was.
    """
    if path.is_dir():
        raise OutputError(f"{path}: found a directory; expected a file name; give another name")
    _refuse_existing(path, force)
    _atomically(path, lambda temp: _write_new(temp, data))


def write_directory(path: Path, members: Mapping[str, bytes], force: bool) -> None:
    """Write the members as a directory, all or nothing; with `force` an older bundle there is replaced.

    Raises:
        OutputError: something else is there, or it cannot be written; the folder is left as it was.
    """
    _refuse_existing(path, force)
    if os.path.lexists(path) and not _is_bundle_directory(path):
        raise OutputError(
            f"{path}: found something that is not a bundle's directory; expected one; remove it yourself"
        )

    def fill(temp: Path) -> None:
        temp.mkdir()
        for name in (name for name in MEMBERS if name in members):
            _write_new(temp / name, members[name])

    _atomically(path, fill)


def _refuse_existing(path: Path, force: bool) -> None:
    if os.path.lexists(path) and not force:
        raise OutputError(
            f"{path}: found an existing file; expected none; give another name, or force (--force)"
        )


def _is_bundle_directory(path: Path) -> bool:
    try:
        return not path.is_symlink() and all(entry.name in MEMBERS for entry in path.iterdir())
    except OSError:
        return False


def _write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _atomically(path: Path, create: Callable[[Path], None]) -> None:
    """Create beside `path` under another name, then rename; on any failure nothing of it remains."""
    temp = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        create(temp)
        _move(temp, path)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{path}: found that it cannot be written ({reason}); expected a writable folder with space"
        raise OutputError(f"{message}; choose another place or free some") from None
    finally:
        _remove(temp)


def _move(temp: Path, path: Path) -> None:
    if not path.is_dir():
        temp.replace(path)
        return
    old = temp.with_suffix(".old")  # a directory cannot replace a full one in one step
    path.replace(old)
    try:
        temp.replace(path)
    except BaseException:
        old.replace(path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
