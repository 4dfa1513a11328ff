"""Every cell of a scan: one block of a bundle at one strength, as a lane that reads a reply that stands already.

In:  a bundle, strengths for each of its blocks; a Chat, a prompt, a reply. Out: of each cell a sum over the reply's
rows: KL to the unsteered cell, or log p beyond it. NaN where steering left float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle, gate_weights_gguf, read_gate_gguf
from edgesteer.errors import SteeringOverflow
from edgesteer.generate.chat import Chat, Tokens
from edgesteer.generate.measures import log_softmax
from edgesteer.generate.progress import Done
from edgesteer.evaluate.scan.found import F64
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Lanes

F32 = npt.NDArray[np.float32]
Read = Callable[[int, int, F32], float]
"""(cell, row, logits) -> what is kept of it."""


def alone(bundle: Bundle, block: int) -> Bundle:
    """The bundle's part in one block, for a plan; not to be written, its gate.onnx still knows all blocks."""
    members = {} if bundle.gate is None else {"gate.onnx": bundle.gate}
    if bundle.gate_gguf is not None:
        weights = read_gate_gguf(bundle.gate_gguf, bundle.layers, bundle.n_embd)
        members["gate.gguf"] = gate_weights_gguf({block: weights[block]})
    return replace(bundle, layers=(block,), directions={block: bundle.directions[block]}, members=members)


@dataclass(frozen=True)
class Cells:
    """plan: each block that can be steered, as a term of strength 1. doses: float32 [1 + cells + 1, terms], an
    unsteered cell first, which the others are held against, and last the `touch`."""

    plan: SteeringPlan
    doses: F32

    @classmethod
    def of(cls, bundle: Bundle, strengths: F64, sign: int, touches: F64) -> Cells:
        """strengths: float64 [blocks, sizes], NaN in blocks to leave out. touches: float64 [blocks], strengths so
        small that only rounding answers; the first that can be is applied, since it is rounded most often."""
        known = [(n, row) for n, row in zip(bundle.layers, strengths, strict=True) if np.isfinite(row).all()]
        plan = SteeringPlan.of([(alone(bundle, n), 1.0, "response") for n, _ in known])
        term = {t.bundle.layers[0]: i for i, t in enumerate(plan.terms)}
        doses = np.zeros((2 + sum(len(row) for _, row in known), len(plan.terms)), dtype=np.float32)
        cells = ((n, strength) for n, row in known for strength in row)
        for i, (n, strength) in enumerate(cells, start=1):
            doses[i, term[n]] = sign * strength
        for n, _ in known[:1]:
            doses[-1, term[n]] = sign * touches[bundle.layers.index(n)]
        return cls(plan, doses)

    def kl(self, chat: Chat, prompt: Tokens, reply: Tokens, done: Done) -> F64:
        """float64 [cells + 1]: the sum over the rows of KL(unsteered || steered); last, of the touch."""
        unsteered: dict[int, tuple[F32, float]] = {}

        def read(cell: int, row: int, logits: F32) -> float:
            log_q = log_softmax(logits)
            if cell == 0:
                p = np.exp(log_q)
                unsteered[row] = p, float(np.dot(p, log_q))
            p, own = unsteered[row]
            return max(0.0, own - float(np.dot(p, log_q)))

        return np.asarray(self._read(chat, prompt, reply, read, done)[1:].sum(axis=1))

    def log_p(self, chat: Chat, prompt: Tokens, reply: Tokens, done: Done) -> F64:
        """float64 [cells]: by how much log p of the whole reply is above the unsteered model's."""
        values = self._read(
            chat, prompt, reply, lambda _, row, logits: float(log_softmax(logits)[reply[row]]), done
        )
        return np.asarray((values[1:-1] - values[0]).sum(axis=1))

    def _read(self, chat: Chat, prompt: Tokens, reply: Tokens, read: Read, done: Done) -> F64:
        """float64 [1 + cells + 1, rows]; NaN in cells that overflow."""
        out = np.full((len(self.doses), len(reply)), np.nan)
        most = _most(chat, prompt, reply) if reply else 1
        for first in range(0, len(out) if reply else 0, most):
            done(first / len(out))
            self._part(chat, prompt, reply, read, range(first, min(first + most, len(out))), out)
        return out

    def _part(self, chat: Chat, prompt: Tokens, reply: Tokens, read: Read, group: range, out: F64) -> None:
        """Some cells side by side; where steering overflows they are halved until the cell is found that does."""
        row = [0] * len(group)
        try:
            with Lanes(chat.llm, [prompt] * len(group), doses=self.doses[group.start : group.stop]) as lanes:
                tokens = [prompt[-1], *reply[:-1]]
                for lane, logits in lanes.feed({i: tokens for i in range(len(group))}):  # noqa: C420 - read only
                    whole = bool(np.isfinite(logits).all())  # the runtime looks at a batch's last row alone
                    out[group[lane], row[lane]] = read(group[lane], row[lane], logits) if whole else np.nan
                    row[lane] += 1
        except SteeringOverflow:
            out[group.start : group.stop] = np.nan
            if len(group) > 1:
                middle = group.start + len(group) // 2
                for half in (range(group.start, middle), range(middle, group.stop)):
                    self._part(chat, prompt, reply, read, half, out)


def _most(chat: Chat, prompt: Tokens, reply: Tokens) -> int:
    """How many cells fit side by side: they share the prompt. Raises InputError where not even one does."""
    chat.groups([[*prompt, *reply]], 0)
    return max(1, min(chat.llm.n_seq_max, (chat.llm.n_ctx() - len(prompt)) // len(reply)))
