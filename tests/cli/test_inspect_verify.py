"""`edgesteer inspect` and `edgesteer verify`: what they report, and that they change nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import pytest

from edgesteer.bundle import Bundle, ModelInfo, load, save

Run = Callable[..., click.testing.Result]


def test_inspect_tells_the_manifest_and_the_norms(run: Run, bundle_file: Path) -> None:
    facts = json.loads(run("inspect", bundle_file, "--json").stdout)
    bundle = load(bundle_file)
    assert {key: facts[key] for key in bundle.manifest} == bundle.manifest
    assert facts["norms"] == {
        str(n): pytest.approx(float(np.linalg.norm(d)), rel=1e-5) for n, d in bundle.directions.items()
    }


def test_inspect_for_people_names_what_matters(run: Run, bundle_file: Path) -> None:
    shown = run("inspect", bundle_file).stdout
    for text in (
        "toy",
        "talks like a toy",
        "response",
        "1-2, 5",
        "1.5",
        "Toy 1K",
        "constant",
        "directions.gguf",
    ):
        assert text in shown


def test_inspect_takes_a_bare_control_vector(run: Run, vector_file: Path) -> None:
    result = run("inspect", vector_file)
    assert result.exit_code == 0
    assert "llama" in result.stdout
    assert json.loads(run("inspect", vector_file, "--json").stdout)["layers"] == [1, 2, 5]


def test_extract_writes_the_same_bundle_as_a_folder(run: Run, bundle_file: Path) -> None:
    assert run("inspect", bundle_file, "--extract", "out").exit_code == 0
    assert load("out") == load(bundle_file)


def test_extract_keeps_what_is_there_without_force(run: Run, bundle_file: Path) -> None:
    Path("out").mkdir()
    result = run("inspect", bundle_file, "--extract", "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert list(Path("out").iterdir()) == []
    run("inspect", bundle_file, "--extract", "again")
    assert run("inspect", bundle_file, "--extract", "again", "--force").exit_code == 0


def test_text_from_a_bundle_cannot_drive_the_terminal(run: Run, tmp_path: Path) -> None:
    hostile = "a\x1b[2J\rb\nc"
    bundle = Bundle.build(
        name=hostile,
        description=hostile,
        license=hostile,
        directions={1: np.ones(4, np.float32)},
        model=ModelInfo("llama", hostile, 4, 2, hostile, None),
        training={"note": hostile},
    )
    save(bundle, tmp_path / "x.steer")
    shown = run("inspect", "x.steer").stdout
    assert not {c for c in shown if not c.isprintable()} - {"\n"}


def test_several_bundles_show_how_they_act_together(run: Run, bundle_file: Path, vector_file: Path) -> None:
    result = run("inspect", f"{bundle_file}:2", f"{vector_file}:-0.5", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    assert [facts["strength_given"] for facts in data["bundles"]] == [2.0, -0.5]
    assert {facts["digest"] for facts in data["bundles"]} == {load(bundle_file).digest}
    blocks = data["interference"]["blocks"]
    assert [block["block"] for block in blocks] == [1, 2, 5]
    for block in blocks:
        assert block["norms"] == pytest.approx({"0": 2 * block["block"], "1": block["block"] / 2})
        assert block["joint"] == pytest.approx(1.5 * block["block"])
        assert block["cosines"] == [{"pair": [0, 1], "cosine": -1.0, "verdict": "against"}]


def test_several_bundles_for_people(run: Run, bundle_file: Path, vector_file: Path) -> None:
    shown = run("inspect", bundle_file, f"{vector_file}:-0.5").stdout
    for text in ("toy", "response", "1.5", "-0.5", "joint", "against each other"):
        assert text in shown


def test_a_bundle_given_twice_adds_up_or_cancels(run: Run, bundle_file: Path) -> None:
    assert "add up to 2.5" in " ".join(run("inspect", bundle_file, f"{bundle_file}:1").stdout.split())
    negative = Bundle.build(
        name="negative",
        directions={n: -d for n, d in load(bundle_file).directions.items()},
        model=ModelInfo("llama", "Toy 1K", 8, 8, "Q4_1", None),
    )
    save(negative, bundle_file.parent / "negative.steer")
    for pair in ((f"{bundle_file}:1", f"{bundle_file}:-1"), (f"{bundle_file}:1", "negative.steer:1")):
        assert "cancel" in run("inspect", *pair).stdout


def test_a_strength_beyond_its_range_is_noted_on_stderr(run: Run, bundle_file: Path) -> None:
    result = run("inspect", f"{bundle_file}:4", f"{bundle_file}:1", "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith("edgesteer: note: toy: strength 5 ")
    assert result.stderr.count("\n") == 1
    json.loads(result.stdout)


def test_several_bundles_that_do_not_go_together_are_refused(run: Run, bundle_file: Path) -> None:
    for name, model in (
        ("narrow", ModelInfo("llama", "Narrow", 4, 8, "Q4_1", None)),
        ("gemma", ModelInfo("gemma3", "Gemma", 8, 8, "Q4_1", None)),
        ("short", ModelInfo("llama", "Short", 8, 6, "Q4_1", None)),
    ):
        other = Bundle.build(name=name, directions={1: np.ones(model.n_embd)}, model=model)
        save(other, bundle_file.parent / f"{name}.steer")
        result = run("inspect", bundle_file, f"{name}.steer")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert f"{name}.steer" in result.stderr
        assert "toy.steer" in result.stderr


@pytest.mark.parametrize("more", [["absent.steer"], ["toy.steer:nan"], ["toy.steer", "absent.steer:1"]])
def test_one_bad_bundle_of_several_is_refused(run: Run, bundle_file: Path, more: list[str]) -> None:
    result = run("inspect", bundle_file, *more)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("option", [["--extract", "out"], ["--force"]])
def test_what_is_for_one_bundle_is_wrong_usage_with_several(
    run: Run, bundle_file: Path, option: list[str]
) -> None:
    assert run("inspect", bundle_file, bundle_file, *option).exit_code == 2
    assert run("inspect").exit_code == 2
    assert not Path("out").exists()


def test_verify_goes_through_all_and_fails_for_one(run: Run, bundle_file: Path) -> None:
    broken = Path("broken.steer")
    broken.write_bytes(bundle_file.read_bytes()[:-30])
    assert run("verify", bundle_file).exit_code == 0
    result = run("verify", broken, bundle_file, "absent.steer", "--json")
    assert result.exit_code == 1
    assert [one["ok"] for one in json.loads(result.stdout)] == [False, True, False]
    assert result.stderr.count("\n") == 2
    assert "broken.steer" in result.stderr
    assert "absent.steer" in result.stderr
