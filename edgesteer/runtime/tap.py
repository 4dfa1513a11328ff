"""The tap's protocol: what SteeredLlama says to an eval callback, whichever language it is in.

In:  a model's size, a plan's operations, and an announcement before every decode.
Out: llama.cpp's residual stream edited in place; a status after every decode.

Two taps fulfil it: `native` (C, answers llama.cpp's per-node asks without entering Python) and
`python_tap` (the same arithmetic, slower), used where the extension was not compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgesteer.errors import SteeringOverflow, TapError

F32 = npt.NDArray[np.float32]


class Gate(Protocol):
    """coefficient = gate(activation, layer). Not shared between contexts: it owns its buffers."""

    @property
    def c_function(self) -> tuple[int, int] | None:
        """Addresses of a C function that fits es_gate_fn and of its `self`; None without one."""

    def coefficient(self, layer: int, activation: F32) -> F32:
        """activation float32 [rows, n_embd] -> float32 [rows]."""

    def error(self) -> str:
        """What the last failed C call said."""


@dataclass(frozen=True)
class TapOperation:
    """h' += strength[term] * coefficient * direction at the output of block `layer`."""

    layer: int
    term: int
    direction: F32
    gate: Gate | None


@dataclass
class Sources:
    """found: uint64 [n_layer], addresses; offset: where a ggml_tensor keeps its second source."""

    found: npt.NDArray[np.uint64]
    offset: int


@dataclass
class Announcement:
    """A batch about to be decoded. All arrays are C-contiguous and stay alive during the decode.

    wants_logits: int8 [rows].  strength: float32 [terms, rows], 0 where not in scope.
    record: float32 [terms, rows, n_layer] to fill with coefficients, or None.
    capture, replace: block -> float32 [rows, n_embd]; filled with h', respectively put in its place.
    sources: to fill with where the second tensor of each l_out-N is, or None.
    """

    wants_logits: npt.NDArray[np.int8]
    strength: F32
    record: F32 | None = None
    capture: Mapping[int, F32] = field(default_factory=dict)
    replace: Mapping[int, F32] = field(default_factory=dict)
    sources: Sources | None = None
    overflowed: npt.NDArray[np.int8] = field(init=False)
    """int8 [rows]: set to 1 where steering would have made a row Inf or NaN, or so large that a later sum
    may. The row stays as it came in, in this block and in those above."""
    prepared: Any = None  # a tap's own form of it, kept so that the same can be announced again for nothing

    def __post_init__(self) -> None:
        self.overflowed = np.zeros(len(self.wants_logits), dtype=np.int8)

    @property
    def rows(self) -> int:
        return len(self.wants_logits)


class Tap(Protocol):
    name: str

    @property
    def callback(self) -> Any:
        """The ctypes function pointer for context_params.cb_eval."""

    @property
    def user_data(self) -> int | None:
        """The pointer for context_params.cb_eval_user_data."""

    def model(self, n_layer: int, n_embd: int) -> None: ...

    def plan(self, operations: Sequence[TapOperation], n_terms: int) -> None:
        """Operations sorted by block, then in the plan's canonical order. Between decodes only."""

    def announce(self, batch: Announcement) -> None: ...

    def finish(self) -> None:
        """Ends an announcement. Raises what the callback latched: TapError or SteeringOverflow."""


def failure(code: int, layer: int, found: int, expected: int, detail: str = "") -> Exception:
    """The exception for a latched status; codes as in native/tap.h."""
    at = f"block {layer}"
    if code == 5:
        return SteeringOverflow(
            f"{at}: steering made the activation Inf or NaN (or nearly so) at row {found}, "
            "expected finite values; what its sequence held was dropped; use a smaller strength"
        )
    text = {
        1: f"{at}: a decode reached the tap without passing through SteeredLlama; "
        "use its methods, or clear the plan",
        2: f"{at}: found {found} rows in l_out, expected {expected}; "
        + (
            "this model's graph names no such tensor"
            if found == 0
            else "their order is not known to edgesteer"
        ),
        3: f"{at}: found {found} values in l_out, expected {expected} contiguous F32; it cannot be steered",
        4: f"{at}: the gate failed: {detail}",
        6: "out of memory for the tap's staging buffers; use a smaller n_batch",
    }
    return TapError(text.get(code, f"{at}: unknown status {code} of the tap"))
