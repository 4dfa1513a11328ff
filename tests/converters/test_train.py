"""Training through the model: what is trained, towards what, and that nothing else decides the result."""

from __future__ import annotations

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
from edgesteer_converters.train import data, objectives
from edgesteer_converters.train.network import PsrNetwork
from edgesteer_converters.train.refine import RefineReport, checkpoints, refine
from edgesteer_converters.train.refine import trainer as learns_trainer
from edgesteer_converters.train.trainer import AGAIN, DEFAULTS, Settings, Trainer
from tests.converters.torch_tiny import BLOCKS, VOCAB, WIDTH, fit, pairs

FITS = {1: fit(1), 2: fit(2)}


def trainer(model: TorchModel, network: PsrNetwork, objective: str = "kl", *, some: list[Pair] | None = None,
            scope: str = "response", starts: list[int] | None = None, **options: Any) -> Trainer:  # fmt: skip
    items = data.triplets(pairs() if some is None else some, scope, starts)
    settings = Settings(objective, **{**DEFAULTS[objective], **options})
    examples = [data.prepared(model, item, objective, network.blocks[0], settings.guidance) for item in items]
    return Trainer(model, network, settings, examples)


def full_forward(model: TorchModel, network: PsrNetwork, pair: Pair, first: int) -> tuple[torch.Tensor, dict]:
    """Steered logits and block outputs of x y' in one pass, without any of the trainer's shortcuts."""
    tokens = torch.tensor([pair.plain + pair.reply])

    def steer(n: int, h: torch.Tensor) -> torch.Tensor:
        if n not in network.blocks:
            return h
        c = network.coefficient(n, h) * (torch.arange(h.shape[1]) >= first) * pair.sign
        return h + c[..., None] * network.direction[str(n)]

    with model.steered(steer), torch.no_grad():
        return model.logits(tokens)[0], model.block_outputs(tokens)


