"""The cells of a scan: each is one block of a bundle at one strength, and reads replies in its own lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgesteer.bundle import Bundle, gate_weights_gguf, read_gate_gguf
from edgesteer.evaluate.scan.result import F64
from edgesteer.generate import Chat, Tokens
from edgesteer.generate.measures import F32, log_softmax
from edgesteer.generate.progress import Done
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Lanes

Read = Callable[[int, int, F32], float]
"""(cell, row, logits) -> the number that is kept."""


def alone(bundle: Bundle, block: int) -> Bundle:
    """The bundle's part in one block, for a plan. Do not save it: its gate.onnx still has all blocks."""
    members = {} if bundle.gate is None else {"gate.onnx": bundle.gate}
    if bundle.gate_gguf is not None:
        weights = read_gate_gguf(bundle.gate_gguf, bundle.layers, bundle.n_embd)
        members["gate.gguf"] = gate_weights_gguf({block: weights[block]})
    return replace(bundle, layers=(block,), directions={block: bundle.directions[block]}, members=members)


@dataclass(frozen=True)
class Cells:
    """A plan for each lane: first an unsteered cell, to compare with; then the cells; last the `touch`."""

    plans: tuple[SteeringPlan, ...]

    @classmethod
    def of(cls, bundle: Bundle, strengths: F64, sign: int, touches: F64) -> Cells:
        """strengths: float64 [blocks, sizes], NaN in blocks to leave out. touches: float64 [blocks],
        strengths that show rounding alone; the one of the first block with cells is used."""
        known = [(n, row) for n, row in zip(bundle.layers, strengths, strict=True) if np.isfinite(row).all()]
        plan = {n: SteeringPlan.of([(alone(bundle, n), 1.0, "response")]) for n, _ in known}
        cells = [plan[n] * (sign * float(strength)) for n, row in known for strength in row]
        touch = [plan[n] * (sign * float(touches[bundle.layers.index(n)])) for n, _ in known[:1]]
        return cls((SteeringPlan(), *cells, *(touch or [SteeringPlan()])))

    def kl(self, chat: Chat, prompt: Tokens, reply: Tokens, done: Done) -> F64:
        """Sums over the rows of KL(unsteered || steered), float64 [cells + 1]; the last is the touch's."""
        unsteered: dict[int, tuple[F32, float]] = {}

        def read(cell: int, row: int, logits: F32) -> float:
            log_q = log_softmax(logits, np.float64)
            if cell == 0:
                p = np.exp(log_q)
                unsteered[row] = p, float(np.dot(p, log_q))
            p, own = unsteered[row]
            return max(0.0, own - float(np.dot(p, log_q)))

        return np.asarray(self._read(chat, prompt, reply, read, done)[1:].sum(axis=1))

    def log_p(self, chat: Chat, prompt: Tokens, reply: Tokens, done: Done) -> F64:
        """log p of the whole reply, less the unsteered model's: float64 [cells]."""
        values = self._read(
            chat,
            prompt,
            reply,
            lambda _, row, logits: float(log_softmax(logits, np.float64)[reply[row]]),
            done,
        )
        return np.asarray((values[1:-1] - values[0]).sum(axis=1))

    def _read(self, chat: Chat, prompt: Tokens, reply: Tokens, read: Read, done: Done) -> F64:
        """float64 [1 + cells + 1, rows]; NaN in cells that overflow."""
        out = np.full((len(self.plans), len(reply)), np.nan)
        most = _most(chat, prompt, reply) if reply else 1
        for first in range(0, len(out) if reply else 0, most):
            done(first / len(out))
            self._part(chat, prompt, reply, read, range(first, min(first + most, len(out))), out)
        return out

    def _part(self, chat: Chat, prompt: Tokens, reply: Tokens, read: Read, group: range, out: F64) -> None:
        """Read the reply in some of the cells, side by side."""
        row = [0] * len(group)
        plans = self.plans[group.start : group.stop]
        with Lanes(chat.llm, [prompt] * len(group), plans=plans) as lanes:
            tokens = [prompt[-1], *reply[:-1]]
            for lane, logits in lanes.feed(dict.fromkeys(range(len(group)), tokens), lenient=True):
                whole = bool(np.isfinite(logits).all())
                out[group[lane], row[lane]] = read(group[lane], row[lane], logits) if whole else np.nan
                row[lane] += 1


def _most(chat: Chat, prompt: Tokens, reply: Tokens) -> int:
    """How many cells fit side by side: they share the prompt. Raises InputError where not even one does."""
    chat.groups([[*prompt, *reply]], 0)
    return max(1, min(chat.llm.n_seq_max, (chat.llm.n_ctx() - len(prompt)) // len(reply)))
