"""The bundles of a chat and their strengths. A value; what it does to a model is the plan's to say.

A plan forgets what has strength 0. The dial remembers it, so that turning it up again brings it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesteer.bundle import Bundle


@dataclass(frozen=True)
class Dial:
    """(bundle, strength) pairs in the order given; a bundle is known by the file it came from."""

    pairs: tuple[tuple[Bundle, float], ...] = ()

    @classmethod
    def of(cls, pairs: Iterable[tuple[Bundle, float]]) -> Dial:
        """What a command line asked for: a bundle named twice is one, its strengths added up, as in a plan."""
        merged: list[tuple[Bundle, float]] = []
        for bundle, strength in pairs:
            at = next((i for i, (b, _) in enumerate(merged) if _same(b, bundle)), None)
            if at is None:
                merged.append((bundle, strength))
            else:
                merged[at] = (bundle, merged[at][1] + strength)
        return cls(tuple(merged))

    def put(self, bundle: Bundle, strength: float) -> Dial:
        """With `bundle` at `strength`, in place of whatever came from the same file."""
        kept = [(b, s) for b, s in self.pairs if _file(b) != _file(bundle)]
        return Dial((*kept, (bundle, strength)))

    def at(self, strength: float) -> Dial:
        """The same bundles, every strength set to `strength`."""
        return Dial(tuple((bundle, strength) for bundle, _ in self.pairs))


def _file(bundle: Bundle) -> str:
    return os.path.realpath(bundle.source) if bundle.source else f"{bundle.name}\0"


def _same(a: Bundle, b: Bundle) -> bool:
    # A control vector cut to a layer range comes from the same file as the whole, and is another bundle.
    return (_file(a), a.layers, a.scope) == (_file(b), b.layers, b.scope)
