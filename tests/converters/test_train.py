"""Training through the model: what is trained, towards what, and that nothing else decides the result."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgesteer.errors import EdgesteerWarning, LearnError
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer_converters.torch_model import TorchModel
from edgesteer_converters.train import checkpoints
from edgesteer_converters.train import trainer as learn_trainer
from edgesteer_converters.train.api import facts, stream_sizes
from edgesteer_converters.train.data import Example, prepared, triplets
from edgesteer_converters.train.divergence import Top, kl
from edgesteer_converters.train.network import PsrNetwork
from edgesteer_converters.train.trainer import Losses, Settings, Trainer
from tests.converters.torch_tiny import BLOCKS, VOCAB, WIDTH, fit, pairs, recurrent

FITS = {1: fit(1), 2: fit(2)}
SCALES = {1: 0.5, 2: 2.0}


def network_of(fits: dict[int, BlockFit] = FITS) -> PsrNetwork:
    return PsrNetwork.from_fits(fits, SCALES)


def examples_of(
    model: TorchModel, some: list[Pair] | None = None, starts: list[int] | None = None
) -> list[Example]:
    return prepared(model, triplets(pairs() if some is None else some, starts))


def trainer_of(model: TorchModel, network: PsrNetwork, steps: int = 8, **options: Any) -> Trainer:
    return Trainer(model, network, Settings(0, steps, steps, **options), examples_of(model))


def full_forward(model: TorchModel, fits: dict[int, BlockFit], pair: Pair, first: int) -> torch.Tensor:
    """Steered logits of x y' in one pass, by the equation, without any of the trainer's shortcuts."""
    tokens = torch.tensor([pair.plain + pair.reply])

    def steer(n: int, h: torch.Tensor) -> torch.Tensor:
        if n not in fits:
            return h
        c = torch.from_numpy(fits[n].coefficient(h[0].numpy())) * (torch.arange(h.shape[1]) >= first)
        return h + (pair.sign * c)[:, None] * torch.from_numpy(fits[n].direction)

    with model.steered(steer), torch.no_grad():
        return model.logits(tokens)[0]


def coefficients(model: TorchModel, fits: dict[int, BlockFit], pair: Pair, block: int) -> list[float]:
    """Of a block on x y' from the prompt's last token on, with the blocks below it steered."""
    first, seen = len(pair.plain) - 1, list[float]()

    def steer(n: int, h: torch.Tensor) -> torch.Tensor:
        if n not in fits:
            return h
        c = torch.from_numpy(fits[n].coefficient(h[0].numpy())) * (torch.arange(h.shape[1]) >= first)
        if n == block:
            seen.extend(c[first:].tolist())
        return h + c[:, None] * torch.from_numpy(fits[n].direction)

    with model.steered(steer), torch.no_grad():
        model.logits(torch.tensor([pair.plain + pair.reply[:-1]]))
    return seen


def teacher_logits(model: TorchModel, pair: Pair) -> torch.Tensor:
    """The unsteered model's logits at the rows that predict y' behind x'."""
    with torch.no_grad():
        return model.logits(torch.tensor([pair.prompted + pair.reply]))[0, len(pair.prompted) - 1 : -1]


