"""The reader of PSR networks: documented names, modules; and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgesteer.bundle import Bundle
from edgesteer.errors import BundleError
from edgesteer_converters.artifact import Choice
from edgesteer_converters.networks import psr
from edgesteer_converters.parity import coefficients_of
from edgesteer_converters.readers import recognise
from tests.converters.torch_gates import (
    BLOCKS,
    MODEL,
    WIDTH,
    activations,
    directions,
    networks,
    relu_networks,
    state_dict,
    torch_says,
)

ANY = Choice()


def _saved(tmp_path: Path, tensors: dict[str, torch.Tensor], suffix: str = ".pt") -> str:
    path = tmp_path / f"psr{suffix}"
    if suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_is_read_as_torch_would_run_it(tmp_path: Path, suffix: str) -> None:
    modules = relu_networks()
    artifact = psr.read([_saved(tmp_path, state_dict(modules, directions()), suffix)], MODEL, ANY)
    assert list(artifact.directions) == list(BLOCKS)
    assert artifact.gate is not None
    for n, rows in activations().items():
        assert np.array_equal(artifact.directions[n], directions()[n])
        assert np.abs(coefficients_of(artifact.gate)(n, rows) - torch_says(modules[n], rows)).max() < 1e-6
    built = Bundle.build(name="p", directions=artifact.directions, gate=artifact.gate, model=MODEL)
    assert built.gate_gguf is not None


def test_files_add_up_and_half_precision_is_widened(tmp_path: Path) -> None:
    tensors = {k: v.to(torch.bfloat16) for k, v in state_dict(relu_networks(), directions()).items()}
    parts = [{k: v for k, v in tensors.items() if k.startswith(kind)} for kind in ("gate", "direction")]
    paths = [tmp_path / "gates.pt", tmp_path / "directions.pt"]
    for path, part in zip(paths, parts, strict=True):
        torch.save(part, path)
    artifact = psr.read(paths, MODEL, ANY)
    assert artifact.directions[2].dtype == np.float32
    assert np.array_equal(artifact.directions[2], tensors["direction.2"].float().numpy())
    assert [file["name"] for file in artifact.facts["files"]] == ["gates.pt", "directions.pt"]
    assert artifact.facts["dtype"] == "bfloat16"
    with pytest.raises(BundleError, match="a second time"):
        psr.read([paths[0], paths[0]], MODEL, ANY)


def test_reading_needs_neither_torch_nor_onnx_to_import() -> None:
    modules = "psr, reft, normalise, quantize, merge"
    code = f"import sys, edgesteer_converters.parity; from edgesteer_converters.networks import {modules}"
    told = "print([m for m in ('torch', 'onnx', 'onnxruntime', 'safetensors') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {told}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_choice_takes_blocks_and_moves_an_input_to_the_block_before(tmp_path: Path) -> None:
    path = _saved(tmp_path, state_dict(relu_networks(), directions()))
    some = psr.read([path], MODEL, Choice(blocks=(1, 2)))
    assert list(some.directions) == list(some.gate) == [1, 2]  # type: ignore[arg-type]
    assert any("4" in line for line in some.facts["dropped"])
    moved = psr.read([path], MODEL, Choice(blocks=(3, 3), site="block_input"))
    assert list(moved.directions) == list(moved.gate) == [3]  # type: ignore[arg-type]
    assert np.array_equal(moved.directions[3], directions()[4])
    assert "shifted" in moved.facts["block_base"]
    with pytest.raises(BundleError, match=r"blocks \[0\]"):
        psr.read([path], MODEL, Choice(site="block_input"))  # block 1's input is block 0's output
    for absent in ((5, 5), (2, 4), (4, 5)):
        with pytest.raises(BundleError, match="not (3|5)"):
            psr.read([path], MODEL, Choice(blocks=absent))
    with pytest.raises(BundleError, match="site 'mlp'"):
        psr.read([path], MODEL, Choice(site="mlp"))
    with pytest.raises(BundleError, match="names say both"):
        psr.read([path], MODEL, Choice(block=1))


def _changed(name: str, value: Any) -> dict[str, torch.Tensor]:
    tensors = state_dict(relu_networks(), directions())
    return {k: v for k, v in {**tensors, name: value}.items() if v is not None}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("direction.2", None, "both for every block"),
        ("gate.9.0.weight", torch.ones(1, WIDTH), "layers 0, 1"),
        ("direction.3", torch.ones(WIDTH), "both for every block"),
        ("direction.2", torch.ones(WIDTH + 1), r"direction.2 \[17\]; expected \[16\]"),
        ("direction.2", torch.zeros(WIDTH), "zeros alone at block 2"),
        ("direction.2", torch.full((WIDTH,), float("nan")), "NaN or infinity in 'direction.2'"),
        ("gate.2.0.weight", torch.full((5, WIDTH), float("inf")), "NaN or infinity in 'gate.2.0.weight'"),
        (
            "gate.2.0.weight",
            torch.ones(WIDTH, 5),
            "for width 5; expected 16",
        ),  # the layout of GateWeights instead of Linear's
        ("gate.2.0.weight", torch.ones(5, WIDTH + 1), "width"),
        ("gate.2.0.weight", torch.ones(5), "no matrix"),
        ("gate.2.1.weight", torch.ones(2, 5), "W"),
        ("gate.2.1.bias", None, "layers 0, 1"),
        ("gate.2.7.bias", torch.ones(1), "layers 0, 1"),
        ("optimizer.step", torch.ones(1), "tensor 'optimizer.step'"),
        ("gate.02.0.weight", torch.ones(1), "tensor 'gate.02"),
    ],
)
def test_a_state_dict_that_is_no_psr_is_refused(tmp_path: Path, name: str, value: Any, message: str) -> None:
    path = _saved(tmp_path, _changed(name, value))
    with pytest.raises(BundleError, match=message) as refused:
        psr.read([path], MODEL, ANY)
    assert "\n" not in str(refused.value)


def test_blocks_that_the_model_cannot_steer_are_refused(tmp_path: Path) -> None:
    for block in (0, 6):
        one = {block: relu_networks()[1]}
        path = _saved(tmp_path, state_dict(one, {block: directions()[1]}))
        with pytest.raises(BundleError, match="blocks that can be steered, 1 to 5"):
            psr.read([path], MODEL, ANY)


def test_extensions_are_told_whatever_their_case(tmp_path: Path) -> None:
    path = tmp_path / "PSR.PT"
    torch.save(state_dict(relu_networks(), directions()), path)
    assert psr.recognises(path)
    assert list(psr.read([path], MODEL, ANY).directions) == list(BLOCKS)


class Loud:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


def test_a_pickle_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pt"
    torch.save({"direction.1": Loud()}, path)
    with pytest.raises(BundleError, match=r"bad\.pt"):
        psr.read([path], MODEL, ANY)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [b"", b"not a file of tensors", b"PK\x03\x04 half a zip", b"x" * 30 + b"PK\x05\x06" + b"\x01\x00" * 9],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        psr.read([path], MODEL, ANY)
    with pytest.raises(BundleError, match="no such file"):
        psr.read([tmp_path / "absent.pt"], MODEL, ANY)


class Own(nn.Module):
    """Directions among its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.direction = networks(nn.GELU())[1], nn.Module()
        for n in (2, 3):
            self.direction.register_buffer(str(n), torch.from_numpy(directions()[2]) * n)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.net(h).squeeze(-1))


