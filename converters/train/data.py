"""Training examples: pairs of prompts with a reply, prepared once for all steps.

In:  pairs (x, x', y' as tokens), where steering begins in x, a frozen model.
Out: per pair an Example: what the student runs, where it is steered, which rows predict, what the teacher
     says; and batches of them.

Steering does not change what precedes the first steered position, so its KV cache is computed once per prompt
and the student runs only the rest. The reply's last token predicts nothing and is left out, as in
`edgesteer.learn.contrast`. Memory: a prefix takes 4 bytes per token, block and key dimension (192 in
SmolLM2-135M: 23 kB per token), twice that where float16 cannot hold its values; a teacher 2 kB per row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from edgesteer.errors import LearnError
from edgesteer.generate.progress import Done, no_progress
from edgesteer.learn.pairs import Pair
from edgesteer_converters.torch_model import Keys, TorchModel
from edgesteer_converters.train.divergence import Top

# Texts that the teacher reads side by side.
_SIDE_BY_SIDE = 8


@dataclass(frozen=True, slots=True)
class Triplet:
    """x, x', y' as token ids. sign: the strength to train at, 1 or -1. first: first steered position of x."""

    plain: list[int]
    prompted: list[int]
    reply: list[int]
    sign: int
    first: int


@dataclass(frozen=True, slots=True)
class Example:
    """A prepared pair.

    tokens: what the student runs after `prefix`. first: index of the first steered one.
    n_rows: how many rows at the end predict a token of the reply. top: the teacher's results there.
    """

    tokens: list[int]
    prefix: Keys | None
    first: int
    sign: int
    n_rows: int
    top: Top

    @property
    def n_prefix(self) -> int:
        return 0 if self.prefix is None else int(self.prefix[0][0].shape[2])


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side: prefixes padded on the left, tokens [batch, n] on the right.

    mask: [batch, prefix + n], 0 for padding; None without padding. scope: float [batch, n], 1 where steered.
    strength: [batch, 1]. predicts: bool [batch, n]. weight: [rows]; all replies have the same total weight.
    """

    tokens: torch.Tensor
    prefix: Keys | None
    mask: torch.Tensor | None
    scope: torch.Tensor
    strength: torch.Tensor
    predicts: torch.Tensor
    weight: torch.Tensor
    top: Top

    @property
    def size(self) -> int:
        return len(self.tokens)


def triplets(pairs: Sequence[Pair], starts: Sequence[int] | None = None) -> list[Triplet]:
    """The pairs as triplets. starts: the first steered position of each plain prompt; None for its last.

    Raises LearnError for no pairs, empty prompts or replies, or a sign other than 1 and -1.
    """
    if not pairs:
        raise LearnError("training pairs: none, expected at least one; give more questions")
    firsts = [len(pair.plain) - 1 for pair in pairs] if starts is None else starts
    out = []
    for i, (pair, first) in enumerate(zip(pairs, firsts, strict=True)):
        lengths = {"plain": len(pair.plain), "prompted": len(pair.prompted), "reply": len(pair.reply)}
        empty = [name for name, length in lengths.items() if not length]
        if empty:
            raise LearnError(f"training pair {i}: no {empty[0]} tokens, expected some; leave it out")
        if pair.sign not in (1, -1):
            raise LearnError(f"training pair {i}: found sign {pair.sign}, expected 1 or -1")
        if not 0 <= first < len(pair.plain):
            found = f"steered from position {first} on"
            raise LearnError(
                f"training pair {i}: {found}, expected one of its {len(pair.plain)} prompt tokens"
            )
        out.append(Triplet(list(pair.plain), list(pair.prompted), list(pair.reply), pair.sign, first))
    return out


def digest(items: Sequence[Triplet]) -> str:
    """SHA-256 of the triplets, in order."""
    text = json.dumps([[t.plain, t.prompted, t.reply, t.sign, t.first] for t in items])
    return hashlib.sha256(text.encode()).hexdigest()


def prepared(model: TorchModel, items: Sequence[Triplet], progress: Done = no_progress) -> list[Example]:
    """Prepare triplets, with two passes of the frozen model.

    Raises LearnError for a token that the model does not have.
    """
    for item in items:
        for token in (*item.plain, *item.prompted, *item.reply):
            if not 0 <= token < model.n_vocab:
                raise LearnError(
                    f"training pairs: found token {token}, expected 0 to {model.n_vocab - 1} ({model.name})"
                )
    tops = dict[int, Top]()
    prefixes: dict[tuple[int, ...], Keys | None] = {(): None}
    for sign in (1, -1):  # each has a sentence of its own, and so another beginning
        side = [i for i, item in enumerate(items) if item.sign == sign]
        teacher = _Shared.of(model, [items[i].prompted[:-1] for i in side])
        for n in range(0, len(side), _SIDE_BY_SIDE):
            progress(0.7 * len(tops) / len(items))
            some = side[n : n + _SIDE_BY_SIDE]
            tops.update(zip(some, _teachers(model, [items[i] for i in some], teacher), strict=True))
    plain = _Shared.of(model, [item.plain[: item.first] for item in items])
    examples = []
    for i, item in enumerate(items):
        progress(0.7 + 0.3 * i / len(items))
        before = tuple(item.plain[: item.first])
        if before not in prefixes:
            prefixes[before] = _halved(plain.keys(model, before))
        prefix = prefixes[before]
        cut = item.first if prefix is not None else 0
        tokens = [*item.plain, *item.reply[:-1]][cut:]
        examples.append(Example(tokens, prefix, item.first - cut, item.sign, len(item.reply), tops[i]))
    return examples


