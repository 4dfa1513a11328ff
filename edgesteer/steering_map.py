"""The steering map: which token was steered how strongly at which block.

The runtime's recorder builds one; the terminal, notebooks and `--json` read it. Knows no models and bundles.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False, repr=False)
class SteeringMap:
    """Coefficients of the tokens of one sequence, in order; immutable but for `fill`, once, from `empty`.

    `coefficients[t, j]` is what multiplied the direction of block `layers[j]` when token `t` was evaluated:
    strength times gate (PSR, arXiv 2605.03907: alpha * ReLU(w.h + b)), summed over bundles, and 0 where the
    token was out of scope. It is dimensionless, acts on that position's residual stream, and so shapes the
    tokens after `t`. Raises ValueError if lengths disagree or a coefficient is not finite.
    """

    draw: ClassVar[Callable[[SteeringMap], str] | None] = None
    """A map as HTML. `import edgesteer` sets it: what draws lies above this module, loaded on first use."""
    tokens: tuple[int, ...]
    """Token ids [tokens]."""
    pieces: tuple[str, ...]
    """The text of each token [tokens]; '' where a later token completes the character."""
    positions: tuple[int, ...]
    """Position of each token in the sequence [tokens]."""
    n_prompt: int
    """How many of the tokens, from the first, are the prompt."""
    layers: tuple[int, ...]
    """The steered blocks [blocks], 0-based, ascending."""
    coefficients: npt.NDArray[np.float32]
    """float32 [tokens, blocks], read-only."""

    def __post_init__(self) -> None:
        for name in ("tokens", "positions", "layers"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
        object.__setattr__(self, "pieces", tuple(self.pieces))
        self._check_lengths()
        object.__setattr__(self, "coefficients", _frozen(self.coefficients, (len(self), len(self.layers))))

    def _check_lengths(self) -> None:
        n = len(self.tokens)
        if not len(self.pieces) == len(self.positions) == n:
            found = f"{len(self.pieces)} pieces and {len(self.positions)} positions"
            raise ValueError(f"steering map: {found} for {n} tokens; give one of each per token")
        if not 0 <= self.n_prompt <= n:
            raise ValueError(
                f"steering map: n_prompt is {self.n_prompt}; expected 0..{n}, the number of tokens"
            )
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(
                f"steering map: blocks {self.layers} are not ascending; sort them with their columns"
            )

    def __repr__(self) -> str:
        return f"<SteeringMap {len(self)} tokens x {len(self.layers)} blocks>"

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringMap):
            return NotImplemented
        return self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]  # a map that is yet to be filled would change its hash

    def _identity(self) -> tuple[object, ...]:
        header = (self.tokens, self.pieces, self.positions, self.n_prompt, self.layers)
        return (*header, self.coefficients.tobytes())

    @property
    def totals(self) -> npt.NDArray[np.float32]:
        """Sum over the blocks, float32 [tokens], read-only."""
        return _frozen(self.coefficients.sum(axis=1, dtype=np.float64), (len(self),))

    @property
    def reply(self) -> SteeringMap:
        """The map of the tokens after the prompt, as one without a prompt."""
        n = self.n_prompt
        parts = (self.tokens[n:], self.pieces[n:], self.positions[n:])
        return SteeringMap(*parts, 0, self.layers, self.coefficients[n:])

    @classmethod
    def empty(cls) -> SteeringMap:
        """A map of no tokens, for a recorder to hand out now and `fill` when the recording ends."""
        return cls((), (), (), 0, (), np.zeros((0, 0), dtype=np.float32))

    def fill(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        pieces: Sequence[bytes],
        layers: Sequence[int],
        coefficients: npt.NDArray[np.float32],
        n_prompt: int = 0,
    ) -> None:
        """Make an empty map what was recorded; `pieces` are the tokens' bytes. RuntimeError if it holds
        tokens."""
        if len(self):
            raise RuntimeError(f"steering map: already holds {len(self)} tokens; record into a new one")
        recorded = SteeringMap(
            tuple(tokens), tuple(join_pieces(pieces)), tuple(positions), n_prompt, tuple(layers), coefficients
        )
        for field in fields(self):
            object.__setattr__(self, field.name, getattr(recorded, field.name))

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the tokens in colour, the blocks below. None, so plain text, without
        `draw`."""
        return None if SteeringMap.draw is None else SteeringMap.draw(self)

    def to_json(self) -> dict[str, Any]:
        """Lists and numbers that JSON can hold; floats have the fewest digits that give the same float32
        back."""
        return {
            "n_prompt": self.n_prompt,
            "layers": list(self.layers),
            "tokens": list(self.tokens),
            "pieces": list(self.pieces),
            "positions": list(self.positions),
            "coefficients": [[_short(value) for value in row] for row in self.coefficients],
            "totals": [_short(value) for value in self.totals],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SteeringMap:
        """The map that `to_json` described; `totals` follows from the rest and is not read."""
        tokens, pieces, positions, layers = (
            tuple(data[k]) for k in ("tokens", "pieces", "positions", "layers")
        )
        coefficients = np.asarray(data["coefficients"], dtype=np.float32)
        return cls(tokens, pieces, positions, int(data["n_prompt"]), layers, coefficients)


def _frozen(values: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A read-only float32 copy of `shape`, with -0.0 as 0.0 so that equal maps have equal bytes."""
    array = np.array(values, dtype=np.float32)
    if array.size == 0 == np.prod(shape):
        array = array.reshape(shape)
    if array.shape != shape:
        raise ValueError(
            f"steering map: coefficients have shape {array.shape}; expected {shape}, tokens x blocks"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            "steering map: coefficients hold NaN or Inf; expected finite numbers, so record again"
        )
    array += np.float32(0)
    array.flags.writeable = False
    return array


def _short(value: np.float32) -> float:
    return float(str(value))


def join_pieces(pieces: Sequence[bytes]) -> list[str]:
    """Decode tokens' bytes as one UTF-8 stream, a text per token.

    A character split across tokens goes to the token that completes it; the ones before it get ''. Bytes that
    are no UTF-8 become U+FFFD, at the token that shows it; an unfinished end does so at the last token.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(pieces) - 1
    return [decoder.decode(piece, final=i == last) for i, piece in enumerate(pieces)]
