"""Stated figures, measured on SmolLM2-135M: minutes of work, so they run by `make proof` alone."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgesteer_models import resolve_bundle

pytestmark = pytest.mark.proof
EDGESTEER = [sys.executable, "-m", "edgesteer"]
TRAIT = "You are a pirate. You always talk like a pirate, arr matey!"


def measured(*args: str) -> dict:
    done = subprocess.run(
        [*EDGESTEER, *args, "-t", "2", "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def test_the_shipped_psr_beats_the_prompt_it_imitates() -> None:
    """Pirate words in at least 80 % of held-out replies, at an NLL not above the prompted replies'."""
    table = measured("eval", "smollm2-135m-instruct", "--steer", "pirate", "--count", "pirate")
    rows = {row["name"]: row for row in table["rows"]}
    assert len(table["questions"]) >= 12
    assert rows["pirate"]["count"]["share"] >= 0.8
    assert rows["pirate"]["nll0"] <= rows["prompt"]["nll0"]


@pytest.mark.parametrize(("name", "method"), [("pirate", "psr"), ("pirate-constant", "constant")])
def test_the_shipped_bundles_come_from_the_command_in_their_cards(
    name: str, method: str, tmp_path: Path
) -> None:
    out = tmp_path / f"{name}.steer"
    words = ["--trait", TRAIT, "--method", method, "--license", "Apache-2.0", "-o", str(out)]
    told = measured("learn", "smollm2-135m-instruct", *words)
    again = hashlib.sha256(out.read_bytes()).hexdigest()
    assert again == hashlib.sha256(Path(resolve_bundle(name)).read_bytes()).hexdigest()
    assert told["seconds"] <= 120
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1.5e6  # kilobytes


def test_per_token_steering_on_all_blocks_costs_at_most_eight_percent() -> None:
    table = measured("bench", "smollm2-135m-instruct", "--steer", "pirate")
    assert table["token"]["pirate"]["ratio"] <= 1.08
