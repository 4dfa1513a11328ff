"""From files to a bundle that means the same, on a tiny model: what is accepted, told, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgesteer.bundle import Bundle, ModelInfo, load, read_model_info, save
from edgesteer.errors import BundleError
from edgesteer_converters import model_parity
from edgesteer_converters.artifact import Artifact, Choice
from edgesteer_converters.convert import Converted, Settings, against, convert, read, scales, visited
from edgesteer_converters.model_parity import Text
from edgesteer_converters.networks.psr import from_modules
from tests.converters.torch_gates import networks
from tests.runtime.support import steered

BLOCKS = (1, 3)


@pytest.fixture(scope="module")
def gguf(model: Callable[[str], Path]) -> Path:
    return model("llama")


@pytest.fixture(scope="module")
def info(gguf: Path) -> ModelInfo:
    return read_model_info(gguf)


def directions(width: int, size: float = 0.3) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(5)
    return {n: (size * rng.standard_normal(width) / np.sqrt(width)).astype(np.float32) for n in BLOCKS}


def state_dict(path: Path, width: int, opening: float = 1.0) -> Path:
    """A PSR of the documented names whose gates open on about half of the tokens, or on all."""
    rng = np.random.default_rng(7)
    tensors = {f"direction.{n}": torch.tensor(v) for n, v in directions(width).items()}
    for n in BLOCKS:
        tensors[f"gate.{n}.0.weight"] = torch.tensor(rng.standard_normal((1, width)) / np.sqrt(width)).float()
        tensors[f"gate.{n}.0.bias"] = torch.tensor([opening])
    torch.save(tensors, path)
    return path


def network(path: Path, info: ModelInfo) -> Artifact:
    return read([state_dict(path, info.n_embd)], "psr", info, Choice())


def done(artifact: Artifact, gguf: Path, info: ModelInfo, **how: Any) -> Converted:
    return convert(artifact, gguf, info, Settings(name="net", **how))


def test_a_network_becomes_a_bundle_of_mean_one_that_steers_as_before(
    gguf: Path, info: ModelInfo, tmp_path: Path
) -> None:
    artifact = network(tmp_path / "n.pt", info)
    found = done(artifact, gguf, info)
    bundle = found.bundle
    assert (bundle.kind, bundle.layers, bundle.scope) == ("psr", BLOCKS, "response")
    assert bundle.gate_gguf is not None
    assert found.model is not None
    assert found.model.holds
    assert all(p.max_abs <= 1e-5 * max(1.0, p.size) for p in found.coefficients)
    assert bundle.evaluation == found.to_json()
    assert bundle.training["producer"] == "psr"
    save(bundle, tmp_path / "n.steer")
    assert load(tmp_path / "n.steer") == bundle
    factors = scales(artifact, bundle)
    assert artifact.gate is not None
    for n in BLOCKS:
        assert factors[n] == pytest.approx(1 / bundle.training["mean_coefficient"][str(n)], rel=1e-5)


def test_the_mean_coefficient_over_what_was_visited_is_one(
    gguf: Path, info: ModelInfo, tmp_path: Path
) -> None:
    bundle = done(network(tmp_path / "n.pt", info), gguf, info, parity=False).bundle
    llm = steered(gguf, n_threads=1, n_threads_batch=1)
    texts = model_parity.texts_of(llm, bundle)
    with llm.steered(bundle, 1.0):
        means = []
        for text in texts:
            llm.reset()
            with llm.record() as seen:
                llm.eval([*text.prompt, *text.reply], prompt_len=len(text.prompt))
            means.append(seen.coefficients[len(text.prompt) - 1 :])
    assert np.concatenate(means).mean(axis=0) == pytest.approx(1.0, abs=0.1)


def test_what_is_visited_is_what_the_gate_reads(gguf: Path, info: ModelInfo, tmp_path: Path) -> None:
    """Capture of a bundle that stops below a block: there nothing has been added yet."""
    bundle = done(network(tmp_path / "n.pt", info), gguf, info, parity=False).bundle
    llm = steered(gguf, n_threads=1, n_threads_batch=1)
    text = Text(llm.tokenize(b"the ship"), llm.tokenize(b" sails on", add_bos=False))
    seen = visited(llm, bundle, [text])
    below = Bundle.build(
        name="below", directions={1: bundle.directions[1]}, gate={1: _weights(bundle)[1]}, model=info
    )
    tokens = [*text.prompt, *text.reply]
    with llm.steered(below, 1.0):
        captured = llm.capture(tokens, [3], prompt_len=len(text.prompt))[3]
    np.testing.assert_allclose(seen[3], captured[len(text.prompt) - 1 :], rtol=2e-3, atol=2e-3)


def _weights(bundle: Bundle) -> Mapping[int, Any]:
    from edgesteer.bundle import read_gate_gguf

    assert bundle.gate_gguf is not None
    return read_gate_gguf(bundle.gate_gguf, bundle.layers, bundle.n_embd)


def test_modules_that_are_no_relu_chains_are_compared_with_torch_too(gguf: Path, info: ModelInfo) -> None:
    modules = networks(nn.GELU(), last=nn.Sigmoid(), width=info.n_embd, blocks=BLOCKS)
    found = done(from_modules(modules, directions(info.n_embd)), gguf, info)
    assert found.bundle.gate_gguf is None
    assert len(found.coefficients) == len(BLOCKS)
    assert found.model is not None
    assert found.model.holds


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_fewer_bits_state_their_loss(gguf: Path, info: ModelInfo, tmp_path: Path, weights: str) -> None:
    modules = networks(nn.GELU(), last=nn.Sigmoid(), width=info.n_embd, blocks=BLOCKS)
    artifact = from_modules(modules, directions(info.n_embd))
    found = done(artifact, gguf, info, weights=weights, parity=False, ort=True)
    told = found.bundle.evaluation["parity"]["quantized"]
    assert told["weights"] == weights
    assert 0 < told["max_abs"] < 0.1
    assert found.bundle.gate_ort is not None
    assert found.bundle.gate_gguf is None
    save(found.bundle, tmp_path / "q.steer")
    assert load(tmp_path / "q.steer").gate == found.bundle.gate


def test_a_constant_opens_no_model_and_means_the_same(info: ModelInfo, gguf: Path, tmp_path: Path) -> None:
    vectors = directions(info.n_embd)
    artifact = Artifact("plain", vectors)
    found = convert(artifact, tmp_path / "no such model", info, Settings(name="v"))
    assert (found.bundle.kind, found.bundle.scope, found.to_json()) == ("vector", "all", {})
    for n, vector in vectors.items():
        assert np.array_equal(found.bundle.directions[n], vector)
    compared = done(artifact, gguf, info, parity=True).model
    assert compared is not None
    assert compared.holds


def test_parity_fails_where_the_source_is_another(gguf: Path, info: ModelInfo, tmp_path: Path) -> None:
    artifact = network(tmp_path / "n.pt", info)
    bundle = done(artifact, gguf, info, parity=False).bundle
    assert against(bundle, artifact, gguf, 1).model is not None
    turned = {n: -v for n, v in artifact.directions.items()}
    longer = {n: 50 * v for n, v in artifact.directions.items()}
    other = {n: v[::-1].copy() for n, v in artifact.directions.items()}
    for changed, said in ((turned, "coefficients"), (longer, "coefficients"), (other, "another direction")):
        with pytest.raises(BundleError, match=said) as refused:
            against(bundle, Artifact("psr", changed, artifact.gate), gguf, 1)
        assert "\n" not in str(refused.value)
    fewer = {1: artifact.directions[1]}
    with pytest.raises(BundleError, match="the source has not"):
        against(bundle, Artifact("psr", fewer, {1: artifact.gate[1]}), gguf, 1)  # type: ignore[index]
    with pytest.raises(BundleError, match="the source's kind"):
        against(bundle, Artifact("plain", artifact.directions), gguf, 1)


def test_a_steered_model_that_disagrees_is_a_failure(
    gguf: Path, info: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The law can fail: a reference that adds something else than the bundle is caught by the KL."""
    artifact = network(tmp_path / "n.pt", info)
    real = model_parity.model_parity

    def wrong(model: Any, reference: Any, *rest: Any) -> Any:
        return real(model, lambda n, h: 40 * reference(n, h), *rest)

    monkeypatch.setattr("edgesteer_converters.convert.model_parity", wrong)
    with pytest.raises(BundleError, match="KL of .* nothing was written"):
        done(artifact, gguf, info)


