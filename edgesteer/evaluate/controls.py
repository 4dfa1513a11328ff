"""Controls: what a bundle is compared with, besides the prompt that it imitates.

    random_control     another direction of the same norm: is it the direction that does it?
    guided_replies     the prompt's effect, amplified: how far could one go at twice the cost?

A Guided is one more way to ask. All replies are greedy. The plan in force is set aside.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgesteer.bundle import Bundle, encode_directions
from edgesteer.errors import InputError
from edgesteer.evaluate.way import Way
from edgesteer.generate import REPEAT_PENALTY, Chat, Reply, Tokens
from edgesteer.generate.chat import penalised
from edgesteer.generate.measures import F32, log_prob
from edgesteer.generate.progress import Done, no_progress, portion
from edgesteer.plan import SteeringPlan
from edgesteer.runtime import Lanes

RANDOM, GUIDED = CONTROLS = ("random direction", "guided decoding")
"""Names of their rows."""

GUIDANCE = 1.5
"""By how much guided decoding amplifies the prompt, where nothing else is asked for."""

# -- random directions -----------------------------------------------------------------------------


def random_control(bundle: Bundle, seed: int = 0) -> Bundle:
    """The bundle with a random direction of the same norm in each block; the same one for the same seed.

    A gate stays as it is, so on the same activations each block adds a vector of the same length. (Its own
    steering moves the activations elsewhere, and the coefficients with them.)
    Raises ValueError for a seed below 0.
    """
    directions = {n: _random_like(z, seed, n) for n, z in bundle.directions.items()}
    name = f"{bundle.name} random {seed}"
    if bundle.model is None:
        data = encode_directions(directions, bundle.architecture_hint or "")
        return Bundle.from_control_vector(data, name)
    gate = bundle.gate
    if gate is not None:  # it names the directions that it belongs to
        new = encode_directions(directions, bundle.model.architecture)
        old_name, new_name = (
            hashlib.sha256(data).hexdigest().encode() for data in (bundle.members["directions.gguf"], new)
        )
        gate = gate.replace(old_name, new_name)
    return Bundle.build(
        name=name,
        directions=directions,
        model=bundle.model,
        gate=gate,
        gate_gguf=bundle.gate_gguf,
        scope=bundle.scope,
        strength=bundle.strength,
        description=f"A control: {bundle.name} with random directions of the same norms (seed {seed}).",
        license=bundle.license,
        turns=bundle.turns,
        training=bundle.training,
        extra=bundle.extra,
    )


def _random_like(direction: F32, seed: int, block: int) -> F32:
    drawn = np.random.default_rng([seed, block]).standard_normal(len(direction))
    norm = np.linalg.norm(direction.astype(np.float64))
    return np.asarray(drawn * (norm / np.linalg.norm(drawn)), dtype=np.float32)


def controls_of(way: Way, prompted: Sequence[Tokens]) -> list[Way]:
    """The rows in CONTROLS beside a steered way. prompted: the prompts with the trait."""
    # With one seed for all, bundles that add up would all get the same direction.
    terms = [(random_control(term.bundle, i), term.strength, None) for i, term in enumerate(way.unit.terms)]
    return [
        replace(way, name=RANDOM, unit=SteeringPlan.of(terms)),
        Guided(GUIDED, way.prompts, strength=GUIDANCE, prompted=prompted),
    ]


def check_controls(chat: Chat, rows: Sequence[object]) -> None:
    """Raises InputError for no rows, and for a model opened for a single sequence."""
    if not rows:
        raise InputError("controls: no rows, expected at least one to draw random directions for")
    require_sequences(chat, "guided decoding")


def require_sequences(chat: Chat, what: str) -> None:
    """Raises InputError for a model opened for a single sequence."""
    if chat.llm.n_seq_max < 2:
        raise InputError(
            f"{chat.llm.model_path}: {what} takes two sequences, found one; open it with n_seq_max=2 or more"
        )


# -- guided decoding -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guided(Way):
    """Guided decoding between prompts and `prompted`; its strength is the alpha of `guided_replies`."""

    prompted: Sequence[Tokens] = ()

    @property
    def held(self) -> list[Tokens]:
        return [[*a, *b] for a, b in zip(self.prompts, self.prompted, strict=True)]

    @property
    def has_strengths(self) -> bool:
        return True

    def replies(self, chat: Chat, max_tokens: int, progress: Done = no_progress) -> list[Reply]:
        assert self.strength is not None
        return guided_replies(chat, self.prompts, self.prompted, self.strength, max_tokens, progress=progress)


def guided_replies(
    chat: Chat,
    prompts: Sequence[Tokens],
    prompted: Sequence[Tokens],
    alpha: float = GUIDANCE,
    max_tokens: int = 64,
    *,
    repeat_penalty: float = REPEAT_PENALTY,
    progress: Done = no_progress,
) -> list[Reply]:
    """Replies drawn from log p(plain) + alpha (log p(prompted) - log p(plain)), up to a constant.

    The same tokens go on behind prompts[i] and prompted[i], in two sequences, so a token costs two.

    alpha: 0 is the plain prompt, 1 the prompted one, above 1 the prompt's effect is amplified. At 0 and 1 the
        logits are exactly those of that prompt in a batch with the other. On a quantized model another batch
        changes log-probabilities by up to 0.2 nats, and so a greedy reply may part from `Chat.replies`'s.
    Raises ValueError for lists of different lengths; InputError for an alpha that is no finite number, for a
    model opened for a single sequence, and for a pair that does not fit the context.
    """
    if len(prompts) != len(prompted):
        raise ValueError(f"{len(prompts)} plain and {len(prompted)} prompted prompts, expected as many")
    if not math.isfinite(alpha):
        raise InputError(f"guided decoding: alpha {alpha}, expected a finite number")
    require_sequences(chat, "guided decoding")
    pairs = [(list(a), list(b)) for a, b in zip(prompts, prompted, strict=True)]
    groups = chat.groups([a + b for a, b in pairs], 2 * max_tokens, chat.llm.n_seq_max // 2)
    out: list[Reply] = []
    with chat.llm.steered([]):
        for group in groups:
            done = portion(progress, group.start, len(group), len(pairs))
            out += _guided(chat, [pairs[i] for i in group], alpha, max_tokens, repeat_penalty, done)
    return out


def _guided(
    chat: Chat,
    pairs: Sequence[tuple[list[int], list[int]]],
    alpha: float,
    max_tokens: int,
    repeat_penalty: float,
    progress: Done,
) -> list[Reply]:
    """A pair's plain prompt is in lane 2 i, its prompted one in the next."""
    drafts = [_Draft(chat, repeat_penalty) for _ in pairs]
    prompts = [prompt for pair in pairs for prompt in pair]
    with Lanes(chat.llm, prompts, recurring=True) as lanes:
        parts = {lane: prompt[-1:] for lane, prompt in enumerate(prompts)}
        for step in range(max_tokens):
            progress(step / max_tokens)
            going_on = []
            for lane, logits in lanes.feed(parts):
                if lane % 2 == 0:
                    plain = logits.copy()
                elif drafts[lane // 2].add(_weighted(plain, logits, alpha)):
                    going_on += [lane - 1, lane]
            for lane in parts.keys() - set(going_on):
                lanes.drop(lane)
            parts = {lane: drafts[lane // 2].tokens[-1:] for lane in going_on}
            if not parts:
                break
    return [draft.reply() for draft in drafts]


class _Draft:
    """A greedy reply that grows token by token."""

    def __init__(self, chat: Chat, repeat_penalty: float) -> None:
        self._chat, self._penalty = chat, repeat_penalty
        self.tokens: list[int] = []
        self._log_probs: list[float] = []
        self._end: int | None = None

    def add(self, logits: F32) -> bool:
        """Take the likeliest token; False if the reply ends here."""
        weighed = logits if self._penalty == 1.0 else penalised(logits, self.tokens, self._penalty)
        token = int(weighed.argmax())
        self._log_probs.append(log_prob(logits, token))
        if self._chat.ends(token):
            self._end = token
            return False
        self.tokens.append(token)
        return not self._chat.ended_by(self.tokens)

    def reply(self) -> Reply:
        tokens = list(self.tokens)
        while self._chat.ended_by(tokens):
            tokens.pop()
        n = len(tokens) + (self._end is not None)
        return Reply(tokens, np.array(self._log_probs[:n], dtype=np.float32), self._end)


def _weighted(plain: F32, prompted: F32, alpha: float) -> F32:
    """Logits, which differ from log-probabilities by a constant; exact where one of the two is meant."""
    if alpha in (0, 1):
        return prompted if alpha else plain
    return plain + np.float32(alpha) * (prompted - plain)
