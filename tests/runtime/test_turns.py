"""Scopes across turns, read from the model's own template: the bits are those of the text told piece by
piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from edgesteer import SteeredLlama
from edgesteer.scope import BIT, scope_bits
from tests.runtime.support import vector
from tests.runtime.templates import FAMILIES, Family, Messages, Piece
from tests.tiny import Specials, tiny_model


class Chat:
    """A tiny model with one family's template and control tokens."""

    def __init__(self, folder: Path, name: str) -> None:
        self.family: Family = FAMILIES[name]
        options = {"chat_template": self.family.template, "specials": self.family.specials}
        self.path = tiny_model("llama", folder, **options)
        self.llm = SteeredLlama(self.path, n_ctx=512, n_threads=1, n_threads_batch=1)
        self.turns = self.llm._session.turns

    def tokens(self, text: str) -> list[int]:
        return self.llm.tokenize(text.encode(), add_bos=False, special=True)

    def rendered(self, messages: Messages, prompt: bool = True) -> str:
        specials = self.family.specials
        form = Jinja2ChatFormatter(self.family.template, specials.eos, specials.bos, prompt)
        return form(messages=messages).prompt  # type: ignore[arg-type]

    def owners(self, tokens: list[int], pieces: list[Piece]) -> list[set[int]]:
        """For each token the indices of the pieces that its bytes come from."""
        of_byte = [i for i, piece in enumerate(pieces) for _ in piece.text.encode()]
        out, at = [], 0
        for token in tokens:
            width = len(self.llm.detokenize([token], special=True))
            out.append(set(of_byte[at : at + width]))
            at += width
        assert at == len(of_byte)
        return out

    def reference(self, tokens: list[int], pieces: list[Piece]) -> tuple[list[bool], list[bool]]:
        """(response, conversation) of each token, from who wrote its characters."""
        owners = self.owners(tokens, pieces)
        spoken = [any(pieces[p].owner == "reply" for p in here) for here in owners]
        for p, piece in enumerate(pieces):
            if piece.owner == "open":
                spoken[max(i for i, here in enumerate(owners) if p in here)] = True
        spoken[-1] = True
        ends = [i for i, here in enumerate(owners) if any(pieces[p].owner == "system end" for p in here)]
        begun = max(ends, default=0)
        return spoken, [i >= begun for i in range(len(tokens))]

    def check(self, messages: Messages) -> None:
        pieces = self.family.pieces(messages)
        text = "".join(piece.text for piece in pieces)
        assert text == self.rendered(messages)
        tokens = self.tokens(text)
        bits = scope_bits(tokens, len(tokens), self.turns)
        response, conversation = self.reference(tokens, pieces)
        shown = [self.llm.detokenize([t], special=True) for t in tokens]
        assert list(zip(shown, bits & BIT["response"] != 0, strict=True)) == list(
            zip(shown, response, strict=True)
        )
        assert (bits & BIT["conversation"] != 0).tolist() == conversation


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turns")


@pytest.fixture(scope="module", params=FAMILIES)
def chat(request: pytest.FixtureRequest, folder: Path) -> Iterator[Chat]:
    made = Chat(folder, request.param)
    yield made
    made.llm.close()


def conversation(n_turns: int, system: bool, words: Callable[[int], str] = "word {}".format) -> Messages:
    messages = [{"role": "system", "content": "be brief"}] if system else []
    for i in range(n_turns):
        messages.append({"role": "user", "content": words(2 * i)})
        if i < n_turns - 1:
            messages.append({"role": "assistant", "content": words(2 * i + 1)})
    return messages


def test_every_family_has_an_opening(chat: Chat) -> None:
    assert chat.turns.opens
    assert bool(chat.turns.system) == (chat.family.system == "turn")


def test_a_system_turn_opens_with_its_own_marker(folder: Path) -> None:
    chat = Chat(folder, "smollm2")
    tokens = chat.tokens("xsystem\nwords<|im_end|>more")
    bits = scope_bits(tokens, len(tokens), chat.turns)
    assert (bits & BIT["conversation"] != 0).all()
    chat.llm.close()


@pytest.mark.parametrize("n_turns", [1, 2, 3, 4])
@pytest.mark.parametrize("system", [False, True])
def test_bits_are_those_of_the_pieces(chat: Chat, n_turns: int, system: bool) -> None:
    if system and chat.family.system == "refused":
        with pytest.raises(ValueError, match="Only user and assistant"):
            chat.rendered(conversation(n_turns, system))
        return
    chat.check(conversation(n_turns, system))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text("Ab 3é,.?!", min_size=1, max_size=8).map(lambda t: f"x{t}y".strip()), min_size=7, max_size=7
    )
)
def test_bits_do_not_depend_on_the_words(chat: Chat, words: list[str]) -> None:
    chat.check(conversation(4, chat.family.system == "turn", lambda i: words[i]))