@dataclass(frozen=True, slots=True)
class _Shared:
    """The tokens that several prompts begin with, and their KV cache; None if the model keeps none."""

    tokens: list[int]
    cache: Keys | None

    @classmethod
    def of(cls, model: TorchModel, prompts: Sequence[Sequence[int]]) -> _Shared:
        common = _beginning(prompts)
        cache = model.keys(_row(model, common)) if common else None
        return cls(common if cache is not None else [], cache)

    def keys(self, model: TorchModel, tokens: Sequence[int]) -> Keys | None:
        """The KV cache of a prompt."""
        rest = tokens[len(self.tokens) :]
        return model.keys(_row(model, rest), self.cache) if rest else self.cache

    def side_by_side(self, n: int) -> Keys | None:
        if self.cache is None:
            return None
        return [(k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)) for k, v in self.cache]


def _beginning(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with."""
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return [column[0] for column in alike]


def _teachers(model: TorchModel, items: Sequence[Triplet], shared: _Shared) -> list[Top]:
    """The unsteered model's results on x'y' at the rows that predict y'."""
    past = len(shared.tokens)
    texts = [[*item.prompted[past:], *item.reply[:-1]] for item in items]
    begins = [len(item.prompted) - past - 1 for item in items]
    longest, first = max(map(len, texts)), min(begins)
    tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=model.device)
    rows = torch.arange(first, longest, device=model.device)
    with torch.no_grad():  # a causal model does not see the padding behind a text
        logits = model.logits(tokens, rows=rows, prefix=shared.side_by_side(len(items)))
        return [
            Top.of(each[begin - first : begin - first + len(item.reply)])
            for each, begin, item in zip(logits, begins, items, strict=True)
        ]


def _row(model: TorchModel, tokens: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(tokens)], device=model.device)


def _halved(keys: Keys | None) -> Keys | None:
    """The cache in half the memory; what float16 cannot hold stays as it is."""
    return None if keys is None else [(_half(k), _half(v)) for k, v in keys]


def _half(values: torch.Tensor) -> torch.Tensor:
    half = values.half()
    return half if bool(half.isfinite().all()) else values


def collate(examples: Sequence[Example], device: torch.device, dtype: torch.dtype) -> Batch:
    """A batch, whose results do not depend on the padding. dtype: of the model."""
    n = max(len(e.tokens) for e in examples)
    n_prefix = max(e.n_prefix for e in examples)
    tokens = torch.tensor([e.tokens + [0] * (n - len(e.tokens)) for e in examples], device=device)
    at = torch.arange(n, device=device)[None]
    ends = torch.tensor([[len(e.tokens)] for e in examples], device=device)
    firsts = torch.tensor([[e.first] for e in examples], device=device)
    rows = torch.tensor([[e.n_rows] for e in examples], device=device)
    inside = at < ends
    before = torch.tensor([[n_prefix - e.n_prefix] for e in examples], device=device)
    mask = torch.cat([torch.arange(n_prefix, device=device)[None] >= before, inside], 1)
    weight = [1 / (e.n_rows * len(examples)) for e in examples for _ in range(e.n_rows)]
    return Batch(
        tokens=tokens,
        prefix=_side_by_side(examples, n_prefix, dtype) if n_prefix else None,
        mask=None if bool(mask.all()) else mask.long(),
        scope=(inside & (at >= firsts)).float(),
        strength=torch.tensor([[float(e.sign)] for e in examples], device=device),
        predicts=inside & (at >= ends - rows),
        weight=torch.tensor(weight, device=device),
        top=Top(
            torch.cat([e.top.ids for e in examples]),
            torch.cat([e.top.log_probs for e in examples]),
        ),
    )


def _side_by_side(examples: Sequence[Example], length: int, dtype: torch.dtype) -> Keys:
    """The prefixes' KV caches, padded on the left to `length` with zeros that the mask hides."""
    model = next(e.prefix for e in examples if e.prefix is not None)
    nothing = [(k[:, :, :0], v[:, :, :0]) for k, v in model]
    each = [nothing if e.prefix is None else e.prefix for e in examples]
    return [
        (_padded([e[n][0] for e in each], length, dtype), _padded([e[n][1] for e in each], length, dtype))
        for n in range(len(model))
    ]


def _padded(tensors: Sequence[torch.Tensor], length: int, dtype: torch.dtype) -> torch.Tensor:
    pad = torch.nn.functional.pad
    return torch.cat([pad(t, (0, 0, length - t.shape[2], 0)) for t in tensors]).to(dtype)
