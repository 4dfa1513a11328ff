"""Let the model write training questions, for a trait that shows on some topics and not on others.

In:  a model, the trait's sentence, how many, a seed.
Out: that many questions: the model's own if they are useful, then built-in ones.

A small model writes few useful ones, and in a language without spaces none passes; the built-in ones make up
the number. None of them is a held-out question, so that these remain valid for evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from edgesteer.errors import LearnError
from edgesteer.evaluate import held_out_questions
from edgesteer.generate import Chat, Reply
from edgesteer.generate.progress import Done, no_progress, portion
from edgesteer.generate.questions import Question, built_in

_TOPICS = (
    "facts and knowledge",
    "advice in everyday life",
    "how to do something",
    "opinions",
    "stories and poems",
    "work and school",
    "friends and feelings",
    "plans and ideas",
)
_WISH = (
    "An assistant was told: {trait}\n"
    "Write eight short questions about {topic} that people would ask it, where its answers would show that. "
    "One question on each line, nothing else."
)
_ROUNDS = 4
_MAX_TOKENS = 160
_TEMPERATURE = 0.9

# Share of common words from which on two questions count as the same.
_ALIKE = 0.7
# Number of the trait's words in a row from which on a question quotes it.
_QUOTE = 4

_BULLET = re.compile(
    r"^(?:\s|[-*•#>\"'“”‘’`_]|\(?\d{1,3}[.):](?=\s)|(?:question|user|q)\s*\d*\s*[:.])+", re.IGNORECASE
)
_TAIL = " \t\r\"'“”‘’`*_"
_ODD = re.compile(r"[\[\]{}<>|\\^~]|https?:|\?.*\?")
_COMMAND = re.compile(
    r"(?:advise|analy[sz]e|answer|compare|compose|convince|correct|create|define|describe|design|discuss|draft|"
    r"explain|find|give|help|imagine|invent|invite|let|list|make|name|outline|plan|please|pretend|recommend|"
    r"review|rewrite|say|share|show|solve|suggest|summari[sz]e|talk|teach|tell|translate|write)\b.*[.!]",
    re.IGNORECASE,
)


def write_questions(
    chat: Chat,
    trait: str,
    n: int = 48,
    seed: int = 0,
    rounds: int = _ROUNDS,
    max_tokens: int = _MAX_TOKENS,
    progress: Done = no_progress,
) -> list[Question]:
    """`n` different questions, the model's own first (see `n_own`), then built-in ones while there are any.

    The same seed gives the same questions.

    rounds: the most replies on each topic. max_tokens: of each reply.
    Raises LearnError for an empty trait or `n` below 1.
    """
    if not trait.strip():
        raise LearnError("the trait is empty, expected a sentence such as 'You are a pirate.'")
    if n < 1:
        raise LearnError(f"{n} questions to write, expected at least 1")
    barred = [*held_out_questions(), *(q.text for q in built_in())]
    texts: list[str] = []
    for number in range(rounds):
        if len(texts) >= n:
            break
        replies = _replies(chat, trait, max_tokens, [seed, number], portion(progress, number, 1, rounds))
        texts = cleaned([*texts, *_lines(chat, replies)], trait, barred)
    progress(1.0)
    return filled(texts, n)


def n_own(questions: Sequence[Question]) -> int:
    """How many of the questions are not built-in ones."""
    known = {q.text for q in built_in()}
    return sum(q.text not in known for q in questions)


def _replies(chat: Chat, trait: str, max_tokens: int, seed: list[int], progress: Done) -> list[Reply]:
    """A reply on each topic; none if the context has no room for them."""
    wishes = [_WISH.format(trait=trait.strip(), topic=topic) for topic in _TOPICS]
    prompts = [chat.prompt(wish) for wish in wishes]
    room = min(max_tokens, chat.llm.n_ctx() - max(map(len, prompts)))
    if room < 1:
        return []
    rngs = [np.random.default_rng([*seed, i]) for i in range(len(prompts))]
    return chat.replies(prompts, room, _TEMPERATURE, rngs, progress=progress)


def _lines(chat: Chat, replies: Sequence[Reply]) -> Iterator[str]:
    for reply in replies:
        lines = chat.text(reply.tokens).split("\n")
        # A question that the token limit cut may look complete.
        yield from lines if reply.end is not None or len(lines) == 1 else lines[:-1]


def cleaned(lines: Sequence[str], trait: str, barred: Sequence[str] = ()) -> list[str]:
    """The lines that are one question or request of 3 to 25 words, without bullets and quotation marks.

    Leaves out lines that resemble an earlier one or one of `barred`, and lines that quote the trait.
    """
    quotes = _runs(trait)
    seen = [_words(text) for text in barred]
    out = []
    for line in lines:
        text = _BULLET.sub("", line).rstrip(_TAIL)
        words = _words(text)
        if _is_question(text) and not quotes & _runs(text) and not any(_alike(words, w) for w in seen):
            out.append(text)
            seen.append(words)
    return out


def _is_question(text: str) -> bool:
    words = text.split()
    if not 3 <= len(words) <= 25 or not text.isprintable() or _ODD.search(text):
        return False
    if text.endswith(("?", "？", "؟")):
        return True
    return "?" not in text and _COMMAND.fullmatch(text) is not None


def _words(text: str) -> frozenset[str]:
    return frozenset(_in_order(text))


def _in_order(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _alike(a: frozenset[str], b: frozenset[str]) -> bool:
    return a == b or len(a & b) >= _ALIKE * len(a | b)


def _runs(text: str, n: int = _QUOTE) -> set[tuple[str, ...]]:
    words = _in_order(text)
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def filled(texts: Sequence[str], n: int) -> list[Question]:
    """The first `n` texts, made up with built-in questions of all kinds, first those unlike any text."""
    chosen = [Question(text) for text in texts[:n]]
    seen = [_words(q.text) for q in chosen]
    spare = built_in()
    spread = [spare[i] for first in range(8) for i in range(first, len(spare), 8)]
    spread = [q for q in spread if q not in chosen]
    spread.sort(key=lambda q: any(_alike(_words(q.text), words) for words in seen))
    return [*chosen, *spread[: n - len(chosen)]]