def test_options_of_networks_are_refused_for_constants(info: ModelInfo, gguf: Path) -> None:
    artifact = Artifact("plain", directions(info.n_embd))
    for how in ({"weights": "int8"}, {"ort": True}):
        with pytest.raises(BundleError, match="there is no gate"):
            done(artifact, gguf, info, **how)


def test_gates_that_never_open_are_refused(gguf: Path, info: ModelInfo, tmp_path: Path) -> None:
    artifact = read([state_dict(tmp_path / "n.pt", info.n_embd, opening=-1e4)], "psr", info, Choice())
    with pytest.raises(BundleError, match="mean coefficient of 0"):
        done(artifact, gguf, info)


def test_the_same_input_gives_the_same_bytes(gguf: Path, info: ModelInfo, tmp_path: Path) -> None:
    paths = [tmp_path / "a.steer", tmp_path / "b.steer"]
    for path in paths:
        save(done(network(tmp_path / "n.pt", info), gguf, info).bundle, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    json.dumps(load(paths[0]).manifest, allow_nan=False)


def test_a_large_model_s_network_takes_little_memory(tmp_path: Path) -> None:
    """32 blocks of width 4096, gates with 32 hidden units: arrays in, a file out, Torch asked as well."""
    code = f"""
import resource, sys
import numpy as np
from edgesteer.bundle import ModelInfo, save
from edgesteer_converters.artifact import Artifact
from edgesteer_converters.convert import Settings, accepted
rng = np.random.default_rng(0)
drawn = lambda *shape: rng.standard_normal(shape).astype(np.float32)
info = ModelInfo("llama", "big", 4096, 32, "Q4_0")
directions = {{n: drawn(4096) for n in range(1, 32)}}
gate = {{n: [(drawn(4096, 32) / 64, drawn(32)), (drawn(32, 1) / 6, np.ones(1, np.float32))] for n in directions}}
rows = {{n: drawn(64, 4096) for n in directions}}
done = accepted(Artifact("psr", directions, gate, "response"), rows, info, Settings(name="big"))
save(done.bundle, {str(tmp_path / "big.steer")!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 2**30
    assert load(tmp_path / "big.steer").layers == tuple(range(1, 32))
