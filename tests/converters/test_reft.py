"""Rank-1 ReFT: what pyreft's and AxBench's equations add is what direction and coefficient add."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesteer.bundle import Bundle, check_gate, encode_directions
from edgesteer.bundle.agreement import sha256
from edgesteer.errors import BundleError
from edgesteer_converters.artifact import Artifact, Choice
from edgesteer_converters.networks import reft
from edgesteer_converters.networks.merge import stamp
from edgesteer_converters.parity import coefficients_of
from edgesteer_converters.torch_parity import against_torch, torch_coefficients
from tests.converters.torch_gates import MODEL, WIDTH, activations

ANY = Choice()
NAME = "intkey_layer_{}_comp_block_output_unit_pos_nunit_1#0.bin"


def _loreft(seed: int, rank: int = 1, width: int = WIDTH) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, rank, generator=generator))[0]
    return {
        "weight": torch.randn(rank, width, generator=generator),
        "bias": torch.randn(rank, generator=generator),
        "rotate_layer": rotation,
    }


def _saved(folder: Path, tensors: Any, name: str) -> Path:
    torch.save(tensors, folder / name)
    return folder / name


def test_loreft_adds_what_its_equation_adds(tmp_path: Path) -> None:
    saved = {n: _loreft(n) for n in (1, 4)}
    for n, tensors in saved.items():
        _saved(tmp_path, tensors, NAME.format(n))
    artifact = reft.read([tmp_path], MODEL, ANY)
    assert isinstance(artifact.gate, bytes)
    assert list(artifact.directions) == [1, 4]
    for n, t in saved.items():
        h = activations(blocks=(n,))[n]
        R, x = t["rotate_layer"].T.double(), torch.from_numpy(h).double()
        expected = (x @ t["weight"].T.double() + t["bias"] - x @ R.T) @ R
        added = coefficients_of(artifact.gate)(n, h)[:, None] * artifact.directions[n]
        assert np.abs(added - expected.numpy()).max() < 1e-5
    digest = sha256(encode_directions(artifact.directions, MODEL.architecture))
    gate = stamp(artifact.gate, [1, 4], digest)
    check_gate(gate, [1, 4], WIDTH, digest)
    assert Bundle.build(name="r", directions=artifact.directions, gate=gate, model=MODEL).kind == "psr"


@pytest.mark.parametrize(
    ("name", "block"),
    [
        (NAME.format(3), 3),
        ("layer.3.comp.block_output.unit.pos.nunit.1#0.bin", 3),
        ("intkey_layer_3_comp_block_input_unit_pos_nunit_1#0.bin", 2),
        ("comp.model.layers[3].output.unit.pos.nunit.1#0.bin", 3),
    ],
)
def test_the_block_is_in_the_files_name(tmp_path: Path, name: str, block: int) -> None:
    path = _saved(tmp_path, _loreft(0), name)
    assert list(reft.read([path], MODEL, ANY).directions) == [block]


def test_a_choice_names_the_block_or_takes_some(tmp_path: Path) -> None:
    path = _saved(tmp_path, _loreft(0), "adapter.pt")
    assert list(reft.read([path], MODEL, Choice(block=2)).directions) == [2]
    assert list(reft.read([path], MODEL, Choice(block=2, site="block_input")).directions) == [1]
    paths = [_saved(tmp_path, _loreft(n), NAME.format(n)) for n in (1, 2, 4)]
    some = reft.read(paths, MODEL, Choice(blocks=(1, 2)))
    assert list(some.directions) == list(some.network) == [1, 2]
    moved = reft.read(paths[1:], MODEL, Choice(blocks=(3, 3), site="block_input"))
    assert np.array_equal(moved.directions[3], _loreft(4)["rotate_layer"][:, 0].numpy())
    for absent in ((2, 4), (5, 5)):
        with pytest.raises(BundleError, match="not (3|5)"):
            reft.read(paths, MODEL, Choice(blocks=absent))


def test_choices_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    paths = [_saved(tmp_path, _loreft(n), NAME.format(n)) for n in (1, 2)]
    with pytest.raises(BundleError, match="a choice of block 1 for 2 files"):
        reft.read(paths, MODEL, Choice(block=1))
    with pytest.raises(BundleError, match="a choice of tensor"):
        reft.read(paths, MODEL, Choice(tensor="weight"))
    weight = _saved(tmp_path, torch.ones(1, WIDTH), "LsReFT_weight.pt")
    with pytest.raises(BundleError, match="--block"):
        reft.read([weight], MODEL, Choice(block=2, blocks=(1, 2)))
    with pytest.raises(BundleError, match="the site 'mlp'"):
        reft.read([weight], MODEL, Choice(block=2, site="mlp"))


def test_torch_is_asked_for_the_coefficients_of_loreft(tmp_path: Path) -> None:
    """The comparison needs a network that is not the gate itself, and finds a gate that differs."""
    artifact = reft.read([_saved(tmp_path, _loreft(3), NAME.format(3))], MODEL, ANY)
    rows = activations(blocks=(3,))
    asked = torch_coefficients(artifact)
    assert np.abs(asked(3, rows[3]) - coefficients_of(artifact.gate)(3, rows[3])).max() < 1e-5  # type: ignore[arg-type]
    other = reft.read([_saved(tmp_path, _loreft(4), NAME.format(3))], MODEL, ANY)
    bundle = Bundle.build(name="r", directions=artifact.directions, gate=_stamped(artifact), model=MODEL)
    assert against_torch(artifact, bundle, rows)
    with pytest.raises(BundleError, match="coefficients that differ"):
        against_torch(replace(artifact, network=other.network), bundle, rows)
    with pytest.raises(BundleError, match="without the network"):
        torch_coefficients(replace(artifact, network=None))


def _stamped(artifact: Artifact) -> bytes:
    assert isinstance(artifact.gate, bytes)
    digest = sha256(encode_directions(artifact.directions, MODEL.architecture))
    return stamp(artifact.gate, list(artifact.directions), digest)


def test_facts_are_as_those_of_vectors(tmp_path: Path) -> None:
    path = _saved(tmp_path, _loreft(3), NAME.format(3).replace(".bin", ".BIN"))
    assert reft.recognises(path)
    facts = reft.read([tmp_path], MODEL, ANY).facts
    assert facts["files"] == [{"name": path.name, "sha256": sha256(path.read_bytes())}]
    assert facts["norm"]["max"] == pytest.approx(1)
    assert (facts["site"], facts["dtype"], facts["dropped"]) == ("block_output", "float32", [])
    assert any("positions" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("tensors", "name", "message"),
    [
        (_loreft(0, rank=4), NAME.format(2), "rank 4; expected rank 1"),
        (_loreft(0, width=WIDTH + 1), NAME.format(2), "LoReFT of rank 1 for tiny"),
        (_loreft(0), "adapter.pt", "no block in the file's name"),
        (_loreft(0), NAME.format(0), "a block that can be steered, 1 to 5"),
        (_loreft(0), NAME.format(6), "a block that can be steered, 1 to 5"),
        (
            _loreft(0),
            "intkey_layer_2_comp_mlp_output_unit_pos_nunit_1#0.bin",
            "an intervention on 'mlp_output'",
        ),
        (_loreft(0), "intkey_layer_2_comp_block_output_unit_pos_nunit_4#0.bin", "tied to positions"),
        (_loreft(0) | {"bias": torch.tensor([float("nan")])}, NAME.format(2), "NaN"),
        (_loreft(0) | {"more": torch.ones(1)}, NAME.format(2), "'more'"),
        (
            {"proj_layer.weight": torch.ones(1, WIDTH), "learned_source.weight": torch.ones(1, WIDTH)},
            NAME.format(2),
            "cannot be told",
        ),
        (_loreft(0) | {"rotate_layer": torch.tensor(1.0)}, NAME.format(2), "LoReFT of rank 1"),
        ({"weight": torch.ones(1, WIDTH)}, NAME.format(2), "LoReFT"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, tensors: Any, name: str, message: str) -> None:
    with pytest.raises(BundleError, match=message) as refused:
        reft.read([_saved(tmp_path, tensors, name)], MODEL, ANY)
    assert "\n" not in str(refused.value)


def test_two_interventions_on_a_block_are_refused(tmp_path: Path) -> None:
    paths = [_saved(tmp_path, _loreft(n), f"{NAME.format(2)[:-6]}#{n}.bin") for n in (0, 1)]
    with pytest.raises(BundleError, match="a second time"):
        reft.read(paths, MODEL, ANY)
    with pytest.raises(BundleError, match="no file"):
        reft.read([tmp_path / "absent"], MODEL, ANY)
    with pytest.raises(BundleError, match="no file"):
        reft.read([], MODEL, ANY)


def test_reft_r1_is_the_constant_that_axbench_adds(tmp_path: Path) -> None:
    concepts = torch.randn(3, WIDTH)
    weight, bias = (
        _saved(tmp_path, concepts, "LsReFT_weight.pt"),
        _saved(tmp_path, torch.zeros(3), "LsReFT_bias.pt"),
    )
    artifact = reft.read([weight, bias], MODEL, Choice(tensor="2", block=3))
    assert artifact.gate is None
    assert np.array_equal(artifact.directions[3], concepts[2].numpy())
    for choice in (Choice(tensor="3", block=3), Choice(block=3), Choice(tensor="-1", block=3)):
        with pytest.raises(BundleError, match="a row from 0 to 2"):
            reft.read([weight, bias], MODEL, choice)
    for block in (None, 0, 6):
        with pytest.raises(BundleError, match="the block it was trained at"):
            reft.read([weight], MODEL, Choice(tensor="0", block=block))
    with pytest.raises(BundleError, match="LoReFT"):
        reft.read([bias], MODEL, Choice(block=1))
