"""Stated figures, measured on SmolLM2-135M: minutes of work, so they run by `make proof` alone."""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgesteer import SteeredLlama, load
from edgesteer.evaluate.bench import random_bundles
from edgesteer.learn.pas import set_path
from edgesteer_models import resolve_bundle
from tests.runtime.test_dial import memory_growth
from tests.tiny import write_tiny

pytestmark = pytest.mark.proof
EDGESTEER = [sys.executable, "-m", "edgesteer"]
TRAIT = "You are a pirate. You always talk like a pirate, arr matey!"


def measured(*args: str) -> dict:
    done = subprocess.run(
        [*EDGESTEER, *args, "-t", "2", "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


SHIPPED = ("pirate", "pirate-constant", "shakespeare", "gloomy", "cheerful")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_keeps_to_its_question_and_shows_its_trait(name: str) -> None:
    """At its default strength, beside the prompt that it imitates, by a judge that learning never used."""
    args = ("--steer", name, "--judge", "minilm", "-n", "48")
    rows = {row["name"]: row for row in measured("eval", "smollm2-135m-instruct", *args)["rows"]}
    own, prompt, plain = (rows[key]["estimates"] for key in (name, "prompt", "unsteered"))
    assert own["relevance"]["value"] >= 0.8 * prompt["relevance"]["value"]
    assert own["judge"]["value"] > plain["judge"]["value"]
    assert own["distinct2"]["value"] >= 0.9 * prompt["distinct2"]["value"]


def test_a_shipped_bundle_comes_from_the_command_in_its_card(tmp_path: Path) -> None:
    """On another processor rounding leads training elsewhere, but as near to the prompted model."""
    shipped = load(resolve_bundle("pirate"))
    words = ["--trait", TRAIT, "--effort", "thorough", "--license", "Apache-2.0"]
    summary = measured("learn", "smollm2-135m-instruct", *words, "-o", str(tmp_path / "pirate.steer"))
    nats = [facts["own"]["kl_after"] for facts in (summary["trained"], shipped.training["trained"])]
    assert nats[0] == pytest.approx(nats[1], rel=0.15)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3.5e6  # kilobytes


# Time per token and of a prefill against unsteered, as DESIGN.md states them ("Performance it must hold").
TOKEN = {"constant": 1.005, "A-PSR (native)": 1.01, "A-PSR": 1.03}
PREFILL = 1.02
# Allowed in addition: until the kernels are in the graph, for llama.cpp's callback, which stops its threads
# at each block (2 % of a token of this model); and for a shared machine, on which two runs differ by 1 %.
CALLBACK, MACHINE = 0.02, 0.015


def test_what_steering_costs() -> None:
    table = measured("bench", "smollm2-135m-instruct")
    for name, bound in TOKEN.items():
        slack = MACHINE + (CALLBACK if name != "constant" else 0)  # constants lie in llama.cpp's slots
        assert table["token"][name]["ratio"] <= bound + slack, name
        assert table["prefill"][name]["ratio"] <= PREFILL + slack, name
    assert all(change["seconds"] < 1e-3 for change in table["strength_change"].values())
    assert all(loaded["seconds"] < 0.05 for loaded in table["load"].values())


def test_recording_costs_at_most_a_twentieth(smollm2: Path) -> None:
    """Parts of a reply with and without llm.record(), alternating in one context."""
    llm = SteeredLlama(smollm2, n_ctx=512, n_threads=2, n_threads_batch=2)
    llm.steer(random_bundles(llm.model_info)["A-PSR"])
    tokens = list(range(3, 67))
    llm.eval(tokens)

    def seconds(recorded: bool) -> float:
        llm.n_tokens = len(tokens)
        start = time.perf_counter()
        with llm.record() if recorded else contextlib.nullcontext():
            for token in tokens[:32]:
                llm.eval([token])
        return time.perf_counter() - start

    seconds(True), seconds(False)
    turns = [[seconds(first), seconds(not first)] for first in (True, False) * 15]
    ratios = [a / b if i % 2 == 0 else b / a for i, (a, b) in enumerate(turns)]
    print(f"recording: {statistics.median(ratios):.4f} of the time without")
    assert statistics.median(ratios) <= 1.05


def test_a_search_on_shuffled_labels_gains_nothing(tmp_path: Path) -> None:
    """Of 120 cells on few validation items, the best looks good there. On the test split it must not: the
    interval of the mean gain over six splits includes zero."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join(set_path("sharing").read_text().splitlines(keepends=True)[:200]))
    words = [
        str(few),
        "--format",
        "persona",
        "--shuffle-labels",
        "--trials",
        "6",
        "-o",
        str(tmp_path / "p.steer"),
    ]
    report = measured("pas", "smollm2-135m-instruct", *words)
    best = [trial["chosen"]["accuracy"]["validation"] for trial in report["trials"]]
    assert sum(one["after"] - one["before"] for one in best) > 0  # the best of many by chance
    for measure in ("accuracy", "balanced"):
        _, low, high = report["gain_over_seeds"][measure]
        assert low <= 0 <= high


def test_importing_costs_less_than_a_tenth_of_a_second() -> None:
    def seconds(modules: str) -> float:
        code = f"import time; t = time.perf_counter(); import {modules}; print(time.perf_counter() - t)"
        runs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(7)
        ]
        return statistics.median(float(run.stdout) for run in runs)

    assert seconds("llama_cpp, numpy, edgesteer") - seconds("llama_cpp, numpy") <= 0.1


def test_ten_thousand_tokens_with_changing_plans_take_no_memory(smollm2: Path) -> None:
    llm = SteeredLlama(smollm2, n_ctx=256, n_threads=2, n_threads_batch=2)
    assert memory_growth(llm, smollm2, tokens=10_000, settle=3_000) < 5_000_000


_WIDE = """
import sys, resource
from pathlib import Path
from edgesteer import SteeredLlama, load
from edgesteer.evaluate.bench import random_bundles
from edgesteer.learn import Limits, Recipe, learn
lenient = Limits(min_tokens=1, min_distinct2=0.0, max_nll=1e9, min_trait=-1e9)  # a random model babbles
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
llm = SteeredLlama(sys.argv[1], n_ctx=16 * 256, n_seq_max=16, n_threads=2, n_threads_batch=2)
llm.eval(list(range(3, 259)))
before = peak()
questions = [f"What is the number {i}?" for i in range(int(sys.argv[2]))]
recipe = Recipe(max_tokens=64, temperature=1.0)
_, summary = learn(llm, "You are a pirate.", recipe, questions=questions, limits=lenient)
print(summary.tokens, peak() - before)
"""


def test_memory_of_learning_is_bounded_at_width_4096(tmp_path: Path) -> None:
    """Rows beyond 512 MB are on disk, and the fit goes block by block, so the peak is that of one block."""
    wide = write_tiny(
        tmp_path / "wide.gguf",
        "llama",
        n_layer=6,
        n_embd=4096,
        n_ff=512,
        n_head=32,
        n_head_kv=1,
        n_ctx=4096,
        weight_type="Q8_0",
    )
    done = subprocess.run(
        [sys.executable, "-c", _WIDE, str(wide), "125"], stdout=subprocess.PIPE, text=True, check=True
    )
    tokens, grown = done.stdout.split()
    assert int(tokens) > 6000
    assert float(grown) < 1.5
