"""What a conversion gives: the bundle, and the figures it was accepted with, for a terminal and for a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgesteer.bundle import Bundle
from edgesteer_converters.model_parity import ModelParity
from edgesteer_converters.parity import Parity

if TYPE_CHECKING:
    from edgesteer_converters.networks.quantize import Quantized


@dataclass(frozen=True, slots=True)
class Converted:
    """A bundle, and what was measured of it; None and empty where nothing was.

    coefficients: Torch against the gate in float32, per block. quantized: the loss of fewer bits. model: the steered
    model in Torch against the runtime.
    """

    bundle: Bundle
    coefficients: Sequence[Parity] = ()
    quantized: Quantized | None = None
    model: ModelParity | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json` and the manifest's `evaluation`."""
        told: dict[str, Any] = {}
        if self.coefficients:
            told["coefficients"] = _summed(self.coefficients)
        if self.quantized is not None:
            told["quantized"] = {"weights": self.quantized.kind, **_summed(self.quantized.loss)}
        if self.model is not None:
            told["model"] = self.model.to_json()
        return {"parity": told} if told else {}

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        if self.coefficients:
            told = _summed(self.coefficients)
            yield (
                f"torch against the gate in fp32: coefficients differ by at most {told['max_abs']:.2g} over "
                f"{told['rows']} tokens and {len(self.coefficients)} blocks (the largest is {told['largest']:.3g})"
            )
        if self.quantized is not None:
            yield str(self.quantized)
        if self.model is not None:
            yield from self.model.lines()


def _summed(found: Sequence[Parity]) -> dict[str, Any]:
    rows = sum(p.n for p in found)
    return {
        "max_abs": float(f"{max(p.max_abs for p in found):.3g}"),
        "mean_abs": float(f"{sum(p.mean_abs * p.n for p in found) / rows:.3g}"),
        "largest": float(f"{max(p.size for p in found):.4g}"),
        "rows": rows,
    }