def exact_kl(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = torch.log_softmax(p.double(), -1), torch.log_softmax(q.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def bytes_of(fits: dict[int, BlockFit]) -> bytes:
    arrays = [
        x for _, f in sorted(fits.items()) for x in (f.direction, *(y for layer in f.layers for y in layer))
    ]
    return b"".join(x.tobytes() for x in arrays)


# --- the network ------------------------------------------------------------------------------------


def test_fits_go_through_the_network_whatever_the_scales() -> None:
    network, h = network_of(), np.random.default_rng(0).standard_normal((7, WIDTH)).astype(np.float32)
    for n, one in FITS.items():
        c = network.coefficient(n, torch.from_numpy(h))
        moved = network.steered(n, torch.from_numpy(h), c).detach().numpy() - h
        np.testing.assert_allclose(moved, one.coefficient(h)[:, None] * one.direction, atol=1e-5)
        again = network.fit(n, 1.0)
        assert again is not None
        want = again.coefficient(h)[:, None] * again.direction
        np.testing.assert_allclose(moved, want, atol=1e-5)


@pytest.mark.parametrize("mean", [0.25, 4.0])
def test_a_mean_coefficient_moves_to_the_direction_and_steers_the_same(mean: float) -> None:
    h = np.random.default_rng(1).standard_normal((7, WIDTH)).astype(np.float32)
    network = network_of()
    one, c = network.fit(1, mean), network.coefficient(1, torch.from_numpy(h)).detach().numpy()
    assert one is not None
    np.testing.assert_allclose(one.coefficient(h), c / mean, rtol=1e-4, atol=1e-6)
    want = FITS[1].coefficient(h)[:, None] * FITS[1].direction
    np.testing.assert_allclose(one.coefficient(h)[:, None] * one.direction, want, atol=1e-5)


@pytest.mark.parametrize("mean", [0.0, -1.0, float("nan")])
def test_a_gate_that_never_opens_gives_no_fit(mean: float) -> None:
    assert network_of().fit(1, mean) is None


def test_a_constant_has_directions_alone() -> None:
    network = network_of({2: replace(fit(), layers=())})
    assert [name for name, _ in network.named_parameters()] == ["direction"]
    assert network.coefficient(2, torch.randn(2, 3, WIDTH)).equal(torch.ones(2, 3))
    one = network.fit(2, 1.0)
    assert one is not None
    assert one.layers == ()


def test_a_random_start_steers_nothing_yet_and_is_the_same_for_its_seed() -> None:
    one, same, other = (PsrNetwork(WIDTH, SCALES, seed=s) for s in (0, 0, 1))
    assert one.digest() == same.digest() != other.digest()
    h = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0)) * SCALES[2]
    c = one.coefficient(2, h)
    assert (c > 0).float().mean() > 0.5
    assert torch.equal(one.steered(2, h, c), h)


# --- the divergence ---------------------------------------------------------------------------------


def test_kl_is_exact_with_all_tokens_and_a_lower_bound_with_the_top() -> None:
    p, q = torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    exact = [exact_kl(p[i : i + 1], q[i : i + 1]) for i in range(5)]
    whole = kl(q, Top.of(p, VOCAB))
    np.testing.assert_allclose(whole.numpy(), exact, rtol=1e-5)
    top = kl(q, Top.of(p, 64))
    assert (top < whole).all()
    assert (top > 0.5 * whole).all()
    assert kl(p, Top.of(p, 64)).abs().max() < 1e-5


@pytest.mark.parametrize("sign", [1, -1])
def test_teachers_that_read_side_by_side_say_what_they_say_alone(llama: TorchModel, sign: int) -> None:
    some = [replace(p, sign=sign if i % 2 else 1) for i, p in enumerate(pairs(11))]
    for example, pair in zip(examples_of(llama, some), some, strict=True):
        want = Top.of(teacher_logits(llama, pair))
        torch.testing.assert_close(example.top.log_probs, want.log_probs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("first", "starts"), [(None, None), (0, [0] * 6), (2, [2] * 6)])
def test_losses_equal_those_of_a_whole_steered_pass(
    llama: TorchModel, first: int | None, starts: list[int] | None, sign: int
) -> None:
    """So the prefix that is computed once, in half precision, the choice of rows and the alignment change
    nothing that matters."""
    some, want = [replace(p, sign=sign) for p in pairs()], []
    for pair in some:
        logits = full_forward(llama, FITS, pair, len(pair.plain) - 1 if first is None else first)
        rows = slice(len(pair.plain) - 1, len(pair.plain) + len(pair.reply) - 1)
        want.append(exact_kl(teacher_logits(llama, pair), logits[rows]))
    for batch in (1, 4):
        one = Trainer(llama, network_of(), Settings(0, 1, 1, batch=batch), examples_of(llama, some, starts))
        assert one.measure(one.examples)[0] == pytest.approx(np.mean(want), rel=5e-3)
    together, _ = one.loss(one.examples)  # padding on both sides
    assert together.item() == pytest.approx(np.mean(want), rel=5e-3)


def test_keys_that_half_precision_cannot_hold_change_nothing(llama: TorchModel) -> None:
    """Queries are as much smaller, so that the model is the same."""
    large = TorchModel(copy.deepcopy(llama.module))
    for block in large.blocks[1:]:
        block.self_attn.k_proj.weight.mul_(1e6)
        block.self_attn.q_proj.weight.mul_(1e-6)
    one, same = trainer_of(large, network_of()), trainer_of(llama, network_of())
    largest = max(float(k.abs().max()) for e in one.examples for k, _ in e.prefix or [])
    assert torch.finfo(torch.half).max < largest < float("inf")
    assert one.measure(one.examples)[0] == pytest.approx(same.measure(same.examples)[0], rel=5e-3)


