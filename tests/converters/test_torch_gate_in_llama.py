"""A gate that is no ReLU chain steers a model as FORMAT's equation and Torch say, on every engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from edgesteer.bundle import Bundle, encode_directions, load, read_model_info, save
from edgesteer.bundle.agreement import sha256
from edgesteer.errors import BundleError
from edgesteer.runtime import gates
from edgesteer_converters.networks.merge import stamp
from edgesteer_converters.networks.normalise import normalise
from edgesteer_converters.networks.psr import from_modules
from edgesteer_converters.networks.quantize import quantize
from tests.converters.torch_gates import activations, networks, torch_says
from tests.runtime.support import close, steered, tokens_of

BLOCKS = (1, 3)


def _bundle(
    path: Path, blocks: Any, normal: dict[int, np.ndarray] | None, quantized: Any = None
) -> tuple[Bundle, Any]:
    info = read_model_info(path)
    modules = networks(nn.GELU(), last=nn.Tanh(), width=info.n_embd, blocks=BLOCKS)
    vectors = {n: 0.5 * rows[0] for n, rows in activations(1, info.n_embd, BLOCKS).items()}
    artifact = from_modules({n: modules[n] for n in blocks}, {n: vectors[n] for n in blocks})
    artifact = artifact if normal is None else normalise(artifact, {n: normal[n] for n in blocks})
    assert isinstance(artifact.gate, bytes)
    gate = quantize(artifact.gate, quantized, normal or {}).gate if quantized else artifact.gate
    gate = stamp(gate, blocks, sha256(encode_directions(artifact.directions, info.architecture)))
    bundle = Bundle.build(name="tanh", directions=artifact.directions, gate=gate, model=info, scope="all")
    return bundle, {n: (modules[n], vectors[n]) for n in blocks}


@pytest.mark.parametrize("form", ["as trained", "normalised", "int8"])
@pytest.mark.parametrize("python", [False, True])
def test_the_model_is_steered_as_torch_says(
    model: Callable[[str], Path], tmp_path: Path, monkeypatch: Any, form: str, python: bool
) -> None:
    path = model("llama")
    if python:
        monkeypatch.setattr(gates.OrtGate, "available", staticmethod(lambda: False))
    llm = steered(path, n_threads=1, n_threads_batch=1)
    tokens = tokens_of(llm)
    plain = llm.capture(tokens, layers=list(BLOCKS))
    below, trained = _bundle(
        path, (1,), plain if form != "as trained" else None, "int8" if form == "int8" else None
    )
    both, trained = _bundle(
        path, BLOCKS, plain if form != "as trained" else None, "int8" if form == "int8" else None
    )
    save(both, tmp_path / "tanh.steer")
    llm.steer(below, strength=1.0)
    unsteered_at = {1: plain[1], 3: llm.capture(tokens, layers=[3])[3]}
    llm.steer(load(tmp_path / "tanh.steer"), strength=1.0)
    got = llm.capture(tokens, layers=list(BLOCKS))
    llm.close()
    for n, (module, direction) in trained.items():
        h = unsteered_at[n]
        expected = h + torch_says(module, h)[:, None] * direction
        assert not close(got[n], h)
        assert close(got[n], expected, 2e-2 if form == "int8" else 2e-5)


@pytest.mark.parametrize("python", [False, True])
def test_the_runtime_makes_and_probes_the_gate(
    model: Callable[[str], Path], monkeypatch: Any, python: bool
) -> None:
    if python:
        monkeypatch.setattr(gates.OrtGate, "available", staticmethod(lambda: False))
    bundle, trained = _bundle(model("llama"), BLOCKS, None)
    gate = gates.make_gate(bundle, 4)
    for n, rows in activations(width=bundle.n_embd, blocks=BLOCKS).items():
        for some in (rows, rows[:1]):
            assert np.abs(gate.coefficient(n, some) - torch_says(trained[n][0], some)).max() < 1e-5
    with pytest.raises(BundleError, match="gate.gguf"):
        gates.make_gate(bundle, 4, "native")