@pytest.mark.parametrize("name", ["script.pt", "SCRIPT.PT"])
def test_torchscript_is_code_and_is_refused_with_what_to_do_instead(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.jit.save(torch.jit.script(Own().eval()), path)
    for read in (lambda: psr.read([path], MODEL, ANY), lambda: recognise([path])):
        with pytest.raises(
            BundleError, match=r"TorchScript, which is code.*state dict.*from_modules"
        ) as refused:
            read()
        assert "\n" not in str(refused.value)
    with pytest.raises(BundleError, match=r"a TorchScript module; expected an nn\.Module"):
        psr.from_modules(torch.jit.script(Own().eval()), directions())


def test_a_torch_export_program_is_refused_and_its_object_taken(tmp_path: Path) -> None:
    tokens = {0: torch.export.Dim("tokens")}
    program = torch.export.export(Own().eval(), (torch.randn(3, WIDTH),), dynamic_shapes=(tokens,))
    for name in ("own.pt2", "renamed.pt"):
        torch.export.save(program, tmp_path / "own.pt2")
        (tmp_path / name).write_bytes((tmp_path / "own.pt2").read_bytes())
        with pytest.raises(BundleError, match="torch.export"):
            recognise([tmp_path / name])
    with pytest.raises(BundleError, match="torch.export"):
        psr.read([tmp_path / "renamed.pt"], MODEL, ANY)
    assert isinstance(psr.from_modules(program, directions()).gate, bytes)


def test_modules_and_directions_become_an_artifact() -> None:
    modules = networks(nn.Tanh())
    artifact = psr.from_modules(
        modules, {n: torch.from_numpy(v).double() for n, v in directions().items()}, "response"
    )
    assert (artifact.producer, artifact.scope) == ("psr", "response")
    assert all(np.array_equal(artifact.directions[n], directions()[n]) for n in BLOCKS)
    assert isinstance(artifact.gate, bytes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "one \\[n_embd\\]"),
        ({1: np.ones(WIDTH)}, "a module and a direction for every block"),
        ({n: np.ones(WIDTH + n) for n in BLOCKS}, "shapes"),
        ({n: np.full(WIDTH, np.inf) for n in BLOCKS}, "NaN or infinity"),
        ({n: np.zeros(WIDTH) for n in BLOCKS}, "zeros alone"),
        ({n: np.ones(WIDTH + 1) for n in BLOCKS}, "mat1 and mat2"),
    ],
)
def test_directions_that_do_not_fit_the_modules_are_refused(changed: dict[int, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        psr.from_modules(networks(nn.Tanh()), changed)