@pytest.mark.parametrize("arch", ["mamba", "lfm2"])
def test_a_model_without_keys_and_values_for_each_block_reads_whole_texts(arch: str) -> None:
    model, some, want = recurrent(arch), pairs(), list[float]()
    for pair in some:
        logits = full_forward(model, FITS, pair, len(pair.plain) - 1)[len(pair.plain) - 1 : -1]
        want.append(exact_kl(teacher_logits(model, pair), logits))
    one = trainer_of(model, network_of())
    assert all(example.prefix is None for example in one.examples)
    assert one.measure(one.examples)[0] == pytest.approx(np.mean(want), rel=1e-3)
    assert one.run().last < one.losses.first


def test_the_mean_coefficient_is_over_positions_in_scope(llama: TorchModel) -> None:
    network, seen = network_of({1: FITS[1]}), list[float]()
    for pair in pairs():
        with torch.no_grad():
            h = llama.block_outputs(torch.tensor([pair.plain + pair.reply[:-1]]))[1][0, len(pair.plain) - 1 :]
        seen += network.coefficient(1, h).tolist()
    one = trainer_of(llama, network)
    assert one.measure(one.examples)[1][1] == pytest.approx(np.mean(seen), rel=5e-3)


def test_stream_sizes_are_the_root_mean_square_of_what_is_in_scope(llama: TorchModel) -> None:
    squares: list[float] = []
    for pair in pairs():
        with torch.no_grad():
            h = llama.block_outputs(torch.tensor([pair.plain + pair.reply[:-1]]))[2][0, len(pair.plain) - 1 :]
        squares += h.square().mean(-1).tolist()
    assert stream_sizes(llama, examples_of(llama), [2])[2] == pytest.approx(np.mean(squares) ** 0.5, rel=1e-3)


# --- the loop ---------------------------------------------------------------------------------------


def test_gradients_reach_the_network_alone_and_all_of_it(llama: TorchModel) -> None:
    before = {k: v.clone() for k, v in llama.module.state_dict().items()}
    network = network_of()
    one = trainer_of(llama, network)
    one.loss(one.examples[:2])[0].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.abs().reshape(len(network.blocks), -1).sum(1) > 0).all(), name
    assert all(p.grad is None for p in llama.module.parameters())
    one.run()
    assert all(torch.equal(v, before[k]) for k, v in llama.module.state_dict().items())


def test_a_steered_teacher_is_learnt_from_a_random_start(llama: TorchModel) -> None:
    """The teacher is the same model behind the same prompt, steered by a network that is known."""
    known = {2: fit(7, size=0.5)}
    same = [replace(p, prompted=p.plain) for p in pairs(8)]
    examples = []
    for example, pair in zip(examples_of(llama, same), same, strict=True):
        logits = full_forward(llama, known, pair, len(pair.plain) - 1)[len(pair.plain) - 1 : -1]
        examples.append(replace(example, top=Top.of(logits)))
    losses = Trainer(llama, PsrNetwork(WIDTH, {2: 1.0}, seed=3), Settings(0, 80, 80, lr=2e-2), examples).run()
    assert losses.last < losses.first / 5


def test_every_reply_is_read_as_often_as_any_other(llama: TorchModel) -> None:
    one = trainer_of(llama, network_of(), steps=8, batch=3)
    read = [id(example) for step in range(8) for example in one.batch(step)]
    assert {read.count(id(example)) for example in one.examples} == {4}


def test_prefixes_are_the_same_after_training(llama: TorchModel) -> None:
    one = trainer_of(llama, network_of())
    before = [k.clone() for e in one.examples for pair in e.prefix or [] for k in pair]
    one.run()
    after = [k for e in one.examples for pair in e.prefix or [] for k in pair]
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_kept_is_where_the_held_out_loss_was_lowest(llama: TorchModel) -> None:
    """At a rate that ruins the network from the first step on, nothing is better than the start."""
    examples = examples_of(llama)
    ruined = Trainer(llama, PsrNetwork(WIDTH, SCALES), Settings(0, 16, 16, lr=30.0), examples[2:], examples[:2])
    start = ruined.network.digest()
    losses = ruined.run()
    assert (losses.kept, ruined.network.digest()) == (0, start)
    assert [step for step, _ in losses.held] == [0, 3, 6, 9, 12, 16]
    last = Trainer(llama, PsrNetwork(WIDTH, SCALES), Settings(0, 16, 16, lr=30.0), examples[2:])
    assert last.run().kept is None
    assert last.network.digest() != start  # without held-out replies the last one is kept


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_there_are_as_many_steps_as_asked_for(llama: TorchModel, steps: int) -> None:
    losses = trainer_of(llama, network_of(), steps).run()
    assert [step for step, _ in losses.curve] == list(range(steps))


