"""The sentinel and the laws on a tiny random model of every architecture that tests.tiny can build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgesteer import SteeringUnavailable
from tests.checks import architectures as page
from tests.runtime.architecture_bench import Bench, same
from tests.runtime.architecture_laws import (
    Outcome,
    examine,
    laws_of,
    steerable,
)
from tests.runtime.support import psr, vector
from tests.tiny import ARCHITECTURES, CAUSAL

Outcomes = Callable[[str], Outcome]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture(scope="session")
def outcome(folder: Path) -> Outcomes:
    """What holds on an architecture, found out once."""
    found: dict[str, Outcome] = {}

    def of(arch: str) -> Outcome:
        if arch not in found:
            found[arch] = examine(arch, folder)
        return found[arch]

    return of


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_sentinel_proves_every_block_but_the_first_or_none(outcome: Outcomes, arch: str) -> None:
    proven = outcome(arch)
    if not ARCHITECTURES[arch].causal:
        assert proven.tap is proven.slots is None
    else:
        assert proven.tap == proven.slots == (frozenset({1, 2, 3}) if steerable(arch) else frozenset())


@pytest.mark.parametrize(("arch", "law"), [(a, law) for a in ARCHITECTURES for law in laws_of(a)])
def test_law(outcome: Outcomes, arch: str, law: str) -> None:
    denied = outcome(arch).failures.get(law)
    if denied is not None:
        raise denied


def test_there_are_architectures_of_every_kind() -> None:
    kinds = {a.kind for a in ARCHITECTURES.values()}
    assert kinds >= {"decoder", "experts", "recurrent", "hybrid", "encoder"}
    assert sum(not a.slot for a in ARCHITECTURES.values()) >= 3
    assert len(ARCHITECTURES) >= 16


def test_the_page_says_what_was_found(outcome: Outcomes) -> None:
    assert page.PAGE.read_text("utf-8") == page.page(outcome), "run tests/checks/architectures.py --write"


@pytest.mark.parametrize("arch", [a for a in CAUSAL if steerable(a)])
def test_proving_leaves_what_was_evaluated(folder: Path, arch: str) -> None:
    bench = Bench(arch, folder)
    proven, never = bench.open(), bench.open()
    for llm in (proven, never):
        llm.eval(bench.tokens[:8])
    proven.steerable()
    for llm in (proven, never):
        llm.eval(bench.tokens[8:])
    assert proven.n_tokens == never.n_tokens
    same(proven.scores[: proven.n_tokens], never.scores[: never.n_tokens], "after the sentinel")
    for llm in (bench, proven, never):
        llm.close()


@pytest.mark.parametrize("arch", [a for a in CAUSAL if not steerable(a)])
@pytest.mark.parametrize("kind", [vector, psr])
def test_a_refusal_changes_nothing(folder: Path, arch: str, kind: Callable) -> None:
    bench = Bench(arch, folder)
    bench.steered.reset()
    bench.steered.eval(bench.tokens[:8])
    with pytest.raises(SteeringUnavailable, match=f"architecture {arch}: .* at block 1-3"):
        bench.steered.steer(kind(bench.path))
    assert not bench.steered.steering
    bench.steered.eval(bench.tokens[8:])
    assert bench.steered.n_tokens == len(bench.tokens)
    bench.close()
