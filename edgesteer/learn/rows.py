"""The training rows of all blocks: written once while the model runs, then read block by block for the fit.

In:  for each block and group of pairs, the residual stream h and its target change delta, both float32
     [rows, n_embd].
Out: all rows of a block.

Memory is bounded. All rows take 8 * blocks * rows * n_embd bytes: up to RAM_BYTES they are held in memory,
beyond that in a temporary file without a name, which vanishes with the process, however it ends. 30 blocks of
width 4096 with 8000 rows take 7.9 GB of disk; reading one block takes 262 MB of memory, and its fit about
three times that again (see `ridge`). The file is read and written, not mapped into memory: mapped pages count
as memory in use, and a full disk would kill the process with a signal.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from edgesteer.errors import LearnError, OutputError

F32 = npt.NDArray[np.float32]

# Rows that take at most this many bytes stay in memory.
RAM_BYTES = 512 << 20


class _Store(Protocol):
    """float32 numbers by index."""

    def write(self, start: int, values: F32) -> None: ...
    def read(self, start: int, count: int) -> F32: ...
    def close(self) -> None: ...


class Rows:
    """The rows of several blocks. Use it in a `with`, or close it. Rows that were never written are zero.

    blocks: the block numbers. n_rows, n_embd: the same in each block.
    """

    def __init__(self, blocks: Sequence[int], n_rows: int, n_embd: int, store: _Store) -> None:
        self.blocks, self.n_rows, self.n_embd = tuple(blocks), n_rows, n_embd
        self._store: _Store | None = store

    @classmethod
    def open(
        cls,
        blocks: Sequence[int],
        n_rows: int,
        n_embd: int,
        directory: Path | None = None,
        ram_bytes: int = RAM_BYTES,
    ) -> Rows:
        """Allocate the rows. directory: where the temporary file goes if they take more than `ram_bytes`.

        Raises LearnError for no blocks or rows, OutputError if the disk has too little room.
        """
        if not blocks or len(set(blocks)) != len(blocks) or n_rows < 1 or n_embd < 1:
            raise LearnError(
                f"training rows: blocks {list(blocks)}, {n_rows} rows of {n_embd}; expected different "
                "blocks, at least one, and a row"
            )
        values = 2 * len(blocks) * n_rows * n_embd
        store = _Memory(values) if 4 * values <= ram_bytes else _Spool(values, directory)
        return cls(blocks, n_rows, n_embd, store)

    @property
    def n_bytes(self) -> int:
        """Size of h and delta together, in memory or on disk."""
        return 8 * len(self.blocks) * self.n_rows * self.n_embd

    @property
    def spooled(self) -> bool:
        """Whether the rows are on disk."""
        return isinstance(self._store, _Spool)

    def put(self, block: int, start: int, h: F32, delta: F32) -> None:
        """Write rows start .. start + len(h) of a block. Raises OutputError for a full disk."""
        fits = h.ndim == 2 and h.shape == delta.shape and h.shape[1] == self.n_embd
        if not fits or not 0 <= start <= start + len(h) <= self.n_rows:
            raise LearnError(
                f"training rows: h {h.shape} and delta {delta.shape} at row {start}, "
                f"expected both [rows, {self.n_embd}] within {self.n_rows} rows"
            )
        store = self._opened()
        store.write(self._place(block, 0) + start * self.n_embd, h)
        store.write(self._place(block, 1) + start * self.n_embd, delta)

    def h(self, block: int) -> F32:
        """The residual stream that the block's steering reads, float32 [n_rows, n_embd], read-only."""
        return self._read(block, 0)

    def delta(self, block: int) -> F32:
        """The change that steering should make, float32 [n_rows, n_embd], read-only."""
        return self._read(block, 1)

    def each(self) -> Iterator[tuple[int, F32, F32]]:
        """Block, h and delta, block after block."""
        for block in self.blocks:
            yield block, self.h(block), self.delta(block)

    def close(self) -> None:
        """Free memory and file; may be called twice."""
        if self._store is not None:
            self._store.close()
        self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, block: int, part: int) -> F32:
        values = self._opened().read(self._place(block, part), self.n_rows * self.n_embd)
        return values.reshape(self.n_rows, self.n_embd)

    def _place(self, block: int, part: int) -> int:
        if block not in self.blocks:
            raise LearnError(f"training rows: no block {block}, expected one of {list(self.blocks)}")
        return (2 * self.blocks.index(block) + part) * self.n_rows * self.n_embd

    def _opened(self) -> _Store:
        if self._store is None:
            raise LearnError("training rows: closed, expected open ones; read them inside their `with`")
        return self._store


class _Memory:
    def __init__(self, n_values: int) -> None:
        self._values: F32 = np.zeros(n_values, dtype=np.float32)

    def write(self, start: int, values: F32) -> None:
        self._values[start : start + values.size] = values.ravel()

    def read(self, start: int, count: int) -> F32:
        view = self._values[start : start + count]
        view.flags.writeable = False
        return view

    def close(self) -> None:
        self._values = np.empty(0, dtype=np.float32)


class _Spool:
    def __init__(self, n_values: int, directory: Path | None) -> None:
        self._where, self._n_bytes = Path(directory or tempfile.gettempdir()), 4 * n_values
        try:
            if shutil.disk_usage(self._where).free < self._n_bytes:
                raise self._refusal("the disk has too little room")
            self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._where, buffering=0))  # noqa: SIM115
            self._file.truncate(self._n_bytes)
        except OSError as error:
            raise error if isinstance(error, OutputError) else self._refusal(error.strerror) from None

    def write(self, start: int, values: F32) -> None:
        left = np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint8).data
        try:
            self._file.seek(4 * start)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._refusal(error.strerror) from None

    def read(self, start: int, count: int) -> F32:
        out = np.empty(count, dtype=np.float32)
        self._file.seek(4 * start)
        left = out.view(np.uint8).data
        while left:
            n = self._file.readinto(left)  # type: ignore[attr-defined]  # a FileIO has it
            if not n:
                raise OutputError(f"{self._where}: the temporary file of the training rows was cut short")
            left = left[n:]
        out.flags.writeable = False
        return out

    def close(self) -> None:
        self._file.close()

    def _refusal(self, reason: str | None) -> OutputError:
        return OutputError(
            f"{self._where}: {reason or 'not writable'}; the training rows take "
            f"{self._n_bytes / 1e9:.3g} GB there; free that much, set TMPDIR to a larger disk, or learn from "
            "fewer questions"
        )