def test_the_manifest_says_what_was_gained_and_where_it_was_kept() -> None:
    losses = Losses([(i, 1 / (3 + i)) for i in range(9)], 0.5, 0.25, [(0, 0.4), (5, 0.3), (9, 0.35)])
    kept = json.loads(json.dumps(facts(losses, 6, 2, [3])))
    assert (kept["replies"], kept["held"], kept["steps"], kept["closed"]) == (6, 2, 9, [3])
    assert (kept["kl_before"], kept["kl_after"]) == (0.5, 0.25)
    assert (kept["held_before"], kept["held_after"], kept["kept_step"]) == (0.4, 0.3, 5)
    assert "kept_step" not in facts(Losses([], 0.5, 0.25), 6, 0, [])


# --- the trainer of `learn` -------------------------------------------------------------------------

HOW: dict[str, Any] = {
    "blocks": (1, 2), "gated": True, "steps": range(9), "total": 9, "start": None, "starts": None, "seed": 0,
    "progress": lambda done: None,
}  # fmt: skip


def trained(model: Any, checkpoint: Path | None = None, **change: Any) -> tuple[dict[int, BlockFit], Any]:
    how = {**HOW, "pairs": pairs()[2:], "held": pairs()[:2], **change}
    train = learn_trainer(model, checkpoint=checkpoint, device="cpu")
    return train(how.pop("pairs"), how.pop("held"), **how)


def test_fits_come_back_with_a_mean_coefficient_of_one_and_the_same_steering(llama: TorchModel) -> None:
    fits, found = trained(llama)
    assert (sorted(fits), found["replies"], found["held"]) == ([1, 2], 4, 2)
    one = Trainer(llama, network_of(fits), Settings(0, 1, 1), examples_of(llama, pairs()[2:]))
    assert one.measure(one.examples)[0] == pytest.approx(found["kl_after"], rel=1e-2)
    seen = {n: [c for pair in pairs()[2:] for c in coefficients(llama, fits, pair, n)] for n in fits}
    assert [np.mean(c) for c in seen.values()] == pytest.approx([1, 1], rel=1e-2)
    assert found["kl_after"] < found["kl_before"]


@pytest.mark.parametrize("change", [{"blocks": (2,)}, {"gated": False}, {"gated": False, "blocks": (3,)}])
def test_every_form_is_trained(llama: TorchModel, change: dict[str, Any]) -> None:
    fits, found = trained(llama, **change)
    assert list(fits) == list({**HOW, **change}["blocks"])
    assert all(bool(one.layers) == change.get("gated", True) for one in fits.values())
    assert found["kl_after"] < found["kl_before"]


def test_a_second_training_goes_on_from_the_first(llama: TorchModel) -> None:
    fits, first = trained(llama, steps=range(6))
    _, second = trained(llama, start=fits, steps=range(6, 9))
    assert second["kl_before"] == pytest.approx(first["kl_after"], rel=1e-2)


def test_training_that_helps_on_no_held_out_reply_is_refused(llama: TorchModel) -> None:
    """What these random replies have in common is nothing."""
    with pytest.raises(LearnError, match="no step lowers the KL on held-out replies"):
        trained(llama, seed=1)


def test_a_block_whose_gate_never_opens_is_left_out(llama: TorchModel) -> None:
    W, b = fit(2).layers[0]
    closed = {2: replace(fit(2), layers=((W, b - 1000),))}
    fits, found = trained(llama, start={1: fit(1), **closed})
    assert (list(fits), found["closed"]) == ([1], [2])
    with pytest.raises(LearnError, match="closed"):
        trained(llama, start=closed, blocks=(2,), held=[])


def test_the_same_seed_gives_the_same_bytes(llama: TorchModel) -> None:
    one, same, other = (trained(llama, held=[], seed=s)[0] for s in (0, 0, 1))
    assert bytes_of(one) == bytes_of(same) != bytes_of(other)


@pytest.mark.parametrize("stop", [0.2, 0.6, 0.99])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    llama: TorchModel, tmp_path: Path, stop: float
) -> None:
    whole = trained(llama, steps=range(9))
    file = tmp_path / "t.pt"

    def interrupt(fraction: float) -> None:
        if fraction >= stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(llama, file, steps=range(9), progress=interrupt)
    assert [f.name for f in tmp_path.iterdir()] in ([], ["t.pt"])
    again = trained(llama, file, steps=range(9))
    assert (bytes_of(again[0]), again[1]) == (bytes_of(whole[0]), whole[1])
    before = file.read_bytes()
    assert bytes_of(trained(llama, file, steps=range(9))[0]) == bytes_of(whole[0])
    assert file.read_bytes() == before  # nothing is trained twice


