"""Several sequences side by side in one context: replies drawn, texts scored, activations read, together.

In:  a SteeredLlama with room for them (`n_seq_max`); for each lane its prompt, then tokens.
Out: logits of the rows fed; where asked for, the residual stream of every row. The plan acts on each lane
     as it would on a context of its own.

What the prompts have in common is computed once. The lanes own the context while they last: it is empty
before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import llama_cpp.llama_cpp as llama_h
import numpy as np
import numpy.typing as npt

from edgesteer.errors import PlanError
from edgesteer.plan import SteeringPlan
from edgesteer.scope import scope_bits

if TYPE_CHECKING:
    from edgesteer.runtime.llama import SteeredLlama

F32 = npt.NDArray[np.float32]

# Rows whose logits llama.cpp must hold at once: with a vocabulary of 262144 each takes 1 MB.
_LOGITS_ROWS = 64


@dataclass
class _Lane:
    prompt_len: int
    tokens: list[int] = field(default_factory=list)
    last_bits: int = 0
    seen: list[F32] = field(default_factory=list)


class _Row(NamedTuple):
    token: int
    position: int
    lane: int
    bits: int
    forced: F32 | None  # [blocks, n_embd]


class Lanes:
    """A group of lanes on an emptied context.

        with Lanes(llm, prompts) as lanes:
            for lane, logits in lanes.feed({0: prompts[0][-1:], 1: prompts[1][-1:]}):
                ...

    prompts: token ids of each, not empty; all but each one's last token is evaluated on entering.
    layers: blocks whose output is kept, for `seen`. since: the first position of which it is, or each lane's.
    doses: float32 [lanes, terms], by which each lane multiplies the strengths of the plan's terms from its prompt's
        last token on; what stands in front of that is shared, and not steered. None: by 1, and everywhere.
    recurring: whether what the prompts leave in the context is kept for the next lanes with the same prompts, unless
        it is steered, or looked at.
    Raises PlanError for more lanes than `llm.n_seq_max`, for more tokens than the context holds, for another
    number of sinces or doses than there are lanes, or for doses of a plan of another scope than response, which
    acts on what is shared (and in control-vector slots knows one strength for all rows).
    """

    def __init__(
        self,
        llm: SteeredLlama,
        prompts: Sequence[Sequence[int]],
        layers: Iterable[int] = (),
        since: int | Sequence[int] = 0,
        doses: F32 | None = None,
        recurring: bool = False,
    ) -> None:
        self._llm, self._session, self.layers = llm, llm._session, tuple(layers)
        if not prompts or not all(len(p) for p in prompts):
            raise PlanError("lanes: no prompt, or an empty one; expected at least one token in each")
        if len(prompts) > llm.n_seq_max:
            raise PlanError(
                f"lanes: {len(prompts)} prompts, expected at most {llm.n_seq_max}; "
                "open the model with a larger n_seq_max"
            )
        self._prompts = [list(p) for p in prompts]
        self._lanes = [_Lane(len(p)) for p in prompts]
        self._since = _each(since, len(prompts))
        if not self.layers:
            self._since = [0] * len(prompts)  # nothing is kept, whatever the sinces
        self._doses = _checked(doses, llm.steering, len(prompts))
        self._recurring = recurring
        # The last block computes no row whose logits nobody wants.
        self._all_wanted = llm._session.n_layer - 1 in self.layers

    def __enter__(self) -> Self:
        self._llm._empty()
        try:
            self._begin()
        except BaseException:
            self._llm._empty()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._llm._empty()

    def seen(self, lane: int) -> F32:
        """float32 [len(layers), tokens, n_embd]: the residual stream after each of `layers`, plan included, at
        the lane's positions from its `since` on."""
        none = np.empty((len(self.layers), 0, self._session.n_embd), dtype=np.float32)
        return np.concatenate([none, *self._lanes[lane].seen], axis=1)

    def feed(
        self,
        parts: Mapping[int, Sequence[int]],
        *,
        forced: Mapping[int, F32] | None = None,
        wanted: bool = True,
    ) -> Iterator[tuple[int, F32]]:
        """Append tokens to lanes; for each row fed, in order, its lane and its logits.

        forced: per lane float32 [len(layers), tokens, n_embd], put in the place of what arrives at each
            block, once that is written down: teacher forcing.
        wanted: False computes no logits and yields nothing.
        The logits, float32 [n_vocab], are valid until the next row is asked for. Nothing is evaluated
        before the first.
        """
        rows = [
            row
            for lane, tokens in parts.items()
            for row in self._rows(lane, list(tokens), None if forced is None else forced[lane])
        ]
        all_wanted = wanted or (self._all_wanted and any(map(self._is_kept, rows)))
        step = min(self._llm.n_batch, _LOGITS_ROWS) if all_wanted else self._llm.n_batch
        for i in range(0, len(rows), step):
            part = rows[i : i + step]
            self._decode(part, all_wanted)
            if wanted:
                shape = (len(part), self._llm.n_vocab())
                logits = np.ctypeslib.as_array(llama_h.llama_get_logits(self._llm.ctx), shape)
                yield from zip((row.lane for row in part), logits, strict=True)

    def run(self, parts: Mapping[int, Sequence[int]], *, forced: Mapping[int, F32] | None = None) -> None:
        """`feed` for what it leaves in the lanes, without logits."""
        for _ in self.feed(parts, forced=forced, wanted=False):
            pass

    def drop(self, lane: int) -> None:
        """Give a lane's part of the context back."""
        llama_h.llama_memory_seq_rm(llama_h.llama_get_memory(self._llm.ctx), lane, -1, -1)

    def _begin(self) -> None:
        """Evaluate the prompts' heads, or take what that left in the context before.

        What was just evaluated is put back too: where its cells lie decides on last bits.
        """
        heads, group = self._llm._heads, tuple(tuple(prompt[:-1]) for prompt in self._prompts)
        if not (self._recurring and self._untouched()):
            self._share_prompts()
            return
        if group not in heads:
            self._share_prompts()
            if not heads.keep(self._llm.ctx, group):
                return
            self._llm._empty()
            self._lanes = [_Lane(len(p)) for p in self._prompts]
        if heads.put(self._llm.ctx, group):
            for i, head in enumerate(group):
                self._rows(i, list(head), None)
        else:
            self._llm._empty()
            self._share_prompts()

    def _untouched(self) -> bool:
        """Whether nothing steers the prompts' heads, and nobody looks at them. Where a template opens the reply early
        (with thoughts), scope `response` begins in the head."""
        plan, turns = self._llm.steering, self._session.turns
        sinces = zip(self._since, self._prompts, strict=True)
        unseen = not self.layers or all(since >= len(p) - 1 for since, p in sinces)
        if self._session.recorders or not unseen:
            return False
        if self._doses is not None or not plan:
            return True
        return not any(plan.applied(scope_bits(p[:-1], len(p), turns)).any() for p in self._prompts)

    def _share_prompts(self) -> None:
        """Evaluate every prompt but its last token; what several begin with and keep as much of, once."""
        heads = [p[:-1] for p in self._prompts]
        common = _common(heads)
        if len(set(self._since)) > 1:
            common = min(common, *self._since)
        if common:
            self.run({0: heads[0][:common]})
            self._copy(0, range(1, len(heads)))
        alike = [(tuple(head), min(since, len(head))) for head, since in zip(heads, self._since, strict=True)]
        first: dict[tuple[tuple[int, ...], int], int] = {}
        for i, key in enumerate(alike):
            first.setdefault(key, i)
        self.run({i: heads[i][common:] for i in first.values() if len(heads[i]) > common})
        for i, key in enumerate(alike):
            if (own := first[key]) != i:
                self._copy(own, [i])

    def _copy(self, source: int, targets: Iterable[int]) -> None:
        memory, lane = llama_h.llama_get_memory(self._llm.ctx), self._lanes[source]
        for i in targets:
            llama_h.llama_memory_seq_rm(memory, i, -1, -1)
            llama_h.llama_memory_seq_cp(memory, source, i, -1, -1)
            self._lanes[i].tokens, self._lanes[i].last_bits = list(lane.tokens), lane.last_bits
            self._lanes[i].seen = list(lane.seen)

    def _rows(self, i: int, tokens: list[int], forced: F32 | None) -> list[_Row]:
        """What follows the tokens that the lane holds."""
        lane, start = self._lanes[i], len(self._lanes[i].tokens)
        end = start + len(tokens)
        if end > self._llm.n_ctx():
            raise PlanError(f"lanes: {end} tokens, expected at most {self._llm.n_ctx()} (n_ctx)")
        if forced is not None and forced.shape != (len(self.layers), len(tokens), self._session.n_embd):
            expected = (len(self.layers), len(tokens), self._session.n_embd)
            raise PlanError(f"lane {i}: activations have shape {forced.shape}, expected {expected}")
        lane.tokens.extend(tokens)
        bits = scope_bits(lane.tokens, lane.prompt_len, self._session.turns, start, lane.last_bits)
        lane.last_bits = int(bits[-1]) if len(bits) else lane.last_bits
        return [
            _Row(token, start + j, i, int(bits[j]), None if forced is None else forced[:, j])
            for j, token in enumerate(tokens)
        ]

    def _decode(self, rows: Sequence[_Row], wanted: bool) -> None:
        self._fill_batch(rows, wanted)
        session, shape = self._session, (len(rows), self._session.n_embd)
        kept = self.layers if any(map(self._is_kept, rows)) else ()
        seen = {n: np.empty(shape, dtype=np.float32) for n in kept}
        session.given = np.array([row.bits for row in rows], dtype=np.uint8)
        session.doses = None if self._doses is None else self._dosed(self._doses, rows)
        session.exchange = (seen, _stacked(self.layers, rows))
        try:
            self._llm._ctx.decode(self._llm._batch)
        finally:
            session.given, session.doses, session.exchange = None, None, ({}, {})
        self._keep(rows, seen)

    def _dosed(self, doses: F32, rows: Sequence[_Row]) -> F32:
        """float32 [terms, rows]."""
        begun = np.array([row.position >= self._lanes[row.lane].prompt_len - 1 for row in rows])
        given: F32 = doses[[row.lane for row in rows]].T
        return np.where(begun, given, np.float32(0))

    def _is_kept(self, row: _Row) -> bool:
        return row.position >= self._since[row.lane]

    def _fill_batch(self, rows: Sequence[_Row], wanted: bool) -> None:
        batch, n = self._llm._batch.batch, len(rows)
        batch.n_tokens = n
        np.ctypeslib.as_array(batch.token, (n,))[:] = [row.token for row in rows]
        np.ctypeslib.as_array(batch.pos, (n,))[:] = [row.position for row in rows]
        np.ctypeslib.as_array(batch.n_seq_id, (n,))[:] = 1
        np.ctypeslib.as_array(batch.logits, (n,))[:] = wanted
        for j, row in enumerate(rows):
            batch.seq_id[j][0] = row.lane

    def _keep(self, rows: Sequence[_Row], seen: Mapping[int, F32]) -> None:
        if not seen:
            return
        lanes = np.array([row.lane if self._is_kept(row) else -1 for row in rows])
        for lane in sorted(set(lanes[lanes >= 0].tolist())):
            self._lanes[lane].seen.append(np.stack([seen[n][lanes == lane] for n in self.layers]))


