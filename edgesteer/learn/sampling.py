"""Replies for contrast pairs: sample them side by side, and score them.

In:  a chat, which replies are wanted, prompts with and without the trait's sentence, a recipe.
Out: a scored reply for each wanted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgesteer.generate.chat import Chat, Reply
from edgesteer.generate.progress import Done, portion
from edgesteer.learn.part_file import PartFile, pack, unpack
from edgesteer.learn.recipe import Recipe

F32 = npt.NDArray[np.float32]
Prompts = Sequence[tuple[list[int], list[int]]]  # plain, prompted

# Share of a group's time that sampling its replies takes; scoring them takes the rest.
_SAMPLING = 0.9


class Wanted(NamedTuple):
    """A reply to get. sign: +1 with the trait, -1 with its opposite. text: None unless it is written."""

    question: str
    sign: int
    text: str | None


class Scored(NamedTuple):
    """A reply, and its tokens' log-probabilities after the plain prompt, float32 [tokens], in nats."""

    reply: Reply
    plain: F32


def reply_stream(seed: int, question: str, sign: int = 1, number: int = 0) -> np.random.Generator:
    """The random numbers for sampling the `number`-th reply, which do not depend on other replies."""
    return np.random.default_rng([seed, int(sign < 0), number, *question.encode()])


def given_replies(
    chat: Chat, wanted: Sequence[Wanted], prompts: Prompts, max_tokens: int
) -> dict[int, Scored]:
    """Index in `wanted` -> a written reply, cut at the token limit and without an end token."""
    replies = {
        i: chat.written(one.question, one.text)[:max_tokens]
        for i, one in enumerate(wanted)
        if one.text is not None
    }
    plain = chat.log_probs([(prompts[i][0], reply) for i, reply in replies.items()])
    prompted = chat.log_probs([(prompts[i][1], reply) for i, reply in replies.items()])
    scored = zip(replies.items(), prompted, plain, strict=True)
    return {i: Scored(Reply(reply, own), base) for (i, reply), own, base in scored}


def sampled_replies(
    chat: Chat,
    wanted: Sequence[Wanted],
    prompts: Prompts,
    recipe: Recipe,
    layers: Sequence[int],
    part: PartFile,
    progress: Done,
) -> Iterator[tuple[int, Scored]]:
    """Index in `wanted`, and a reply, for each one that was not written, in order.

    layers: blocks whose residual stream the replies hold. `part` keeps it too: read again it would have
        other last digits, because batches of another shape do, and a resumed run would learn another bundle.
    """
    samples = [i for i, one in enumerate(wanted) if one.text is None]
    for group in chat.groups([prompts[i][1] for i in samples], recipe.max_tokens):
        here = [samples[i] for i in group]
        keys = [f"reply {wanted[i].sign:+d} {wanted[i].question}" for i in here]
        scored = [one for one in (_from_json(part.get(key)) for key in keys) if one is not None]
        if len(scored) < len(here):
            done = portion(progress, group.start, len(group), len(samples))
            scored = _group(chat, wanted, prompts, here, recipe, layers, done)
            for key, one in zip(keys, scored, strict=True):
                part.put(key, _to_json(one))
        yield from zip(here, scored, strict=True)


def _group(
    chat: Chat,
    wanted: Sequence[Wanted],
    prompts: Prompts,
    places: Sequence[int],
    recipe: Recipe,
    layers: Sequence[int],
    progress: Done,
) -> list[Scored]:
    replies = chat.replies(
        [prompts[i][1] for i in places],
        recipe.max_tokens,
        recipe.temperature,
        [reply_stream(recipe.seed, wanted[i].question, wanted[i].sign) for i in places],
        layers,
        portion(progress, 0, _SAMPLING, 1),
    )
    texts = [(prompts[i][0], reply.all_tokens) for i, reply in zip(places, replies, strict=True)]
    plain = chat.log_probs(texts, portion(progress, _SAMPLING, 1 - _SAMPLING, 1))
    return [Scored(reply, base) for reply, base in zip(replies, plain, strict=True)]


def _to_json(scored: Scored) -> dict[str, Any]:
    """A reply as JSON."""
    reply, plain = scored
    floats = {"log_probs": pack(reply.log_probs), "plain": pack(plain)}
    seen = None if reply.seen is None else [reply.seen.shape, pack(reply.seen)]
    return {"tokens": list(map(int, reply.tokens)), "end": reply.end, **floats, "seen": seen}


def _from_json(one: Mapping[str, Any] | None) -> Scored | None:
    if one is None:
        return None
    log_probs, plain = (unpack(one[name], np.float32) for name in ("log_probs", "plain"))
    seen = None if one["seen"] is None else unpack(one["seen"][1], np.float32).reshape(one["seen"][0])
    return Scored(Reply(one["tokens"], log_probs, one["end"], seen), plain)