OTHERS: list[dict[str, Any]] = [
    {"steps": range(8)},
    {"total": 10},
    {"seed": 1},
    {"starts": [0] * 4},
    {"blocks": (1,)},
    {"gated": False},
    {"pairs": pairs()[3:]},
]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_another_trainings_checkpoint_is_replaced_and_said(
    llama: TorchModel, tmp_path: Path, change: dict[str, Any]
) -> None:
    """The bundle is not saved yet when the training ends: only its caller knows when the checkpoint has
    served."""
    file = tmp_path / "t.pt"
    trained(llama, file, held=pairs()[:2])
    with pytest.warns(EdgesteerWarning, match=r"t\.pt: found a checkpoint of another training") as warned:
        other, _ = trained(llama, file, **{"held": [], **change})
    assert "\n" not in str(warned[0].message)
    assert bytes_of(other) == bytes_of(trained(llama, **{"held": [], **change})[0])


def test_the_second_training_leaves_the_firsts_checkpoint(llama: TorchModel, tmp_path: Path) -> None:
    files = checkpoints(tmp_path / "t.pt")
    fits, _ = trained(llama, files[0])
    kept = files[0].read_bytes()
    trained(llama, files[0], start=fits)
    assert files[0].read_bytes() == kept
    assert files[1].exists()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "content", [b"", b"noise", {"format": "another/1"}, {"format": "edgesteer-train/2"}, [1, 2]]
)
def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_learnt(
    tmp_path: Path, content: Any, which: int
) -> None:
    file = checkpoints(tmp_path / "t.pt")[which]
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    expected = r": found .*expected a training's checkpoint; remove it"
    with pytest.raises(LearnError, match=file.name + expected) as caught:
        learn_trainer(tmp_path, checkpoint=tmp_path / "t.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cuda", "wanted", "used"),
    [(True, None, "cuda"), (False, None, "cpu"), (True, "cpu", "cpu"), (True, "cuda:1", "cuda:1")],
)
def test_a_model_is_loaded_once_and_on_cuda_where_there_is_one(
    llama: TorchModel, monkeypatch: pytest.MonkeyPatch, cuda: bool, wanted: str | None, used: str
) -> None:
    seen: list[tuple[Path, str]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(TorchModel, "load", lambda path, device="cpu": seen.append((path, device)) or llama)
    train = learn_trainer(Path("m.gguf"), device=wanted)
    for _ in range(2):
        train(pairs(2), [], **{**HOW, "steps": range(1)})
    assert seen == [(Path("m.gguf"), used)]


@pytest.mark.parametrize(("wanted", "message"), [("cuda", "finds no CUDA"), ("gpu9", "'gpu9': unknown")])
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LearnError, match=message):
        learn_trainer(Path("m.gguf"), device=wanted)


GOOD = pairs(2)
HUGE = {1: replace(fit(1), direction=np.full(WIDTH, 3e38, np.float32))}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"pairs": []}, "pairs: none"),
    ({"pairs": [GOOD[0], replace(GOOD[1], reply=[])]}, "pair 1: no reply"),
    ({"pairs": [replace(GOOD[0], plain=[])]}, "pair 0: no plain"),
    ({"pairs": [replace(GOOD[0], prompted=[])]}, "pair 0: no prompted"),
    ({"held": [replace(GOOD[0], sign=0)]}, "sign 0"),
    ({"pairs": [replace(GOOD[0], reply=[VOCAB])]}, f"token {VOCAB}, expected 0 to {VOCAB - 1}"),
    ({"held": [replace(GOOD[0], reply=[-1])]}, f"token -1, expected 0 to {VOCAB - 1}"),
    ({"blocks": ()}, "blocks: none"),
    ({"blocks": (BLOCKS,)}, f"block {BLOCKS}: expected a block from 1 to {BLOCKS - 1}"),
    ({"blocks": (0,)}, "block 0: expected a block from 1"),
    ({"starts": [0, 99]}, "pair 1: steered from position 99"),
    ({"steps": range(0)}, "at least one step"),
    ({"steps": range(5, 10)}, "at least one step"),
    ({"seed": -1}, "none below 0"),
    ({"start": HUGE}, "loss .* learn in closed form"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused_in_one_line(llama: TorchModel, change: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnError, match=message) as caught:
        trained(llama, **{"pairs": GOOD, "held": [], **change})
    assert "\n" not in str(caught.value)
