"""`edgesteer eval` on a tiny random model: the table's width, its JSON, and what is refused."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import click.testing
import numpy as np
import pytest

from edgesteer.bundle import Bundle, encode_directions, load, read_model_info, save
from tests.cli.support import Run, random_bundle, refused
from tests.evaluate.stub_judge import Stub, serving
from tests.report.html_pages import self_contained


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text("Why is it so?\nWhat is a key?\n")
    return path


@pytest.fixture
def evaluate(run: Run, tiny: Path, steer: Path, questions: Path) -> Run:
    def call(*args: object) -> click.testing.Result:
        given = () if {"--steer", "--way"} & {*args} else ("--steer", steer)
        return run("eval", tiny, *given, "--questions", questions, "-n", 4, "-t", 1, "-c", 1024, *args)

    return call


def test_the_table_fits_and_has_a_row_each(evaluate: Run) -> None:
    result = evaluate("--count", "pirate", "--count", "a|e", "--count", "|".join(["nothing"] * 20))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[1:3]] == ["unsteered", "prompt"]
    assert any(line.strip().startswith("a|e per 100 words") for line in lines)
    assert any(line.startswith("2 questions") for line in lines)
    assert "Relevance is not measured" in result.stdout


def test_json_holds_each_count(evaluate: Run) -> None:
    result = evaluate("--count", "e", "--json")
    assert result.exit_code == 0, result.stderr
    table = json.loads(result.stdout)
    assert [row["name"] for row in table["rows"]][:2] == ["unsteered", "prompt"]
    assert set(table["rows"][2]["counts"]) == {"e"}


def test_steer_is_one_row_and_each_way_another(evaluate: Run, steer: Path) -> None:
    halves = ("--steer", f"{steer}:0.25", "--steer", f"{steer}:0.75")
    rows = json.loads(
        evaluate(
            *halves, "--way", f"whole={steer}:1", "--way", f"sum={steer}:0.5+{steer}:0.5", "--json"
        ).stdout
    )["rows"]
    assert [row["name"] for row in rows[3:]] == ["whole", "sum"]
    assert rows[2]["replies"] == rows[3]["replies"] == rows[4]["replies"] != rows[0]["replies"]


def test_turns_hold_conversations(run: Run, tiny: Path, steer: Path) -> None:
    command = ("eval", tiny, "--steer", steer, "--turns", 2, "-n", 4, "-t", 1, "-c", 1024)
    greedy = json.loads(run(*command, "--json").stdout)
    assert [row["name"] for row in greedy["rows"]][:2] == ["unsteered", "prompt"]
    assert greedy["turns"] == 2
    shown = run(*command)
    assert shown.exit_code == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 100
    assert "trait, turn" in shown.stdout
    warm = [json.loads(run(*command, "--temp", 0.7, "--json").stdout) for _ in range(2)]
    assert warm[0] == warm[1]
    assert warm[0]["rows"][0]["replies"] != greedy["rows"][0]["replies"]


def test_a_server_judges_each_turn(run: Run, tiny: Path, steer: Path) -> None:
    command = ("eval", tiny, "--steer", steer, "--turns", 2, "-n", 4, "-t", 1, "-c", 1024)
    with serving(Stub()) as stub:
        judged = run(*command, "--judge", stub.url)
    assert judged.exit_code == 0, judged.stderr
    assert "judge: alignment" in judged.stdout
    assert "Judged by stub at" in judged.stdout
    assert "note: judged by stub" in judged.stderr


def test_an_embedding_model_judges_each_turn(
    run: Run, tiny: Path, steer: Path, model: Callable[[str], Path]
) -> None:
    command = ("eval", tiny, "--steer", steer, "--turns", 2, "-n", 4, "-t", 1, "-c", 1024)
    table = json.loads(run(*command, "--judge", model("bert"), "--json").stdout)
    assert table["judge"]["abstains"] == ("judge" not in table["rows"][2]["turns"])
    assert table["judge"]["auc"]["value"] >= 0


def test_side_effects_are_measured_instead(run: Run, tiny: Path, steer: Path) -> None:
    command = ("eval", tiny, "--steer", steer, "--side-effects", "-t", 1)
    measured = json.loads(run(*command, "--json").stdout)
    assert measured.keys() == {"facts", "instructions"}
    assert [row["name"] for row in measured["facts"]["rows"]][:2] == ["unsteered", "prompt"]
    assert len(measured["instructions"]["rows"]) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--turns", "2", "--count", "e"), "--count would change the table of replies alone"),
        (("--transfer", "--at", "matched"), "--at would change the table of replies alone"),
        (("--turns", "2", "--questions", "q.txt"), "have questions of their own"),
        (("--side-effects", "--judge", "minilm"), "are not judged"),
        (("--side-effects", "-n", "64"), "leave --max-tokens out"),
        (("--turns", "1", "--judge", "minilm"), "at least eight questions"),
        (("--temp", "0.7"), "--temperature is for --turns"),
        (("--turns", "2", "--temp", "-1"), "temperature"),
        (("--turns", "11"), "turns"),
        (("--force",), "--force is for --html and --card"),
        (("--html", "page.txt"), "expected NAME.html"),
        (("--card", "card.html"), "card.html: expected a bundle, NAME.steer"),
        (("--way", "again=drawn.steer", "--transfer"), "--transfer tries one bundle"),
        (("--way", "again=drawn.steer", "--card", "card.steer"), "--card writes one bundle"),
    ],
)
def test_options_that_change_nothing_are_refused(
    run: Run, tiny: Path, steer: Path, args: tuple[str, ...], message: str
) -> None:
    refused(run("eval", tiny, "--steer", steer, *args), message, code=2)


def test_controls_are_rows(evaluate: Run, steer: Path) -> None:
    result = evaluate("--steer", f"{steer}:0.5", "--controls")
    assert result.exit_code == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 100
    table = json.loads(evaluate("--steer", f"{steer}:0.5", "--controls", "--json").stdout)
    assert [row["name"] for row in table["rows"][3:]] == ["random direction", "guided decoding"]
    assert table["snapshot"]["cells"] > 0
    assert "prompt, its KV kept" in result.stdout


def test_transfer_tries_copies_and_leaves_none(
    evaluate: Run, steer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    result = evaluate("--steer", f"{steer}:0.5", "--transfer")
    assert result.exit_code == 0, result.stderr
    assert "Requantized from F32: Q4_0, Q8_0, F16." in result.stdout
    assert not list((tmp_path / "copies").iterdir())
    trials = json.loads(evaluate("--steer", f"{steer}:0.5", "--transfer", "--json").stdout)["trials"]
    assert [trial["file_type"] for trial in trials] == ["F32", "Q4_0", "Q8_0", "F16"]


def test_all_of_it_on_one_page_and_in_the_card(
    evaluate: Run, run: Run, steer: Path, eight: tuple[str, Path], tmp_path: Path
) -> None:
    page, card = tmp_path / "page.html", tmp_path / "card.steer"
    files = ("--html", page, "--card", card)
    with serving(Stub()) as stub:
        given = ("--steer", steer, "--full", "--turns", 2, "--transfer", "--at", "matched", "--judge", stub.url)
        result = evaluate(*given, *eight, *files, "--json")
    assert result.exit_code == 0, result.stderr
    assert [*json.loads(result.stdout)] == ["replies", "conversations", "facts", "instructions", "transfer"]
    shown = self_contained(page.read_text())
    titles = ["Replies", "Conversations", "Facts", "Instructions", "Other quantizations"]
    assert shown.texts["h2"] == titles
    before, after = load(steer), load(card)
    assert after.digest == before.digest
    changed = {"manifest.json", "card.md"}
    assert {k: v for k, v in after.members.items() if k not in changed} == {
        k: v for k, v in before.members.items() if k not in changed
    }
    assert after.manifest | {"evaluation": {}, "files": {}} == before.manifest | {"evaluation": {}, "files": {}}
    assert set(after.evaluation) == {"replies", "conversations", "facts", "instructions", "transfer"}
    text = run("inspect", card).stdout
    for entry in ("points_lost: ", "learnt_on: F32", "tried_on:", "relevance: ", "trait_kept: "):
        assert entry in text
    assert "tried_on" in (after.card or "")
    refused(evaluate(*files), "exists already")


def test_a_card_keeps_what_it_does_not_measure_again(evaluate: Run, steer: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.steer", tmp_path / "second.steer"
    save(load(steer).with_metadata(evaluation={"own": 1, "transfer": "old"}), first)
    assert evaluate("--steer", first, "--transfer", "--card", second).exit_code == 0
    again = load(second).evaluation
    assert again["own"] == 1
    assert again["transfer"]["learnt_on"] == "F32"
    assert evaluate("--steer", first, "--transfer", "--card", first, "--force").exit_code == 0
    assert load(first).members == load(second).members


def test_a_signature_is_not_lost_in_silence(evaluate: Run, steer: Path, tmp_path: Path) -> None:
    signature = json.dumps({"algorithm": "ed25519", "public_key": "AA==", "signature": "AA=="}).encode()
    signed, copy = tmp_path / "signed.steer", tmp_path / "copy.steer"
    save(Bundle.from_members({**load(steer).members, "signature.json": signature}), signed)
    before = signed.read_bytes()
    refused(evaluate("--steer", signed, "--card", signed, "--force"), "is signed, and would lose its signature")
    assert signed.read_bytes() == before
    copied = evaluate("--steer", signed, "--card", copy)
    assert copied.exit_code == 0
    assert "is signed; copy.steer will not be" in copied.stderr
    assert load(copy).signature is None


def test_a_control_vector_has_no_card(evaluate: Run, tiny: Path, tmp_path: Path) -> None:
    vector = tmp_path / "vector.gguf"
    vector.write_bytes(encode_directions({1: np.ones(read_model_info(str(tiny)).n_embd)}, "llama"))
    given = ("--steer", vector, "--trait", "Arr.", "--card", tmp_path / "card.steer")
    refused(evaluate(*given), "a bare control vector, which has no card")


def test_matched_shows_each_row_at_the_prompts_coherence(evaluate: Run, steer: Path) -> None:
    again = ("--way", steer, "--way", f"half={steer}:0.5", "--at", "matched", "--count", "e")
    result = evaluate(*again)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for key in ("trait", "e per 100 words", "e in replies"):
        begun = next(
            i
            for i, (head, below) in enumerate(pairwise(lines))
            if head.strip().startswith(key) and below.strip() == "at equal coherence"
        )
        assert [bool(line) for line in lines[begun : begun + 6]] == [*[True] * 5, False]
    rows = json.loads(evaluate(*again, "--json").stdout)["rows"]
    assert [row["matched"] is None for row in rows] == [True, True, False, False]
    assert rows[2]["matched"] != rows[3]["matched"]  # each has a curve of its own


def test_the_heading_of_a_long_count_keeps_its_measure(evaluate: Run, steer: Path) -> None:
    result = evaluate("--steer", steer, "--at", "matched", "--count", "arr|matey|parrot|treasure|ship")
    headings = [line.strip() for line in result.stdout.splitlines() if "minus prompt" in line]
    for measure in ("per 100 words", "in replies"):
        assert sum(re.match(rf"arr\|mat.*… {measure} ", heading) is not None for heading in headings) == 2


def test_a_strength_that_changes_nothing_says_that_more_might_do_too(evaluate: Run, steer: Path) -> None:
    result = evaluate("--steer", f"{steer}:0.000001", "--at", "matched")
    assert result.exit_code == 0, result.stderr
    assert "as coherent as the prompt at the highest strength tried; a higher one might be too" in " ".join(
        result.stdout.split()
    )


def test_template_and_stop_are_the_bundles_own_unless_given(
    evaluate: Run, tiny: Path, tmp_path: Path
) -> None:
    template = "{system}\nQ: {question}\nA:"
    own = random_bundle(tiny, tmp_path / "own.steer", trait="Arr.", template=template, stop="e")
    replies = [
        json.loads(evaluate("--steer", own, "--json", *more).stdout)["rows"][0]["replies"]
        for more in ((), ("--template", template.replace("\n", "\\n"), "--stop", "e"), ("--stop", "~~~~"))
    ]
    assert replies[0] == replies[1]
    assert not any("e" in reply for reply in replies[0])


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--count", "("), 2, "not a regular expression"),
        (("--count", ""), 2, "nothing to count"),
        (("--trait", "  "), 2, "--trait is empty"),
        (("--template", "no field"), 1, "expected the fields"),
        (("--questions", "missing.txt"), 1, "missing.txt"),
        (("--steer", "missing.steer"), 1, "missing.steer"),
        (("-n", "0"), 2, "max-tokens"),
        (("--way", "missing.steer"), 1, "missing.steer"),
        (("--way", "=x"), 2, "expected [NAME=]FILE"),
        (("--steer", "x:nan"), 1, "not finite"),
        (("--at", "prompt"), 2, "'prompt' is not one of"),
    ],
)
def test_bad_input_is_one_line(evaluate: Run, args: tuple[str, ...], code: int, message: str) -> None:
    refused(evaluate(*args), message, code=code)


def test_a_bundle_that_names_no_trait_needs_one(evaluate: Run, tiny: Path, tmp_path: Path) -> None:
    mute = random_bundle(tiny, tmp_path / "mute.steer")
    refused(evaluate("--steer", mute), "give --trait TEXT", code=2)
    assert evaluate("--steer", mute, "--trait", "Arr.").exit_code == 0


def test_sentiment_without_vader_says_what_to_install(evaluate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    refused(evaluate("--sentiment"), "pip install 'edgesteer[sentiment]'")


# -- relevance and judges


@pytest.fixture
def eight(tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "eight.txt"
    path.write_text("".join(f"What is {n} and one?\n" for n in range(8)))
    return "--questions", path


def headings(stdout: str) -> list[str]:
    return [
        line.split("  ")[0].strip() for line in map(str.strip, stdout.splitlines()) if "minus prompt" in line
    ]


def test_relevance_stands_beside_trait_and_coherence(evaluate: Run, eight: tuple[str, Path]) -> None:
    result = evaluate(*eight)
    assert result.exit_code == 0, result.stderr
    assert headings(result.stdout) == ["trait", "coherence", "relevance", "question matched"]
    assert "If every reply were the same, 12% would be matched" in result.stdout
    table = json.loads(evaluate(*eight, "--json").stdout)
    assert table["judge"] is None
    assert len(table["rows"][2]["by_reply"]["relevance"]) == 8
    assert table["rows"][1]["minus_prompt"]["relevance"] == {"value": 0, "low": 0, "high": 0}


def test_an_embedding_model_as_judge(
    evaluate: Run, eight: tuple[str, Path], model: Callable[[str], Path]
) -> None:
    result = evaluate(*eight, "--judge", model("bert"))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(result.stdout.split())
    assert re.search(r"The judge (abstains|'s accuracy)|The judge's accuracy", text)
    assert "AUC" in text
    assert ("judge" in headings(result.stdout)) == ("abstains" not in text)


def test_a_server_as_judge(evaluate: Run, eight: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGES_KEY", "sesame")
    with serving(Stub()) as stub:
        given = ("--judge", stub.url, "--judge-key", "JUDGES_KEY", "--judge-timeout", 20)
        result = evaluate(*eight, *given, "--at", "matched")
        assert result.exit_code == 0, result.stderr
        assert {headers["Authorization"] for headers in stub.headers} == {"Bearer sesame"}
        assert max(map(len, result.stdout.splitlines())) <= 100
        shown = headings(result.stdout)
        assert {"judge: alignment", "judge: coherence", "judge: harmonic", "TA@Cp", "TA@C80"} <= {*shown}
        assert "judge: concept" not in shown
        assert "unsteered is less coherent" in result.stdout  # every score is 1, far below 80
        assert re.search(r"note: judged by stub at .*: \d+ calls, \d+ cached, .* tokens", result.stderr)
        asked = len(stub.requests)
        again = evaluate(*eight, *given, "--judge-model", "stub", "--at", "matched", "--json")
        assert len(stub.requests) == asked  # the cache in the home folder
        table = json.loads(again.stdout)
        assert table["judge"]["cost"]["calls"] == 0
        assert table["rows"][2]["judged"]["TA@C80"]["strength"] is None
        assert "sesame" not in result.stdout + result.stderr + again.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--judge-model", "m"), 2, "--judge-model needs --judge URL"),
        (("--judge", "minilm", "--judge-key", "KEY"), 2, "--judge-key needs --judge URL"),
        (("--judge", "minilm", "--judge-timeout", "5"), 2, "--judge-timeout needs --judge URL"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-timeout", "0"), 2, "--judge-timeout"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-model", " "), 2, "--judge-model is empty"),
        (("--judge", "http://127.0.0.1:1/v1", "--judge-key", "NOT_SET_ANYWHERE"), 1, "NOT_SET_ANYWHERE"),
        (("--judge", "localhost:8080"), 2, "expected minilm, the GGUF of an embedding model, or a URL"),
        (("--judge", ""), 2, "expected minilm"),
        (("--judge", "ftp://example.org"), 1, "ftp"),
    ],
)
def test_a_judge_that_cannot_be_meant_is_refused(
    evaluate: Run, args: tuple[str, ...], code: int, message: str
) -> None:
    refused(evaluate(*args), message, code=code)


@pytest.mark.parametrize(
    "answer", ["It sounds like a pirate.", "Sehr gut, fast wie ein Pirat.", '{"score": 101}', ""]
)
@pytest.mark.parametrize("more", [(), ("--turns", "2")])
def test_a_judge_that_gives_no_score_is_one_line(
    run: Run, tiny: Path, steer: Path, answer: str, more: tuple[str, ...]
) -> None:
    with serving(Stub(answer=lambda request: answer)) as stub:
        result = run("eval", tiny, "--steer", steer, "-n", 4, "-t", 1, "--judge", stub.url, *more)
    refused(result, "gives more than a fifth of the replies no", "try another --judge-model")


def test_a_conversation_ends_where_the_context_is_full(run: Run, tiny: Path, steer: Path) -> None:
    command = ("eval", tiny, "--steer", steer, "--turns", 6, "-n", 40, "-t", 1)
    short = run(*command, "-c", 512)
    assert short.exit_code == 0, short.stderr
    assert "ended before turn" in short.stdout
    refused(run(*command, "-c", 256), "take at least", "load it with a larger context")


def test_empty_replies_are_counted(evaluate: Run) -> None:
    begun = json.loads(evaluate("--json").stdout)["rows"][0]["replies"][0][:1]
    result = evaluate("--stop", begun)
    assert result.exit_code == 0, result.stderr
    assert "empty replies" in result.stdout


def test_a_chat_model_is_no_judge(evaluate: Run, tiny: Path, eight: tuple[str, Path]) -> None:
    refused(evaluate(*eight, "--judge", tiny), "embeds single tokens, expected one that embeds whole texts")


def test_too_few_questions_for_a_judge(evaluate: Run) -> None:
    with serving(Stub()) as stub:
        refused(evaluate("--judge", stub.url), "judge: 2 questions, expected at least 8")


def test_a_folder_for_scores_that_cannot_be_made(
    evaluate: Run, eight: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESTEER_HOME", str(tmp_path / "file" / "home"))
    refused(evaluate(*eight, "--judge", "http://127.0.0.1:1/v1"), "set EDGESTEER_HOME")
