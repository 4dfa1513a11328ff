"""What lies between a producer's file and a bundle: steering in the runtime's own convention.

In:  a reader's findings. Out: an Artifact, which `convert` turns into a bundle. NumPy only.

Whatever the producer counted from, captured at or scaled by has been dealt with once an Artifact exists; what was
done is told in its facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import GateWeights

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """Steering as trained: h' = h + coefficient(h) * directions[N] on the output of block N.

    producer: a name in `readers.PRODUCERS`.
    directions: block N -> float32 [n_embd], N as the runtime counts (0-based, 1 the first that can be steered).
    gate: None for a constant; ReLU layers per block; or, where the network is no chain of ReLU layers, the bytes
        of a gate.onnx whose metadata is not filled in yet.
    scope: what the producer trained for; "all" where it knows no scopes.
    network: the producer's own modules (one per block, or one for all), for comparing with; None where there are
        none but the gate's weights.
    facts: for the manifest's `training`, as `vectors.placing.facts_of` makes them: the producer's block base, site and
        norm, files and their SHA-256, what was dropped and what else there is to know.
    """

    producer: str
    directions: Mapping[int, F32]
    gate: GateWeights | bytes | None = None
    scope: str = "all"
    facts: dict[str, Any] = field(default_factory=dict)
    network: Any = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What a user says about a file that the file itself does not.

    tensor: which of several vectors, by its name in the file. block: where a single vector acts. blocks: (first,
    last), both included: where the rows of a stack act, or which of the blocks in the file to take.
    site: "block_output", or "block_input" for a producer that captured before the block; None: the producer's own.
    """

    tensor: str | None = None
    block: int | None = None
    blocks: tuple[int, int] | None = None
    site: str | None = None


def told(facts: Mapping[str, Any]) -> Iterator[str]:
    """An artifact's facts as lines for a terminal."""
    norm = facts.get("norm")
    lengths = f"; norms {norm['min']:.3g} to {norm['max']:.3g}, {norm['mean']:.3g} on average" if norm else ""
    yield f"{facts.get('producer')}: {facts.get('block_base')}; taken at {facts.get('site')}{lengths}"
    for line in facts.get("dropped", ()):
        yield f"left out: {line}"
    for line in facts.get("notes", ()):
        yield f"note: {line}"
