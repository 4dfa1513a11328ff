"""Scripted conversations: the user's turns are fixed, the replies are the model's own, turn after turn.

In:  a Chat, the trait, rows to steer with, scripts. Out: a ConversationTable.

Each way to ask (unsteered, prompted, a row) has a history of its own, rendered by the model's template as in
`edgesteer chat`, and all its scripts are answered side by side. Replies are scored under the unsteered model,
with the trait as system prompt and without: their coherence behind that same history, their trait behind the
turn's question alone. The plan in force is set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgesteer.errors import InputError
from edgesteer.evaluate.conversation_scripts import (
    Message,
    Script,
    check_conversations,
    prompt_of,
    read_scripts,
)
from edgesteer.evaluate.conversation_table import F64, MEASURES, ConversationTable, Talk, repeats, table_of
from edgesteer.evaluate.head_to_head import check_rows
from edgesteer.evaluate.judging import Judge, Rater, rater, training_replies
from edgesteer.evaluate.text_measures import words
from edgesteer.evaluate.way import PROMPT, UNSTEERED, Sources, Way
from edgesteer.generate import REPEAT_PENALTY, Chat, Reply, Tokens, measures
from edgesteer.generate.measures import F32
from edgesteer.generate.progress import Done, Progress, Stages, no_progress, portion

TURNS = 10

_REPLYING = 0.8  # the share of the time that replies take; the rest is scoring

_Pair = tuple[Tokens, Tokens]


def conversations(
    chat: Chat,
    trait: str,
    rows: Sequence[tuple[str, Sources]],
    scripts: Sequence[Script] | None = None,
    *,
    turns: int = TURNS,
    max_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    judge: Judge | None = None,
    progress: Progress = no_progress,
) -> ConversationTable:
    """Hold every conversation unsteered, with the trait as system prompt, and in each of the rows.

    rows: (name, sources), as in `head_to_head`; may be empty. scripts: None for the built-in ones.
    turns: how many of each script. max_tokens: of a reply.
    temperature: 0 is greedy; any other draws, from `seed`, the script's name and the turn alone. The repeat
        penalty is that of `edgesteer run`.
    judge: as for `rater`. It needs at least eight different questions, so more than one turn of few scripts.
    A script whose next turn does not fit into the context ends there, with a note.
    Raises InputError for a chat that renders a text instead of the model's chat template, for scripts that
    are too short, that share a name, or that cannot fit, and for what `head_to_head` refuses.
    """
    scripts = list(read_scripts() if scripts is None else scripts)
    check_conversations(chat, trait, scripts, turns, max_tokens, temperature, seed)
    check_rows(chat, rows)
    ways = [Way(UNSTEERED, ()), Way(PROMPT, ()), *(Way.of(name, (), sources) for name, sources in rows)]
    training = 0.0 if judge is None else training_replies(judge) / (len(scripts) * turns)
    stages = Stages(progress, len(ways) + training)
    judging: Rater | None = None
    if judge is not None:
        asked = [question for script in scripts for question in script.turns[:turns]]
        judging = rater(judge, chat, trait, asked, max_tokens, stages.enter("judge", training))
    talks = []
    for way in ways:
        held = _Held(chat, way, trait, scripts, max_tokens)
        done = stages.enter(way.name)
        for turn in range(turns):
            rngs = [np.random.default_rng([seed, turn, *s.name.encode()]) for s in scripts]
            held.answer(turn, temperature, rngs, portion(done, turn * _REPLYING, _REPLYING, turns))
        done(_REPLYING)
        talks.append(held.talk(turns, judging))
    progress("done", 1.0)
    table = table_of(trait, [script.name for script in scripts], turns, max_tokens, temperature, talks)
    questions = tuple(script.turns[:turns] for script in scripts)
    return replace(table, questions=questions, judge=None if judging is None else judging.judging)


class _Held:
    """One way's conversations while they go on; a list holds one item a script."""

    def __init__(self, chat: Chat, way: Way, trait: str, scripts: Sequence[Script], max_tokens: int) -> None:
        self._chat, self._way, self._trait, self._scripts = chat, way, trait, scripts
        self._max_tokens = max_tokens
        self._history: list[list[Message]] = [[] for _ in scripts]
        self._replies: list[list[Reply]] = [[] for _ in scripts]
        self._plain: list[list[Tokens]] = [[] for _ in scripts]
        self._prompted: list[list[Tokens]] = [[] for _ in scripts]
        self._ended: dict[int, str] = {}

    def answer(
        self, turn: int, temperature: float, rngs: Sequence[np.random.Generator], progress: Done
    ) -> None:
        """Add one turn to every conversation that has not ended."""
        asked = [i for i in range(len(self._scripts)) if i not in self._ended and self._ask(i, turn)]
        prompts = self._prompted if self._way.name == PROMPT else self._plain
        with self._way.steered(self._chat):
            replies = self._chat.replies(
                [prompts[i][-1] for i in asked],
                self._max_tokens,
                temperature=temperature,
                rngs=[rngs[i] for i in asked],
                progress=progress,
                repeat_penalty=REPEAT_PENALTY,
            )
        for i, reply in zip(asked, replies, strict=True):
            self._replies[i].append(reply)
            form = self._chat.llm.chat_template
            thoughts = form.answer_at(prompts[i][-1], reply.tokens) if form else 0
            answer = self._chat.text(reply.tokens[thoughts:])
            self._history[i].append({"role": "assistant", "content": answer})

    def _ask(self, i: int, turn: int) -> bool:
        """Put the next question; False if that ends the conversation."""
        history = [*self._history[i], {"role": "user", "content": self._scripts[i].turns[turn]}]
        try:
            plain, prompted = (prompt_of(self._chat, history, system) for system in (None, self._trait))
        except InputError as error:
            if not turn:
                raise
            self._ended[i] = f"ended before turn {turn + 1}: {error}"
            return False
        need, room = max(len(plain), len(prompted)) + self._max_tokens, self._chat.llm.n_ctx()
        if need > room:
            self._ended[i] = (
                f"ended before turn {turn + 1}, which takes {need} tokens; the context holds {room}"
            )
            return False
        self._history[i] = history
        self._plain[i].append(plain)
        self._prompted[i].append(prompted)
        return True

    def talk(self, turns: int, judging: Rater | None) -> Talk:
        """The replies with their measures."""
        texts = [[self._chat.text(reply.tokens) for reply in one] for one in self._replies]
        values = {name: np.full((len(texts), turns), np.nan) for name in MEASURES}
        prompted_alone, plain_alone = (self._scored(self._alone(system)) for system in (self._trait, None))
        scored = zip(self._scored(self._prompted), self._scored(self._plain), strict=True)
        for i, (prompted, plain) in enumerate(scored):
            for t, reply in enumerate(self._replies[i]):
                values["trait"][i, t] = measures.trait(prompted_alone[i][t], plain_alone[i][t])
                values["coherence"][i, t] = measures.coherence(prompted[t], plain[t])
                values["distinct2"][i, t] = measures.distinct(reply.tokens) if reply.all_tokens else np.nan
                values["words"][i, t] = words(texts[i][t])
            for name, each in repeats(texts[i]).items():
                values[name][i, : len(each)] = each
        if judging is not None:
            values |= self._judged(judging, texts, turns)
        notes = tuple(f"{self._scripts[i].name!r} {self._ended[i]}" for i in sorted(self._ended))
        way = self._way
        return Talk(way.name, way.strength, way.sources, tuple(map(tuple, texts)), values, notes)

    def _alone(self, system: str | None) -> list[list[Tokens]]:
        """The prompts of the turns' questions without what came before: earlier replies predict the trait,
        with its prompt or without."""
        return [
            [self._chat.prompt(script.turns[t], system) for t in range(len(replies))]
            for script, replies in zip(self._scripts, self._replies, strict=True)
        ]

    def _scored(self, prompts: Sequence[Sequence[Tokens]]) -> list[list[F32]]:
        """The log-probabilities of each script's replies behind these prompts, unsteered."""
        pairs = [
            [(prompt, reply.all_tokens) for prompt, reply in zip(own, replies, strict=True)]
            for own, replies in zip(prompts, self._replies, strict=True)
        ]
        with self._chat.llm.steered([]):
            return _log_probs(self._chat, pairs)

    def _judged(self, judging: Rater, texts: Sequence[Sequence[str]], turns: int) -> dict[str, F64]:
        """By measure, float64 [scripts, turns]; empty if the judge abstains."""
        at = [(i, t) for i, one in enumerate(texts) for t in range(len(one))]
        rated = judging.rate([self._scripts[i].turns[t] for i, t in at], [texts[i][t] for i, t in at])
        out = {name: np.full((len(texts), turns), np.nan) for name in rated}
        for name, scores in rated.items():
            for place, score in zip(at, scores, strict=True):
                out[name][place] = score
        return out


