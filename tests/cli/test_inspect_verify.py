"""`edgesteer inspect` and `edgesteer verify`: they say what the bundle room says, and change nothing."""

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
    for text in ("toy", "talks like a toy", "response", "1-2, 5", "1.5", "Toy 1K", "constant", "directions.gguf"):
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