def _each(since: int | Sequence[int], n: int) -> list[int]:
    each = [since] * n if isinstance(since, int) else list(since)
    if len(each) != n or min(each) < 0:
        raise PlanError(f"lanes: since {each}, expected {n} positions from 0 on")
    return each


def _checked(doses: F32 | None, plan: SteeringPlan, n: int) -> F32 | None:
    if doses is None:
        return None
    doses = np.asarray(doses, dtype=np.float32)  # the tap reads them as such
    if doses.shape != (n, len(plan.terms)):
        raise PlanError(f"lanes: doses of shape {doses.shape}, expected {(n, len(plan.terms))}")
    others = sorted({term.scope for term in plan.terms} - {"response"})
    if others:
        raise PlanError(f"lanes: doses for a bundle of scope {others[0]}, expected scope response")
    return doses


def _stacked(layers: Sequence[int], rows: Sequence[_Row]) -> dict[int, F32]:
    """Block -> float32 [rows, n_embd] to put in place; empty where nothing is forced."""
    forced = [row.forced for row in rows]
    if any(f is None for f in forced):
        return {}
    stream = np.stack(forced, axis=1)  # type: ignore[arg-type]
    return {n: np.ascontiguousarray(stream[i]) for i, n in enumerate(layers)}


def _common(texts: Sequence[list[int]]) -> int:
    """How many tokens all begin with alike."""
    least, most = min(texts), max(texts)
    return next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
