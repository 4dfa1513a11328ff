"""Numbers as intensity: values -> Scale -> signed levels -> terminal colours or marks.

Positive is warm, negative is blue, which the colour-blind can distinguish too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVELS = 8
_WARM = (52, 88, 124, 160, 166, 172, 208, 214)
_COLD = (17, 18, 19, 25, 26, 32, 38, 45)
_DARK_LEVELS = 5  # white text is readable on these, black text on higher ones
_WHITE, _BLACK = 231, 16
_POSITIVE_MARKS = "▁▂▃▄▅▆▇█"
_NEGATIVE_MARKS = "---===≡≡"

RESET = "\x1b[0m"
DIM = "\x1b[2m"


@dataclass(frozen=True, slots=True)
class Scale:
    """Levels -8..8: 8 from `limit` on, 0 below a hundredth of it."""

    limit: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float32]) -> Scale:
        """Scale to the 95th percentile of the non-zero magnitudes, so that one outlier hides nothing."""
        magnitudes = np.abs(values[values != 0])
        limit = np.quantile(magnitudes, 0.95, method="higher") if magnitudes.size else 0
        return cls(float(limit))

    @classmethod
    def of_numbers(cls, values: Sequence[float]) -> Scale:
        return cls.of(np.array(values, dtype=np.float32))

    def share(self, value: float) -> float:
        """`value` as a share of the limit, -1 to 1."""
        return 0.0 if self.limit == 0 else max(-1.0, min(1.0, value / self.limit))

    def level(self, value: float) -> int:
        """The level of `value`, of its sign."""
        if self.limit == 0 or abs(value) < self.limit / 100:
            return 0
        steps = min(LEVELS, int(np.ceil(abs(value) / self.limit * LEVELS)))
        return steps if value > 0 else -steps


def color(level: int) -> int:
    """256-colour code of a level other than 0."""
    return _WARM[level - 1] if level > 0 else _COLD[-level - 1]


def paint(text: str, level: int, dim: bool = False) -> str:
    """`text` on the level's colour; level 0 keeps the terminal's own colours."""
    if level == 0:
        return f"{DIM}{text}{RESET}" if dim and text else text
    ink = _WHITE if abs(level) <= _DARK_LEVELS else _BLACK
    return f"{DIM if dim else ''}\x1b[38;5;{ink};48;5;{color(level)}m{text}{RESET}"


def mark(level: int) -> str:
    """One character for a level without colour: a rising block, or strokes for negatives."""
    if level == 0:
        return " "
    return _POSITIVE_MARKS[level - 1] if level > 0 else _NEGATIVE_MARKS[-level - 1]


def number(value: float) -> str:
    """`value` in at most seven characters, with a true minus."""
    text = "0" if value == 0 else f"{value:.2f}" if 0.01 <= abs(value) < 1000 else f"{value:.0e}"
    return text.replace("-", "−", 1) if value < 0 else text


def legend(scale: Scale, *, negative: bool, positive: bool, colored: bool) -> str:
    """The scale from end to end; negative, positive: whether to show that side."""
    levels = list(range(1, LEVELS + 1))

    def ramp(signed: list[int]) -> str:
        return "".join(paint(" ", n) if colored else mark(n) for n in signed)

    parts = [number(-scale.limit), ramp([-n for n in reversed(levels)])] if negative else []
    return " ".join([*parts, "0", *([ramp(levels), number(scale.limit)] if positive else [])])


def half_blocks(upper: int, lower: int) -> str:
    """One cell with two levels in colour, one above the other."""
    if upper == lower:
        return paint(" ", upper)
    if upper == 0:
        return f"\x1b[38;5;{color(lower)}m▄{RESET}"
    below = f";48;5;{color(lower)}" if lower else ""
    return f"\x1b[38;5;{color(upper)}{below}m▀{RESET}"