def teacher_logits(model: TorchModel, pair: Pair) -> torch.Tensor:
    """The unsteered model's logits at the rows that predict y' behind x'."""
    with torch.no_grad():
        return model.logits(torch.tensor([pair.prompted + pair.reply]))[0, len(pair.prompted) - 1 : -1]


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    p, q = torch.log_softmax(p.double(), -1), torch.log_softmax(q.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


# --- the network
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_the_state_dict_has_the_documented_names_and_the_numbers_come_back(hidden: tuple[int, ...]) -> None:
    fits = {n: fit(n, hidden) for n in (1, 3)}
    network = PsrNetwork.from_fits(fits)
    k = (*hidden, 1)
    shapes = {f"direction.{n}": (WIDTH,) for n in fits}
    for n in fits:
        for i, (n_in, n_out) in enumerate(zip((WIDTH, *hidden), k, strict=True)):
            shapes |= {f"gate.{n}.{i}.weight": (n_out, n_in), f"gate.{n}.{i}.bias": (n_out,)}
    assert {name: tuple(x.shape) for name, x in network.state_dict().items()} == shapes
    h = np.random.default_rng(0).standard_normal((7, WIDTH)).astype(np.float32)
    for n, one in fits.items():
        assert np.array_equal(network.directions(n), one.direction)
        for (W, b), (V, c) in zip(network.layers(n), one.layers, strict=True):
            assert np.array_equal(W, V)
            assert np.array_equal(b, c)
        got = network.coefficient(n, torch.from_numpy(h)).detach().numpy()
        np.testing.assert_allclose(got, one.coefficient(h), atol=1e-5)


def test_a_constant_has_directions_alone() -> None:
    network = PsrNetwork.from_fits({2: replace(fit(), layers=())})
    assert list(network.state_dict()) == ["direction.2"]
    assert network.coefficient(2, torch.randn(2, 3, WIDTH)).equal(torch.ones(2, 3))


def test_a_random_start_is_open_and_the_same_for_its_seed() -> None:
    one, same, other = (PsrNetwork.random(WIDTH, [1, 2], (4, 1), seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    assert (PsrNetwork.random(WIDTH, [1]).coefficient(1, torch.randn(50, WIDTH)) > 0).float().mean() > 0.9


# --- the objectives
# ----------------------------------------------------------------------------------------------


def test_kl_is_exact_with_all_tokens_and_a_lower_bound_with_the_top() -> None:
    p, q = torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    exact = [kl(p[i : i + 1], q[i : i + 1]) for i in range(5)]
    whole = objectives.kl(q, objectives.Top.of(p, VOCAB))
    np.testing.assert_allclose(whole.numpy(), exact, rtol=1e-5)
    top = objectives.kl(q, objectives.Top.of(p, 64))
    assert (top < whole).all()
    assert (top > 0.5 * whole).all()
    assert objectives.kl(p, objectives.Top.of(p, 64)).abs().max() < 1e-5


def test_guidance_goes_on_from_the_plain_prompt_through_the_prompted_one() -> None:
    prompted, plain = torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(1)) / 8
    assert torch.equal(objectives.guided(prompted, plain, 0.0), torch.log_softmax(prompted, -1))
    torch.testing.assert_close(objectives.guided(prompted, prompted, 3.0), torch.log_softmax(prompted, -1))
    once = torch.log_softmax(objectives.guided(prompted, plain, 1.0), -1)
    torch.testing.assert_close(once, torch.log_softmax(2 * prompted - plain, -1))


def test_guidance_lifts_nothing_that_is_hardly_likely() -> None:
    prompted, plain = torch.zeros(1, 4), torch.zeros(1, 4)
    prompted[0] = torch.tensor([0.0, -1.0, -10.0, -10.0])
    plain[0] = torch.tensor([0.0, -1.0, -30.0, -10.0])  # the prompt has lifted the third, to next to nothing
    steps = objectives.guided(prompted, plain, 5.0) - torch.log_softmax(prompted, -1)
    assert steps[0, 2] == 0
    plain[0, 1] = -90.0
    steps = objectives.guided(prompted, plain, 1.0) - torch.log_softmax(prompted, -1)
    assert float(steps.max()) == pytest.approx(4.0)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_the_teacher_of_kl_is_the_guided_model(llama: TorchModel, guidance: float) -> None:
    pair = pairs()[0]
    [item] = data.triplets([pair], "response")
    found = data.prepared(llama, item, "kl", 1, guidance)
    plain = teacher_logits(llama, replace(pair, prompted=pair.plain))
    want = objectives.Top.of(objectives.guided(teacher_logits(llama, pair), plain, guidance))
    assert found.top is not None
    torch.testing.assert_close(found.top.log_probs, want.log_probs, rtol=1e-4, atol=1e-4)


def test_shortfall_is_what_is_missing_to_one() -> None:
    c = {1: torch.tensor([[0.2, 0.3], [2.0, 0.0]]), 2: torch.tensor([[0.0, 0.0], [0.5, 0.0]])}
    assert float(objectives.shortfall(c)) == pytest.approx((0.5 + 0) / 2 + (1 + 0.5) / 2)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("scope", "starts"), [("response", None), ("all", None), ("conversation", [2] * 6)])
def test_losses_equal_those_of_a_whole_steered_pass(
    llama: TorchModel, scope: str, starts: list[int] | None, sign: int
) -> None:
    """So the prefix that is computed once, the choice of rows and the alignment change nothing."""
    network = PsrNetwork.from_fits(FITS)
    some = [replace(p, sign=sign) for p in pairs()]
    want: dict[str, list[float]] = {"kl": [], "ll": [], "mse": []}
    for pair in some:
        first = {"response": len(pair.plain) - 1, "all": 0, "conversation": 2}[scope]
        logits, outputs = full_forward(llama, network, pair, first)
        rows = slice(len(pair.plain) - 1, len(pair.plain) + len(pair.reply) - 1)
        theirs = llama.block_outputs(torch.tensor([pair.prompted + pair.reply]))
        behind = slice(len(pair.prompted) - 1, len(pair.prompted) + len(pair.reply) - 1)
        want["kl"].append(kl(teacher_logits(llama, pair), logits[rows]))
        log_q = torch.log_softmax(logits[rows], -1)
        want["ll"].append(float(-log_q[range(len(pair.reply)), pair.reply].mean()))
        squares = [(outputs[n][0, rows] - theirs[n][0, behind]).square().mean() for n in (1, 2, 3)]
        want["mse"].append(float(torch.stack(squares).sum()))
    for objective, each in want.items():
        one = trainer(llama, network, objective, some=some, scope=scope, starts=starts, regulariser=0.0,
                      guidance=0.0)  # fmt: skip
        assert one.measure(one.examples)[0] == pytest.approx(np.mean(each), rel=1e-4), objective
        four = Trainer(llama, network, replace(one.settings, batch=4), one.examples)
        assert four.measure(one.examples)[0] == pytest.approx(np.mean(each), rel=1e-4), objective
        together, _ = one.loss(data.collate(one.examples, llama.device))  # padding on both sides
        assert together.item() == pytest.approx(np.mean(each), rel=1e-4), objective


def test_a_network_of_zero_directions_starts_at_the_plain_models_kl(llama: TorchModel) -> None:
    network = PsrNetwork.from_fits(
        {n: replace(f, direction=np.zeros(WIDTH, np.float32)) for n, f in FITS.items()}
    )
    start = trainer(llama, network, guidance=0.0)
    plain = []
    with torch.no_grad():
        for pair in pairs():
            logits = llama.logits(torch.tensor([pair.plain + pair.reply]))[0, len(pair.plain) - 1 : -1]
            plain.append(kl(teacher_logits(llama, pair), logits))
    assert start.measure(start.examples)[0] == pytest.approx(np.mean(plain), rel=1e-4)


def test_the_mean_coefficient_is_over_positions_in_scope(llama: TorchModel) -> None:
    network = PsrNetwork.from_fits(FITS)
    seen: list[float] = []
    for pair in pairs():
        first = len(pair.plain) - 1
        stream = full_forward(llama, PsrNetwork.from_fits({1: fit(1, size=0)}), pair, first)[1][1][
            0, first:-1
        ]
        seen += network.coefficient(1, stream).tolist()
    one = trainer(llama, network)
    assert one.measure(one.examples)[1][1] == pytest.approx(np.mean(seen), rel=1e-4)


# --- the loop
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["kl", "ll", "mse"])
def test_gradients_reach_the_network_alone_and_all_of_it(llama: TorchModel, objective: str) -> None:
    before = {k: v.clone() for k, v in llama.module.state_dict().items()}
    network = PsrNetwork.from_fits(FITS)
    one = trainer(llama, network, objective)
    one.loss(data.collate(one.examples[:2], llama.device))[0].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in llama.module.parameters())
    one.run()
    assert all(torch.equal(v, before[k]) for k, v in llama.module.state_dict().items())


