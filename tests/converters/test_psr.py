"""The reader of PSR networks: documented names, TorchScript that is arithmetic, modules; and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
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
from edgesteer_converters.networks.coefficients import asking
from edgesteer_converters.torch_side import torch_coefficients
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
        assert np.abs(asking(artifact.gate)(n, rows) - torch_says(modules[n], rows)).max() < 1e-6
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
    modules = "psr, reft, normalise, quantize, export, merge, torchscript"
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
    with pytest.raises(BundleError, match="no file"):
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


def _scripted(tmp_path: Path, module: Any, name: str = "script.pt") -> Path:
    torch.jit.save(module, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_is_read_with_directions_among_its_buffers(tmp_path: Path, how: str) -> None:
    module = Own().eval()
    scripted = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.randn(3, WIDTH))
    artifact = psr.read([_scripted(tmp_path, scripted)], MODEL, ANY)
    assert isinstance(artifact.gate, bytes)
    assert list(artifact.directions) == [2, 3]
    rows = activations()[1]
    assert np.abs(asking(artifact.gate)(3, rows) - torch_says(module, rows)).max() < 1e-5


class PerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, WIDTH))

    def forward(self, h: torch.Tensor, layer: int) -> torch.Tensor:
        return torch.tanh(h @ self.table[layer])


def test_torchscript_with_directions_beside_it_keeps_the_numbers_of_its_blocks(tmp_path: Path) -> None:
    module = PerBlock()
    path = _scripted(tmp_path, torch.jit.script(module))
    with pytest.raises(BundleError, match="no direction"):
        psr.read([path], MODEL, ANY)
    beside = _saved(tmp_path, {f"direction.{n}": torch.ones(WIDTH) * n for n in (2, 4)}, ".safetensors")
    moved = psr.read([path, beside], MODEL, Choice(site="block_input"))
    assert list(moved.directions) == [1, 3]
    assert [file["name"] for file in moved.facts["files"]] == [path.name, Path(beside).name]
    rows = activations()[1]
    for n in (2, 4):  # block N of the file, which is the output of N - 1
        expected = torch.tanh(torch.from_numpy(rows) @ module.table[n]).detach().numpy()
        assert np.abs(asking(moved.gate)(n - 1, rows) - expected).max() < 1e-5  # type: ignore[arg-type]
        assert np.abs(torch_coefficients(moved)(n - 1, rows) - expected).max() < 1e-6  # not of block N - 1


class Writes(nn.Module):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        torch.save(h, "written-by-torchscript")
        return h[:, 0]


def test_torchscript_that_does_more_than_arithmetic_is_refused_unread(
    tmp_path: Path, monkeypatch: Any
) -> None:
    path = _scripted(tmp_path, torch.jit.script(Writes()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="calls 'save'"):
        psr.read([path], MODEL, ANY)
    assert not (tmp_path / "written-by-torchscript").exists()


@pytest.mark.parametrize(
    "line", ["  def __setstate__(self, x):\n    pass\n", "  f = torch.save\n", "  x = ops.aten.from_file\n"]
)
def test_code_hidden_in_an_archive_is_found(tmp_path: Path, line: str) -> None:
    path = tmp_path / "crafted.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("crafted/code/__torch__.py", f"class M(Module):\n{line}")
    with pytest.raises(BundleError, match="calls '(__setstate__|save|from_file)'"):
        psr.read([path], MODEL, ANY)


def _rewritten(tmp_path: Path, change: Any) -> Path:
    """A TorchScript file of torch's, with change(name, content) -> (name, content) for each of its members."""
    with zipfile.ZipFile(_scripted(tmp_path, torch.jit.script(Own()), "whole.pt")) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    path = tmp_path / "crafted.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(*change(name, content))
    return path


def _with_line(line: str) -> Any:
    """`line` as the first of every forward in the archive."""

    inserted = "".join(f"    {part}\n" for part in line.split("; ")).encode()

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        if not name.endswith(".py"):
            return name, content
        return name, re.sub(rb"(h: Tensor\)[^\n]*:\n)", rb"\1" + inserted, content)

    return change


