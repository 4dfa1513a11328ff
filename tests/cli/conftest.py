"""Small bundles on disk, and the command line called in this process."""

from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import pytest

from edgesteer.bundle import Bundle, ModelInfo, StrengthRange, encode_directions, save
from edgesteer.cli import main
from tests.cli.support import Run, random_bundle

WIDTH = 8


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("inspect", "x.steer")` in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESTEER_HOME", str(tmp_path / "home"))

    def invoke(*args: object, input: str | bytes | None = None) -> click.testing.Result:
        runner = click.testing.CliRunner()
        return runner.invoke(main, [str(arg) for arg in args], input, prog_name="edgesteer")

    return invoke


def directions(*layers: int) -> dict[int, np.ndarray]:
    """Block -> a direction of L2 norm `block`."""
    return {n: np.eye(WIDTH, dtype=np.float32)[n % WIDTH] * n for n in layers}


@pytest.fixture
def bundle_file(tmp_path: Path) -> Path:
    """A vector bundle for blocks 1, 2 and 5 of a model with 8 blocks."""
    bundle = Bundle.build(
        name="toy",
        description="talks like a toy",
        directions=directions(1, 2, 5),
        model=ModelInfo("llama", "Toy 1K", WIDTH, 8, "Q4_1", None),
        scope="response",
        strength=StrengthRange(1.5, 0.0, 3.0),
        training={"method": "constant", "seed": 7},
    )
    save(bundle, tmp_path / "toy.steer")
    return tmp_path / "toy.steer"


@pytest.fixture
def vector_file(tmp_path: Path) -> Path:
    """A bare control vector for blocks 1, 2 and 5."""
    path = tmp_path / "toy.gguf"
    path.write_bytes(encode_directions(directions(1, 2, 5), "llama"))
    return path


@pytest.fixture(scope="module")
def tiny(model: Callable[[str], Path]) -> Path:
    """A tiny random GGUF."""
    return model("llama")


@pytest.fixture
def steer(tiny: Path, tmp_path: Path) -> Path:
    """A bundle for `tiny` with a trait."""
    return random_bundle(tiny, tmp_path / "drawn.steer", trait="Talk like a pirate.")
