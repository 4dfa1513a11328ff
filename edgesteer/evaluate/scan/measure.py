"""The steerability scan: each steered block of a bundle alone, at equal norms, on replies sampled before.

The unsteered model's greedy replies, to plain prompts and to prompts with the trait, are read again behind
the plain prompts in every cell, side by side in lanes. Steering begins at the prompt's last token (scope
`response`), whatever the bundle's own scope, so all cells share the prompt. A block that is steered alone
reads the unsteered residual stream, so its gate gives the same coefficients in every cell, and the strength
for a norm can be computed exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgesteer.bundle import Bundle, check_model
from edgesteer.errors import EdgesteerWarning, InputError
from edgesteer.evaluate.scan.cells import Cells
from edgesteer.evaluate.scan.result import F64, Scan, pooled
from edgesteer.generate import REPEAT_PENALTY, Chat, Reply, Tokens, training_questions
from edgesteer.generate.progress import Done, Progress, Stages, no_progress, portion
from edgesteer.runtime.gates import make_gate

SHARES = (0.025, 0.05, 0.1, 0.2)
UNITS = ("share", "norm")
N_QUESTIONS = 6
MAX_TOKENS = 12

# Larger sizes overflow float32 in any model; more of them do not fit on a page.
_MOST_SIZE, _MOST_SIZES = 1e6, 16
# A share of |h| so small that its effect is rounding alone, amplified by a quantized model's activations.
_TOUCH = 1e-4
# Number of questions whose activations are held at a time.
_AT_ONCE = 8
# The replies' share of the time.
_REPLIES = 0.15


def scan(
    chat: Chat,
    bundle: Bundle,
    trait: str | None = None,
    *,
    sizes: Sequence[float] = SHARES,
    unit: str = "share",
    sign: int = 1,
    questions: Sequence[str] | None = None,
    max_tokens: int = MAX_TOKENS,
    progress: Progress = no_progress,
) -> Scan:
    """Measure every block of `bundle` alone at every size.

    The model's own steering is set aside meanwhile.

    trait: the sentence that steering imitates, used as system prompt; None measures KL alone.
    sizes, unit: the mean |u| on the rows of the unsteered replies; with "share", in units of the mean |h|.
    sign: -1 steers the other way. questions: None for some of the training questions.
    Raises InputError for no questions or sizes, or a context too small for a prompt with its reply;
    IncompatibleError for a bundle of another model.
    """
    questions, columns = _checked_questions(trait, questions, max_tokens), _checked(sizes, unit)
    if doubt := check_model(bundle, chat.llm.model_info):
        warnings.warn(doubt, EdgesteerWarning, stacklevel=2)
    texts = len(questions) * (1 if trait is None else 2)  # each is read in every cell
    stages = Stages(progress, texts)
    with chat.llm.steered([]):
        plain = [chat.prompt(question) for question in questions]
        replies, rows = _unsteered(chat, bundle, plain, max_tokens, stages.enter("replies", _REPLIES * texts))
        prompted = [] if trait is None else _prompted(chat, questions, trait, max_tokens)
        strengths = _strengths(rows, columns, unit)
        cells = Cells.of(bundle, strengths, sign, _strengths(rows, [_TOUCH], "share")[:, 0])
        each = 1 - _REPLIES
        kl_sums = [
            cells.kl(chat, *one, stages.enter("scan", each)) for one in zip(plain, replies, strict=True)
        ]
        gains = [
            cells.log_p(chat, *one, stages.enter("scan", each)) for one in zip(plain, prompted, strict=False)
        ]
    progress("done", 1.0)
    counts = [len(reply) for reply in replies], [len(reply) for reply in prompted]
    (*kl, noise), _, _ = pooled(np.array(kl_sums), counts[0])
    gain = None if trait is None else pooled(np.array(gains), counts[1])
    shape, known = strengths.shape, np.isfinite(strengths)

    def laid(values: F64) -> F64:
        """float64 [cells] as [blocks, sizes]."""
        out = np.full(shape, np.nan)
        out[known] = values
        return out

    return Scan(
        name=bundle.name,
        model=Path(chat.llm.model_path).name,
        trait=trait,
        unit=unit,
        sizes=columns,
        blocks=bundle.layers,
        streams=tuple(rows.stream.tolist()),
        strengths=sign * strengths,
        kl=laid(np.array(kl)),
        gain=None if gain is None else laid(gain[0]),
        low=None if gain is None else laid(gain[1]),
        high=None if gain is None else laid(gain[2]),
        closed=tuple(n for n, row in zip(bundle.layers, known, strict=True) if not row.any()),
        overflowed=int(np.isnan(kl if gain is None else kl + gain[0]).sum()),
        noise=float(noise),
        questions=tuple(questions),
        max_tokens=max_tokens,
        tokens=(sum(counts[0]), sum(counts[1])),
        gated=bundle.gate is not None,
        scope=bundle.scope,
    )


# -- the unsteered replies, and the size of each block's part on them ------------------------------


@dataclass(frozen=True)
class _Rows:
    """Means over the rows of the unsteered replies, float64 [blocks]: |h|, and |u| at strength 1."""

    stream: F64
    part: F64


def _unsteered(
    chat: Chat, bundle: Bundle, prompts: Sequence[Tokens], max_tokens: int, progress: Done
) -> tuple[list[list[int]], _Rows]:
    """The greedy replies, and the means over their rows."""
    texts: list[list[int]] = []
    sums = np.zeros((2, len(bundle.layers)))
    measure = _measure(chat, bundle)
    for first in range(0, len(prompts), _AT_ONCE):
        part = prompts[first : first + _AT_ONCE]
        done = portion(progress, first, len(part), len(prompts))
        replies = chat.replies(
            part, max_tokens, layers=bundle.layers, progress=done, repeat_penalty=REPEAT_PENALTY
        )
        texts += [reply.all_tokens for reply in replies]
        sums += sum(measure(reply) for reply in replies)
    n = sum(map(len, texts))
    if not n:
        raise InputError("scan: every reply of the unsteered model is empty, expected some to measure on")
    return texts, _Rows(*(sums / n))


def _measure(chat: Chat, bundle: Bundle) -> Callable[[Reply], F64]:
    """A function from a reply to float64 [2, blocks]: the sums over its rows of |h| and of |u|."""
    gate = make_gate(bundle, chat.llm.model_info.n_layer, chat.llm.gate_engine) if bundle.gate else None
    widths = [float(np.linalg.norm(bundle.directions[n].astype(np.float64))) for n in bundle.layers]

    def of(reply: Reply) -> F64:
        assert reply.seen is not None
        stream = np.linalg.norm(reply.seen.astype(np.float64), axis=2).sum(axis=1)
        opened = [
            float(len(h)) if gate is None else float(np.abs(gate.coefficient(n, h)).sum(dtype=np.float64))
            for n, h in zip(bundle.layers, reply.seen, strict=True)
        ]
        return np.array([stream, np.multiply(opened, widths)])

    return of


def _prompted(chat: Chat, questions: Sequence[str], trait: str, max_tokens: int) -> list[list[int]]:
    prompts = [chat.prompt(question, trait) for question in questions]
    replies = [r.all_tokens for r in chat.replies(prompts, max_tokens, repeat_penalty=REPEAT_PENALTY)]
    if not any(replies):
        raise InputError("scan: every prompted reply is empty, expected some to measure the trait on")
    return replies


def _strengths(rows: _Rows, sizes: Sequence[float], unit: str) -> F64:
    """float64 [blocks, sizes]; NaN if a block's part is zero, or its strength would overflow float32."""
    wanted = np.outer(rows.stream if unit == "share" else np.ones(len(rows.stream)), sizes)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = wanted / rows.part[:, None]
        fits = np.isfinite(values.astype(np.float32)).all(axis=1, keepdims=True)
    return np.where(fits, values, np.nan)


# -- arguments -------------------------------------------------------------------------------------


def _checked_questions(trait: str | None, questions: Sequence[str] | None, max_tokens: int) -> list[str]:
    if questions is None:
        questions = training_questions(N_QUESTIONS)
    if not questions:
        raise InputError("scan: no questions, expected at least one")
    if trait is not None and not trait.strip():
        raise InputError("scan: the trait is empty, expected the sentence that the bundle imitates, or none")
    if max_tokens < 1:
        raise InputError(f"scan: max_tokens {max_tokens}, expected at least 1")
    return list(questions)


def _checked(sizes: Sequence[float], unit: str) -> tuple[float, ...]:
    """The sizes in ascending order, each once."""
    if unit not in UNITS:
        raise InputError(f"scan: unit {unit!r}, expected one of {', '.join(UNITS)}")
    values = tuple(sorted({float(size) for size in sizes}))
    unfit = [size for size in values if not 0 < size <= _MOST_SIZE]
    if unfit:
        raise InputError(f"scan: norm {unfit[0]:g}, expected a number above 0, at most {_MOST_SIZE:g}")
    if not 1 <= len(values) <= _MOST_SIZES:
        raise InputError(f"scan: {len(values)} norms, expected 1 to {_MOST_SIZES}")
    return values
