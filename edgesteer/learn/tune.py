"""From fits to something that can be compared: which blocks stay, and at which strength they are as coherent as the
prompt.

In:  fits, and the yardstick of the run. Out: a Tuned, or the better of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesteer.evaluate.dose import Dose
from edgesteer.generate.progress import Done, portion
from edgesteer.learn.calibrate import Yardstick
from edgesteer.learn.methods import BlockFit
from edgesteer.learn.stages import Chosen, Data, Work, choose


@dataclass(frozen=True, slots=True)
class Tuned:
    """Fits with the strength that they will have, and the curve that it was found on."""

    chosen: Chosen
    dose: Dose

    @property
    def trait(self) -> float:
        """On training questions at the dose's strength, by the smooth curve; nats a token."""
        return self.dose.smoothed.trait


def tuned(
    work: Work, data: Data, yardstick: Yardstick, fits: Mapping[int, BlockFit], done: Done = lambda part: None
) -> Tuned:
    """The blocks of `fits` that stay, at the yardstick's coherence."""
    chosen = choose(work, data, dict(fits), portion(done, 0, 1, 2))
    return _at_coherence(work, yardstick, chosen, portion(done, 1, 1, 2))


def retuned(
    work: Work, yardstick: Yardstick, fits: Mapping[int, BlockFit], left_out: Sequence[int], done: Done
) -> Tuned:
    """Trained fits, at the yardstick's coherence: their blocks were chosen before, and they were trained at strength 1,
    which the search begins around."""
    return _at_coherence(work, yardstick, Chosen(dict(fits), list(left_out), 1.0), done)


def _at_coherence(work: Work, yardstick: Yardstick, chosen: Chosen, done: Done) -> Tuned:
    bundle = work.maker.bundle(chosen.fits)
    return Tuned(chosen, yardstick.dose(work.chat, bundle, chosen.likeliest, done))


def better(closed: Tuned, trained: Tuned) -> Tuned:
    """The one with more of the trait at equal coherence; one that reaches the coherence before one that does not.

    Training lowers its objective and need not gain anything there (docs/log.md), so both are asked.
    """
    return max(trained, closed, key=lambda one: (one.dose.reached, math.isfinite(one.trait), one.trait))


def kept_facts(closed: Tuned, trained: Tuned) -> dict[str, Any]:
    """For the manifest: which of the two was kept, and what each has of the trait; None where steering overflowed."""
    traits = {"closed": closed.trait, "trained": trained.trait}
    return {
        "kept": better(closed, trained) is trained,
        "trait": {name: round(trait, 4) if math.isfinite(trait) else None for name, trait in traits.items()},
    }