HIDDEN = {
    "_9 = h.detach_copy; _8 = _9()": "detach_copy",
    "relu = h.detach_copy; _8 = relu()": "detach_copy",
    "list = getattr(h, 'detach_copy'); _8 = list()": "list",
    "list, _8 = h.detach_copy, 1; _7 = list()": "list",
    "_8 = [list() for list in (h.detach_copy,)]": "list",
    "__torch__ = h; _9 = __torch__.detach_copy; _8 = _9()": "__torch__",
    "_9 = __torch__.torch.classes.quantized.Conv2dPackedParamsBase": "torch.classes",
    "while True: pass": "while",
}


@pytest.mark.parametrize("line", HIDDEN)
def test_a_call_cannot_hide_behind_a_name(tmp_path: Path, line: str) -> None:
    path = _rewritten(tmp_path, _with_line(line))
    with pytest.raises(BundleError, match=f"calls '{HIDDEN[line]}"):
        psr.read([path], MODEL, ANY)


def test_names_for_what_is_allowed_are_allowed(tmp_path: Path) -> None:
    path = _rewritten(tmp_path, _with_line("_9 = h.detach; _8 = _9()"))
    assert isinstance(psr.read([path], MODEL, ANY).gate, bytes)


def _code(name: str, content: bytes, said: bytes) -> tuple[str, bytes]:
    return name, said + content if name.endswith(".py") else content


SAVES = b"def f(h: Tensor) -> NoneType:\n  torch.save(h, 'x')\n  return None\n"
OTHERWISE = {
    "code that Python reads as text": lambda n, c: _code(
        n, c, b"# coding: utf-7\n# +AAoAIgAiACI-\n" + SAVES + b"# +ACIAIgAi-\n"
    ),
    "a comment that ends for Python alone": lambda n, c: _code(n, c, b'# \r"""\n' + SAVES + b'# \r"""\n'),
    "a name that torch finds in any case": lambda n, c: (
        n.replace("__torch__.py", "__torch__.PY"),
        c + b"\n\f",
    ),
    "a class of C++": lambda n, c: (
        n,
        c.replace(b"c__torch__", b"c__torch__.torch\nclasses.a\n0c__torch__", 1)
        if n.endswith("data.pkl")
        else c,
    ),
    "the older format": lambda n, c: (n.replace("version", "model.json"), c),
}


@pytest.mark.parametrize("how", OTHERWISE)
def test_what_torch_would_read_otherwise_than_the_scan_is_refused_unread(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.jit, "load", None)
    with pytest.raises(BundleError, match="other characters|calls '(save|torch.classes)'|older"):
        psr.read([_rewritten(tmp_path, OTHERWISE[how])], MODEL, ANY)


def test_an_archive_behind_something_else_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _scripted(tmp_path, torch.jit.script(Own()))
    path.write_bytes(b"\0\0\0\0PTMF" + path.read_bytes())
    monkeypatch.setattr(torch.jit, "load", None)
    with pytest.raises(BundleError, match="mobile"):
        psr.read([path], MODEL, ANY)


def test_a_torch_export_program_is_refused_and_its_object_taken(tmp_path: Path) -> None:
    tokens = {0: torch.export.Dim("tokens")}
    program = torch.export.export(Own().eval(), (torch.randn(3, WIDTH),), dynamic_shapes=(tokens,))
    for name in ("own.pt2", "renamed.pt"):
        torch.export.save(program, tmp_path / "own.pt2")
        (tmp_path / name).write_bytes((tmp_path / "own.pt2").read_bytes())
        with pytest.raises(BundleError, match="torch.export"):
            psr.read([tmp_path / name], MODEL, ANY)
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
        ({n: np.ones(WIDTH + 1) for n in BLOCKS}, "mat1 and mat2"),
    ],
)
def test_directions_that_do_not_fit_the_modules_are_refused(changed: dict[int, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        psr.from_modules(networks(nn.Tanh()), changed)
