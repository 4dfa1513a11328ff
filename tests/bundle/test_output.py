"""Writing is all or nothing, and nobody's file is lost without being asked for."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from edgesteer.bundle import load, save, save_directory
from edgesteer.errors import OutputError
from tests.bundle.samples import psr, vector

WRITERS = [save, save_directory]


def fails(action: object, path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        action()  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "; expected " in message


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_there_stays_without_force(write: object, tmp_path: Path) -> None:
    path = tmp_path / "a.steer"
    write(vector(), path)  # type: ignore[operator]
    fails(lambda: write(psr(), path), path)  # type: ignore[operator]
    assert load(path) == vector()
    write(psr(), path, force=True)  # type: ignore[operator]
    assert load(path) == psr()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
def test_nothing_remains_of_a_write_that_failed(
    write: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.steer"
    write(vector(), path)  # type: ignore[operator]

    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    fails(lambda: write(psr(), path, force=True), path)  # type: ignore[operator]
    fails(lambda: write(psr(), tmp_path / "new.steer"), tmp_path / "new.steer")  # type: ignore[operator]
    assert load(path) == vector()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
def test_an_interrupted_write_leaves_nothing(
    write: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(psr(), tmp_path / "a.steer")  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_cannot_be_written(write: object, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "a.steer"
    fails(lambda: write(psr(), missing), missing)  # type: ignore[operator]
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "a.steer"
    fails(lambda: write(psr(), inside), inside)  # type: ignore[operator]


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("write", WRITERS)
def test_a_read_only_folder(write: object, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    fails(lambda: write(psr(), folder / "a.steer"), folder / "a.steer")  # type: ignore[operator]
    assert list(folder.iterdir()) == []


def test_a_file_does_not_replace_a_directory(tmp_path: Path) -> None:
    fails(lambda: save(psr(), tmp_path, force=True), tmp_path)


def test_a_directory_replaces_only_a_bundles_directory(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("years of work")
    fails(lambda: save_directory(psr(), folder, force=True), folder)
    assert (folder / "chapter1.tex").read_text() == "years of work"
    fails(lambda: save_directory(psr(), folder / "chapter1.tex", force=True), folder)
    link = tmp_path / "link"
    save_directory(vector(), tmp_path / "real")
    link.symlink_to(tmp_path / "real")
    fails(lambda: save_directory(psr(), link, force=True), link)
    assert load(tmp_path / "real") == vector()


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save(psr(), tmp_path / "a.steer")
    assert (tmp_path / "a.steer").stat().st_mode == (tmp_path / "other").stat().st_mode