def _log_probs(chat: Chat, scripts: Sequence[Sequence[_Pair]]) -> list[list[F32]]:
    """`Chat.log_probs` of each script's turns. A later turn usually holds the earlier ones token for token,
    so that one pass reads them all; a turn that the template renders otherwise is read by itself."""
    passes: list[tuple[list[int], list[tuple[int, int]]]] = []
    for i, pairs in enumerate(scripts):
        own: list[tuple[list[int], list[tuple[int, int]]]] = []
        for t in reversed(range(len(pairs))):
            text = [*pairs[t][0], *pairs[t][1]]
            within = next((turns for whole, turns in own if whole[: len(text)] == text), None)
            if within is None:
                own.append((text, [(i, t)]))
            else:
                within.append((i, t))
        passes += own
    first = [min(len(scripts[i][t][0]) for i, t in turns) for _, turns in passes]
    rows = chat.log_probs([(text[:n], text[n:]) for (text, _), n in zip(passes, first, strict=True)])
    out = [[np.zeros(0, np.float32)] * len(pairs) for pairs in scripts]
    for (_, turns), n, row in zip(passes, first, rows, strict=True):
        for i, t in turns:
            prompt, reply = scripts[i][t]
            out[i][t] = row[len(prompt) - n :][: len(reply)]
    return out