@pytest.mark.parametrize("objective", ["kl", "ll", "mse"])
@pytest.mark.parametrize(
    "fits", [FITS, {2: fit(2)}, {2: replace(fit(2), layers=())}], ids=["A", "S", "const"]
)
def test_training_lowers_the_loss(llama: TorchModel, objective: str, fits: dict[int, BlockFit]) -> None:
    _, report = refine(llama, fits, pairs(), objective=objective, epochs=4, batch=1)
    assert report.last < report.first
    assert [step for step, _ in report.curve] == list(range(report.steps)) == list(range(4 * 6))


def test_a_steered_teacher_is_learnt_from_noise(llama: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher is the same model behind the same prompt, steered by a network that is known."""
    known = PsrNetwork.from_fits({2: fit(7, size=0.5)})
    same = [replace(p, prompted=p.plain) for p in pairs(8)]
    network = PsrNetwork.random(WIDTH, [2], seed=3)
    one = trainer(llama, network, some=same, epochs=40, lr=2e-2)
    examples = []
    for example, pair in zip(one.examples, same, strict=True):
        logits = full_forward(llama, known, pair, len(pair.plain) - 1)[0][len(pair.plain) - 1 : -1]
        examples.append(replace(example, top=objectives.Top.of(logits)))
    one.examples = examples
    losses = one.run()
    assert losses.last < losses.first / 5


def test_prefixes_are_the_same_after_training(llama: TorchModel) -> None:
    one = trainer(llama, PsrNetwork.from_fits(FITS), epochs=2)
    before = [k.clone() for e in one.examples for pair in e.prefix or [] for k in pair]
    one.run()
    after = [k for e in one.examples for pair in e.prefix or [] for k in pair]
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def bytes_of(fits: dict[int, BlockFit]) -> bytes:
    arrays = [
        x for _, f in sorted(fits.items()) for x in (f.direction, *(y for layer in f.layers for y in layer))
    ]
    return b"".join(x.tobytes() for x in arrays)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_same_seed_gives_the_same_bytes(llama: TorchModel, batch: int) -> None:
    one, same, other = (refine(llama, FITS, pairs(), seed=s, epochs=2, batch=batch)[0] for s in (0, 0, 1))
    assert bytes_of(one) == bytes_of(same)
    assert bytes_of(one) != bytes_of(other)


@pytest.mark.parametrize("stop", [1, 9])
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    llama: TorchModel, tmp_path: Path, stop: int
) -> None:
    whole, report = refine(llama, FITS, pairs(), epochs=3, batch=1, held=0.2)
    file, seen = tmp_path / "t.pt", 0

    def interrupt(fraction: float) -> None:
        nonlocal seen
        seen += fraction >= 0.1
        if seen > stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(llama, FITS, pairs(), epochs=3, batch=1, held=0.2, checkpoint=file, progress=interrupt)
    assert [f.name for f in tmp_path.iterdir()] == ["t.pt"]
    fits, again = refine(llama, FITS, pairs(), epochs=3, batch=1, held=0.2, checkpoint=file)
    assert bytes_of(fits) == bytes_of(whole)
    assert replace(again, seconds=0) == replace(report, seconds=0)
    network = torch.load(file, weights_only=True)["network"]
    assert set(network) == set(PsrNetwork.from_fits(FITS).state_dict())


def test_a_start_that_was_fitted_again_goes_on_to_the_same_bytes(llama: TorchModel, tmp_path: Path) -> None:
    """After an interruption the closed form sees activations of another pass: equal to rounding alone."""
    file, how = tmp_path / "t.pt", {"epochs": 2, "batch": 1}
    whole, report = refine(llama, FITS, pairs(), checkpoint=file, **how)
    nearly = {n: replace(f, direction=f.direction * np.float32(1.001)) for n, f in FITS.items()}
    again, same = refine(llama, nearly, pairs(), checkpoint=file, **how)
    assert bytes_of(again) == bytes_of(whole)
    assert replace(same, seconds=0) == replace(report, seconds=0)
    other = {n: replace(f, direction=f.direction * np.float32(1.5)) for n, f in FITS.items()}
    with pytest.raises(LearnError, match="another training"):
        refine(llama, other, pairs(), checkpoint=file, **how)


def test_a_checkpoint_of_another_training_is_refused(llama: TorchModel, tmp_path: Path) -> None:
    file = tmp_path / "t.pt"
    refine(llama, FITS, pairs(), epochs=1, batch=1, checkpoint=file)
    done = refine(llama, FITS, pairs(), epochs=1, batch=1, checkpoint=file)[1]
    assert done.steps == 6  # nothing is trained twice
    for change in ({"epochs": 2}, {"seed": 1}, {"objective": "ll"}, {"scope": "all"}):
        with pytest.raises(LearnError, match="another training"):
            refine(llama, FITS, pairs(), **{"epochs": 1, "batch": 1, "checkpoint": file, **change})
    with pytest.raises(LearnError, match="another training"):
        refine(llama, {1: fit(5)}, pairs(), epochs=1, batch=1, checkpoint=file)
    for content in (b"", b"noise", file.read_bytes()[:-500]):
        file.write_bytes(content)
        with pytest.raises(LearnError, match=r"t\.pt: found .*remove it"):
            refine(llama, FITS, pairs(), epochs=1, batch=1, checkpoint=file)


@pytest.mark.parametrize(
    "content", [b"", b"noise", {"format": "another/1"}, {"format": "edgesteer-train/1"}, [1, 2]]
)
def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_learnt(
    tmp_path: Path, content: Any
) -> None:
    file = tmp_path / "t.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(
        LearnError, match=r"t\.pt: found .*expected a training's checkpoint; remove it"
    ) as caught:
        learns_trainer(tmp_path, checkpoint=file)
    assert "\n" not in str(caught.value)


def test_learns_trainer_replaces_another_trainings_checkpoint_and_keeps_its_own(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is not saved yet when the training ends: only its caller knows when the checkpoint has
    served."""
    monkeypatch.setitem(DEFAULTS["ll"], "epochs", 1)
    file, how = (
        tmp_path / "t.pt",
        {
            "objective": "ll",
            "scope": "response",
            "starts": None,
            "guided": True,
            "again": False,
            "progress": print,
        },
    )
    train = learns_trainer(llama_folder, checkpoint=file, device="cpu")
    fits, facts = train(FITS, pairs(), seed=0, **how)
    assert file.exists()
    monkeypatch.setattr(Trainer, "_one_epoch", None)  # from here on nothing is trained
    again, same = learns_trainer(llama_folder, checkpoint=file, device="cpu")(FITS, pairs(), seed=0, **how)
    assert (bytes_of(again), same) == (bytes_of(fits), facts)
    monkeypatch.undo()
    monkeypatch.setitem(DEFAULTS["ll"], "epochs", 1)
    with pytest.warns(EdgesteerWarning, match=r"t\.pt: found a checkpoint of another training") as warned:
        other, _ = train(FITS, pairs(), seed=1, **how)
    assert "\n" not in str(warned[0].message)
    clean, _ = learns_trainer(llama_folder, device="cpu")(FITS, pairs(), seed=1, **how)
    assert bytes_of(other) == bytes_of(clean)
    assert torch.load(file, weights_only=True)["settings"]["seed"] == 1


def test_a_second_training_is_shorter_and_leaves_the_firsts_checkpoint(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULTS["kl"], "epochs", 3)
    monkeypatch.setitem(AGAIN["kl"], "epochs", 1)
    files = checkpoints(tmp_path / "t.pt")
    train = learns_trainer(llama_folder, checkpoint=files[0], device="cpu")
    how = {"objective": "kl", "scope": "response", "starts": None, "seed": 0, "progress": print}
    fits, first = train(FITS, pairs(), guided=True, again=False, **how)
    kept = files[0].read_bytes()
    _, second = train(fits, pairs(), guided=True, again=True, **how)
    assert (first["epochs"], second["epochs"]) == (3, 1)
    assert files[0].read_bytes() == kept
    assert files[1].exists()
    files[1].write_text("a note")
    with pytest.raises(LearnError, match=files[1].name):
        learns_trainer(llama_folder, checkpoint=files[0], device="cpu")


def test_learns_trainer_guides_where_it_is_told_to(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULTS["kl"], "epochs", 1)
    train = learns_trainer(llama_folder, device="cpu")
    how = {
        "objective": "kl",
        "scope": "response",
        "starts": None,
        "seed": 0,
        "again": False,
        "progress": print,
    }
    told = [train(FITS, pairs(), guided=guided, **how)[1]["guidance"] for guided in (True, False)]
    assert told == [DEFAULTS["kl"]["guidance"], 0.0]


@pytest.mark.parametrize(
    ("cuda", "wanted", "used"),
    [(True, None, "cuda"), (False, None, "cpu"), (True, "cpu", "cpu"), (True, "cuda:1", "cuda:1")],
)
def test_a_model_is_loaded_on_cuda_where_there_is_one(
    llama: TorchModel, monkeypatch: pytest.MonkeyPatch, cuda: bool, wanted: str | None, used: str
) -> None:
    seen: list[tuple[Path, str]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(TorchModel, "load", lambda path, device="cpu": seen.append((path, device)) or llama)
    refine(Path("m.gguf"), FITS, pairs(2), epochs=1, device=wanted)
    train = learns_trainer(Path("m.gguf"), device=wanted)
    train(
        FITS,
        pairs(2),
        objective="kl",
        scope="response",
        starts=None,
        seed=0,
        guided=True,
        again=False,
        progress=lambda done: None,
    )
    assert seen == [(Path("m.gguf"), used)] * 2


@pytest.mark.parametrize(("wanted", "said"), [("cuda", "finds no CUDA"), ("gpu9", "'gpu9': unknown")])
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LearnError, match=said):
        learns_trainer(Path("m.gguf"), device=wanted)
    with pytest.raises(LearnError, match=said):
        refine(Path("m.gguf"), FITS, pairs(2), device=wanted)


@pytest.mark.parametrize("steps", [1, 31, 33, 500])
def test_the_manifest_keeps_a_thinned_curve_with_both_ends(steps: int) -> None:
    curve = [(i, 1 / (3 + i)) for i in range(steps)]
    report = RefineReport("kl", 1.0, 2, steps, 6, 0, 0.5, 0.25, None, None, curve, [3], 9.0)
    facts = json.loads(json.dumps(report.facts()))
    assert facts["replies"] == 6
    assert (facts["objective"], facts["loss_before"], facts["loss_after"]) == ("kl", 0.5, 0.25)
    kept = [(point["step"], point["loss"]) for point in facts["curve"]]
    assert len(kept) == min(32, steps)
    assert (kept[0][0], kept[-1][0]) == (0, steps - 1)
    assert all(loss == round(curve[step][1], 4) for step, loss in kept)
    assert sorted(set(kept)) == kept
    assert "seconds" not in facts


# --- the door
# ----------------------------------------------------------------------------------------------------


def test_fits_come_back_with_a_mean_coefficient_of_one_and_the_same_steering(llama: TorchModel) -> None:
    fits, report = refine(llama, FITS, pairs(), epochs=2)
    assert sorted(fits) == [1, 2]
    again = trainer(llama, PsrNetwork.from_fits(fits))
    loss, means = again.measure(again.examples)
    assert loss == pytest.approx(report.last, rel=1e-4)
    assert list(means.values()) == pytest.approx([1, 1], rel=1e-4)


def test_a_block_whose_gate_never_opens_is_dropped(llama: TorchModel) -> None:
    W, b = fit(2).layers[0]
    fits, report = refine(llama, {1: fit(1), 2: replace(fit(2), layers=((W, b - 1000),))}, pairs(), epochs=1)
    assert list(fits) == [1]
    assert report.dropped == [2]
    with pytest.raises(LearnError, match="closed"):
        refine(llama, {2: replace(fit(2), layers=((W, b - 1000),))}, pairs(), epochs=1)


def test_held_out_replies_are_not_trained_on(llama: TorchModel) -> None:
    seen: list[float] = []
    _, report = refine(llama, FITS, pairs(), epochs=1, batch=1, held=0.34, progress=seen.append)
    assert (report.n_train, report.n_held, report.steps) == (4, 2, 4)
    assert report.held_first is not None
    assert report.held_last is not None
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert refine(llama, FITS, pairs(), epochs=1)[1].held_last is None


GOOD = pairs(2)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"pairs": []}, "pairs: none"),
    ({"pairs": [GOOD[0], replace(GOOD[1], reply=[])]}, "pair 1: no reply"),
    ({"pairs": [replace(GOOD[0], plain=[])]}, "pair 0: no plain"),
    ({"pairs": [replace(GOOD[0], prompted=[])]}, "pair 0: no prompted"),
    ({"pairs": [replace(GOOD[0], sign=0)]}, "sign 0"),
    ({"pairs": [replace(GOOD[0], reply=[VOCAB])]}, f"0 to {VOCAB - 1}"),
    ({"pairs": [replace(GOOD[0], reply=[-1])]}, f"0 to {VOCAB - 1}"),
    ({"fits": {}}, "fits: none"),
    ({"fits": {BLOCKS: fit()}}, f"block {BLOCKS}: expected a block from 1 to {BLOCKS - 1}"),
    ({"fits": {0: fit()}}, "block 0: expected a block from 1"),
    (
        {"fits": {1: replace(fit(), direction=np.ones(WIDTH + 1, np.float32))}},
        rf"direction \[{WIDTH + 1}\].* expected width {WIDTH}",
    ),
    (
        {"fits": {1: replace(fit(), layers=((np.ones((9, 1), np.float32), np.ones(1, np.float32)),))}},
        rf"layers \[\[9, 1\]\], expected width {WIDTH}",
    ),
    (
        {"fits": {1: replace(fit(), layers=((np.ones((WIDTH, 2), np.float32), np.ones(2, np.float32)),))}},
        "width 1",
    ),
    ({"fits": {1: replace(fit(), direction=np.full(WIDTH, np.nan, np.float32))}}, "NaN"),
    ({"objective": "rl"}, "expected one of mse, ll, kl"),
    ({"scope": "reply"}, "scope 'reply'"),
    ({"scope": "conversation"}, "no starts for 2 pairs"),
    ({"scope": "conversation", "starts": [0]}, "1 starts for 2 pairs"),
    ({"scope": "conversation", "starts": [0, 99]}, "pair 1: steered from position 99"),
    ({"epochs": 0}, "epochs and batch"),
    ({"batch": 0}, "epochs and batch"),
    ({"lr": float("nan")}, "lr and clip"),
    ({"seed": -1}, "none below 0"),
    ({"guidance": -1.0}, "none below 0"),
    ({"guidance": float("inf")}, "none below 0"),
    ({"held": 1.0}, "held 1.0"),
    ({"held": 0.1, "pairs": GOOD[:1]}, "none are left"),
    ({"fits": {1: replace(fit(1), direction=np.full(WIDTH, 3e38, np.float32))}}, "loss"),
    ({"lr": 1e30, "objective": "mse"}, "loss .* use a smaller lr"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_refused_in_one_line(llama: TorchModel, change: dict[str, Any], said: str) -> None:
    given = {"fits": FITS, "pairs": GOOD, "epochs": 1, **change}
    with pytest.raises(LearnError, match=said) as caught:
        refine(llama, given.pop("fits"), given.pop("pairs"), **given)
    assert "\n" not in str(caught.value)
