"""Rows come back as they were put, from memory as from disk, and leave nothing behind."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgesteer.errors import LearnError, OutputError
from edgesteer.learn.rows import RAM_BYTES, Rows

BLOCKS, N, D = (3, 1, 7), 11, 5


@pytest.fixture(params=["memory", "disk"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rows]:
    with Rows.open(BLOCKS, N, D, tmp_path, 0 if request.param == "disk" else RAM_BYTES) as opened:
        assert opened.spooled == (request.param == "disk")
        yield opened


def drawn(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def test_what_was_put_in_pieces_comes_back_bit_for_bit(rows: Rows) -> None:
    for block in BLOCKS:
        h, delta = drawn(block), drawn(block + 100)
        for start, end in ((4, N), (0, 4)):
            rows.put(block, start, h[start:end], delta[start:end])
    for block, h, delta in rows.each():
        assert (h.tobytes(), delta.tobytes()) == (drawn(block).tobytes(), drawn(block + 100).tobytes())
        assert h.dtype == delta.dtype == np.float32


def test_rows_in_any_layout_are_written_as_they_read(rows: Rows) -> None:
    wide = np.asfortranarray(drawn(0))
    rows.put(1, 0, wide, wide[:, ::-1])
    np.testing.assert_array_equal(rows.h(1), wide)
    np.testing.assert_array_equal(rows.delta(1), wide[:, ::-1])


def test_rows_never_put_are_zero(rows: Rows) -> None:
    rows.put(1, 2, drawn(0, 1), drawn(1, 1))
    rows.put(7, N, drawn(0, 0), drawn(0, 0))  # none at all
    assert not rows.h(1)[3:].any()
    assert not rows.delta(7).any()
    assert rows.n_bytes == 8 * len(BLOCKS) * N * D


def test_rows_that_are_read_cannot_be_changed_by_mistake(rows: Rows) -> None:
    with pytest.raises(ValueError, match="read-only"):
        rows.h(1)[0, 0] = 1
    rows.put(1, 0, drawn(0), drawn(0))  # and can still be put


@pytest.mark.parametrize(
    ("block", "start", "shape"),
    [(1, 0, (2, D + 1)), (1, N, (1, D)), (1, -1, (1, D)), (1, 0, (D,)), (1, 0, (N + 1, D)), (2, 0, (1, D))],
)
def test_rows_outside_are_refused(rows: Rows, block: int, start: int, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, dtype=np.float32)
    with pytest.raises(LearnError, match="expected"):
        rows.put(block, start, values, values)


def test_h_and_delta_must_be_alike(rows: Rows) -> None:
    with pytest.raises(LearnError, match="expected"):
        rows.put(1, 0, drawn(0), drawn(0)[:-1])


def test_closed_rows_say_so_and_leave_no_file(rows: Rows, tmp_path: Path) -> None:
    rows.put(1, 0, drawn(0), drawn(1))
    assert not list(tmp_path.iterdir())  # without a name: gone whatever ends the process
    rows.close()
    rows.close()
    with pytest.raises(LearnError, match="closed"):
        rows.h(1)
    with pytest.raises(LearnError, match="closed"):
        rows.put(1, 0, drawn(0), drawn(1))


def test_an_exception_closes_them() -> None:
    with pytest.raises(KeyboardInterrupt), Rows.open(BLOCKS, N, D) as opened:
        raise KeyboardInterrupt
    with pytest.raises(LearnError, match="closed"):
        opened.h(1)


@pytest.mark.parametrize(("blocks", "n", "d"), [((), 1, 1), ((1, 1), 1, 1), ((1,), 0, 1), ((1,), 1, 0)])
def test_nothing_to_hold_is_refused(blocks: tuple[int, ...], n: int, d: int) -> None:
    with pytest.raises(LearnError, match="expected different blocks"):
        Rows.open(blocks, n, d)


def test_a_disk_without_room_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(OutputError, match=r"too little room.* 7\.86 GB"):
        Rows.open(range(30), 8000, 4096, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full:
        def seek(self, _: int) -> None: ...
        def close(self) -> None: ...
        def truncate(self, _: int) -> None: ...
        def write(self, _: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with (
        Rows.open(BLOCKS, N, D, tmp_path, 0) as opened,
        pytest.raises(OutputError, match=r"No space left.*free that much"),
    ):
        opened.put(1, 0, drawn(0), drawn(0))


def test_a_disk_that_takes_little_at_a_time_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file may write and read less than it is asked to."""
    real = tempfile.TemporaryFile

    class Slow:
        def __init__(self, **options: object) -> None:
            self.file = real(**options)  # type: ignore[call-overload]
            self.seek, self.truncate, self.close = self.file.seek, self.file.truncate, self.file.close

        def write(self, data: memoryview) -> int:
            return self.file.write(data[:7])

        def readinto(self, into: memoryview) -> int:
            return self.file.readinto(into[:5])

    monkeypatch.setattr(tempfile, "TemporaryFile", Slow)
    with Rows.open(BLOCKS, N, D, tmp_path, 0) as opened:
        opened.put(7, 0, drawn(0), drawn(1))
        assert (opened.h(7).tobytes(), opened.delta(7).tobytes()) == (drawn(0).tobytes(), drawn(1).tobytes())


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="TMPDIR"):
        Rows.open(BLOCKS, N, D, tmp_path / "missing", 0)