@pytest.mark.parametrize("last", [*list(".?!])>|/\"'"), "é", "🦜", " the", "["])
def test_bits_do_not_depend_on_how_a_question_ends(chat: Chat, last: str) -> None:
    chat.check(conversation(3, False, lambda i: f"word{last}" if i % 2 == 0 else "reply"))


def test_a_chat_is_steered_by_these_bits(chat: Chat) -> None:
    """What create_chat_completion decodes carries them, and each further turn keeps what was in scope."""
    llm, messages = chat.llm, conversation(1, False)
    llm.steer(vector(chat.path, scope="response"))
    for turn in range(3):
        pieces = chat.family.pieces(messages)
        tokens = chat.tokens("".join(piece.text for piece in pieces))
        llm.create_chat_completion(messages, max_tokens=2, temperature=0)  # type: ignore[arg-type]
        assert llm.input_ids[: len(tokens)].tolist() == tokens
        response, _ = chat.reference(tokens, pieces)
        applied = llm._session.main.kv.applied[: len(tokens)] != 0
        assert applied.tolist() == response
        messages += [{"role": "assistant", "content": "reply"}, {"role": "user", "content": f"more {turn}"}]
    llm.clear_steering()


def test_a_marker_that_a_user_types_is_the_marker(chat: Chat) -> None:
    """llama_cpp tokenizes the rendered chat with special tokens on, so the model too sees a turn open
    here."""
    marker = chat.llm.detokenize(list(chat.turns.opens), special=True).decode()
    tokens = chat.tokens(chat.rendered([{"role": "user", "content": f"say {marker} now"}]))
    held = scope_bits(tokens, len(tokens), chat.turns) & BIT["response"] != 0
    k = len(chat.turns.opens)
    first = next(i for i in range(len(tokens)) if tuple(tokens[i : i + k]) == chat.turns.opens)
    assert not held[: first + k - 1].any()
    assert held[first + k - 1]


@pytest.mark.parametrize("name", ["mistral-v1", "zephyr", "phi3"])
def test_a_marker_of_words_is_found_where_words_get_blanks_in_front(folder: Path, name: str) -> None:
    """SentencePiece puts one in front of what follows a special token: the marker alone reads otherwise."""
    specials = FAMILIES[name].specials._replace(sentencepiece=True)
    path = tiny_model(
        "llama", folder, chat_template=FAMILIES[name].template, specials=specials, n_vocab=400, n_layer=1
    )
    llm = SteeredLlama(path, n_ctx=512, n_threads=1, n_threads_batch=1)
    opens = llm._session.turns.opens
    text = "".join(piece.text for piece in FAMILIES[name].pieces(conversation(4, False)))
    tokens = llm.tokenize(text.encode(), add_bos=False, special=True)
    here = [i for i in range(len(tokens)) if opens and tuple(tokens[i : i + len(opens)]) == opens]
    assert len(here) == 4
    assert here[-1] + len(opens) == len(tokens)
    llm.close()


@pytest.mark.parametrize(
    "template",
    [
        "",
        "no messages at all",
        "{{ raise_exception('never') }}",
        "{{ messages[7]['content'] }}",
        "{{ 1 / 0 }}",
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{% if add_generation_prompt %}{{ raise_exception('no prompt') }}{% endif %}hello",
        "{{ messages | length }}",
    ],
)
def test_a_template_without_turns_matches_nothing(folder: Path, template: str) -> None:
    path = tiny_model("llama", folder, chat_template=template)
    llm = SteeredLlama(path, n_ctx=64, n_threads=1, n_threads_batch=1)
    turns = llm._session.turns
    assert turns.opens == turns.system == ()
    tokens = llm.tokenize(b"<|im_start|>assistant\nhi<|im_end|>", add_bos=False, special=True)
    bits = scope_bits(tokens, len(tokens), turns)
    assert (bits & BIT["conversation"] != 0).all()
    assert np.flatnonzero(bits & BIT["response"]).tolist() == [len(tokens) - 1]
    llm.close()


def test_a_template_that_leaves_out_the_system_has_no_system_turn(folder: Path) -> None:
    template = (
        "{% for m in messages if m['role'] != 'system' %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
        "+ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    llm = SteeredLlama(tiny_model("llama", folder, chat_template=template), n_ctx=64, n_threads=1)
    assert llm._session.turns.system == ()
    assert llm.detokenize(list(llm._session.turns.opens), special=True).startswith(b"<|im_start|>assistant")
    llm.close()


def test_control_tokens_are_single_tokens(folder: Path) -> None:
    special = Specials(("<a>", "<b>"), "<a>", "<b>")
    llm = SteeredLlama(tiny_model("llama", folder, specials=special), n_ctx=64, n_threads=1)
    assert len(llm.tokenize(b"<a><b>", add_bos=False, special=True)) == 2
    assert len(llm.tokenize(b"<a><b>", add_bos=False, special=False)) == 6
    llm.close()
