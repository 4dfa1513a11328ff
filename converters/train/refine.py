"""Train closed-form fits further through the model, for `edgesteer learn --refine`.

In:  a model, fits per block, pairs.
Out: fits per block, scaled to mean coefficient 1 over the training positions in scope; and a report.

The fits determine the form: a constant if they have no layers, else S-PSR for one block, A-PSR for several,
which are trained jointly.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgesteer.errors import LearnError
from edgesteer.learn import Trainer as LearnTrainer
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer_converters.torch_model import TorchModel
from edgesteer_converters.train.data import Example, Triplet, digest, prepared, triplets
from edgesteer_converters.train.network import PsrNetwork
from edgesteer_converters.train.trainer import AGAIN, DEFAULTS, Settings, Trainer, read_checkpoint

# Share of the progress that preparing the examples takes: two forward passes, to `epochs` times three.
_READY = 0.1

_POINTS = 32


@dataclass(frozen=True, slots=True)
class RefineReport:
    """Losses in nats per token (KL, LL) or the stream's units squared (MSE), including any regulariser.

    first, last: mean over the training replies before and after training.
    held_first, held_last: the same over the `n_held` held-out replies; None without any.
    curve: (step, loss of its batch). dropped: blocks whose gate never opens.
    """

    objective: str
    guidance: float
    epochs: int
    steps: int
    n_train: int
    n_held: int
    first: float
    last: float
    held_first: float | None
    held_last: float | None
    curve: list[tuple[int, float]]
    dropped: list[int]
    seconds: float

    def facts(self) -> dict[str, Any]:
        """For a manifest: no times, and at most `_POINTS` points of the curve."""
        at = np.unique(np.linspace(0, len(self.curve) - 1, min(_POINTS, len(self.curve))).round().astype(int))
        return {
            "objective": self.objective,
            "guidance": self.guidance,
            "epochs": self.epochs,
            "steps": self.steps,
            "replies": self.n_train,
            "loss_before": round(self.first, 4),
            "loss_after": round(self.last, 4),
            "curve": [{"step": step, "loss": round(loss, 4)} for step, loss in (self.curve[i] for i in at)],
            "dropped": list(self.dropped),
        }


def refine(
    model: str | os.PathLike[str] | TorchModel,
    fits: Mapping[int, BlockFit],
    pairs: Sequence[Pair],
    *,
    objective: str = "kl",
    scope: str = "response",
    starts: Sequence[int] | None = None,
    seed: int = 0,
    epochs: int | None = None,
    lr: float | None = None,
    batch: int | None = None,
    guidance: float | None = None,
    held: float = 0.0,
    checkpoint: Path | None = None,
    replace: bool = False,
    device: str | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[dict[int, BlockFit], RefineReport]:
    """Train `fits` through the model.

    Args:
        model: a GGUF file, a Hugging Face folder, or a loaded model.
        scope: "response": from the plain prompt's last token on. "all". "conversation": from starts[i] on.
        epochs, lr, batch (replies per step), guidance (objectives.guided; only for KL): None for the
            objective's defaults (trainer.DEFAULTS).
        held: share of the pairs to hold out, which are only measured; at least one pair if above 0.
        checkpoint: written after each epoch; an interrupted training resumes from it, to the same bytes, even
            if `fits` were fitted again and differ by rounding.
        replace: overwrite another training's checkpoint, with an EdgesteerWarning, instead of refusing it.
        device: where to load a model given as a path: "cpu", "cuda", ...; None for CUDA if there is one, else
            the CPU.
    Returns:
        The fits; each keeps its old `explained`, which does not describe this objective.
    Raises:
        LearnError: pairs, fits, scope or settings that cannot be trained with; a loss that is NaN or
            infinite.
        ModelError, MissingExtra: as `TorchModel.load`.
    """
    began = time.monotonic()
    settings = _settings(objective, seed=seed, batch=batch, epochs=epochs, lr=lr, guidance=guidance)
    items = triplets(pairs, scope, starts)
    train, kept = _split(items, held, seed)
    loaded = model if isinstance(model, TorchModel) else TorchModel.load(model, _device(device))
    _check_fits(fits, loaded)
    examples = _examples(loaded, [*train, *kept], settings, min(fits), progress)
    network = PsrNetwork.from_fits(fits)
    identity = hashlib.sha256((digest(train) + digest(kept)).encode()).hexdigest()
    trainer = Trainer(loaded, network, settings, examples[: len(train)], examples[len(train) :], identity)
    losses = trainer.run(checkpoint, lambda done: progress(_READY + (1 - _READY) * done), replace)
    finished = {n: _normalised(network, n, trainer.means[n], fits[n].explained) for n in network.blocks}
    dropped = [n for n, fit in finished.items() if fit is None]
    report = RefineReport(
        objective, settings.guidance, settings.epochs, len(losses.curve), len(train), len(kept),
        losses.first, losses.last, losses.held_first, losses.held_last, losses.curve, dropped,
        time.monotonic() - began,
    )  # fmt: skip
    return _some({n: fit for n, fit in finished.items() if fit is not None}), report


def trainer(
    model: Path, *, checkpoint: Path | None = None, n_threads: int = 1, device: str | None = None
) -> LearnTrainer:
    """The trainer that `edgesteer.learn` hands fits to.

    checkpoint: as for `refine`, but another training's is replaced, with an EdgesteerWarning, because minutes
        of sampling have passed by then. The second training has its own, see `checkpoints`. They stay when
        training is done; remove them when the bundle is saved.
    Raises LearnError at once if such a file is not a checkpoint, and for an unusable device.
    """
    device = _device(device)
    files = (None, None) if checkpoint is None else checkpoints(checkpoint)
    for file in files:
        if file is not None and file.exists():
            read_checkpoint(file)

    def train(
        fits: Mapping[int, BlockFit],
        pairs: Sequence[Pair],
        *,
        objective: str,
        scope: str,
        starts: Sequence[int] | None,
        seed: int,
        guided: bool,
        again: bool,
        progress: Callable[[float], None],
    ) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        torch.set_num_threads(n_threads)
        trained, report = refine(
            model, fits, pairs, objective=objective, scope=scope, starts=starts, seed=seed,
            checkpoint=files[again], replace=True, device=device, progress=progress,
            guidance=None if guided else 0.0,
            **(AGAIN.get(objective, {}) if again else {}),
        )  # fmt: skip
        return trained, report.facts()

    return train


def checkpoints(first: Path) -> tuple[Path, Path]:
    """The paths of the checkpoints of the first training and of the second, which continues from it."""
    return first, first.with_name(first.name + "-again")


def _device(wanted: str | None) -> str:
    cuda = torch.cuda.is_available()
    if wanted is None:
        return "cuda" if cuda else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError:
        raise LearnError(
            f"device {wanted!r}: unknown, expected one of Torch's, such as cpu or cuda"
        ) from None
    if kind == "cuda" and not cuda:
        raise LearnError(f"device {wanted!r}: this Torch finds no CUDA; use cpu")
    return wanted


def _settings(objective: str, **chosen: Any) -> Settings:
    """The objective's default settings, with the chosen ones replaced."""
    if objective not in DEFAULTS:
        raise LearnError(f"objective {objective!r}: unknown, expected one of {', '.join(DEFAULTS)}")
    given = {name: value for name, value in chosen.items() if value is not None}
    return Settings(objective, **{**DEFAULTS[objective], **given})


def _split(items: list[Triplet], held: float, seed: int) -> tuple[list[Triplet], list[Triplet]]:
    if not 0 <= held < 1:
        raise LearnError(f"held {held}: expected a share from 0 up to but not including 1")
    n = max(1, int(held * len(items))) if held else 0
    if n >= len(items):
        raise LearnError(f"held {held} of {len(items)} pairs: none are left to train on; give more pairs")
    order = np.random.default_rng(seed).permutation(len(items)) if n else np.arange(len(items))
    return [items[i] for i in sorted(order[n:])], [items[i] for i in sorted(order[:n])]


def _check_fits(fits: Mapping[int, BlockFit], model: TorchModel) -> None:
    if not fits:
        raise LearnError("fits: none, expected at least one block's; learn a start first")
    for n, fit in fits.items():
        if not 1 <= n < model.n_layer:
            raise LearnError(
                f"fit of block {n}: expected a block from 1 to {model.n_layer - 1} ({model.name})"
            )
        shapes = [W.shape for W, _ in fit.layers]
        chain = [model.n_embd, *(shape[-1] for shape in shapes)]
        whole = shapes == list(pairwise(chain)) and all(b.shape == W.shape[1:] for W, b in fit.layers)
        if fit.direction.shape != (model.n_embd,) or not whole or (shapes and chain[-1] != 1):
            found = f"direction {list(fit.direction.shape)}, layers {[list(shape) for shape in shapes]}"
            expected = f"width {model.n_embd} ({model.name}), and layers that chain and end in width 1"
            raise LearnError(f"fit of block {n}: found {found}, expected {expected}")
        values = [fit.direction, *(x for layer in fit.layers for x in layer)]
        if not all(np.isfinite(x).all() for x in values):
            raise LearnError(f"fit of block {n}: found NaN or infinity, expected finite numbers")


def _examples(
    model: TorchModel,
    items: Sequence[Triplet],
    settings: Settings,
    first_block: int,
    progress: Callable[[float], None],
) -> list[Example]:
    made = []
    for i, item in enumerate(items):
        progress(_READY * i / len(items))
        made.append(prepared(model, item, settings.objective, first_block, settings.guidance))
    return made


def _normalised(network: PsrNetwork, block: int, mean: float, explained: float) -> BlockFit | None:
    """A block's fit, with its mean coefficient moved to the direction: relu(c x) = c relu(x) for c > 0.

    None if the gate never opens.
    """
    layers, direction = network.layers(block), network.directions(block)
    with np.errstate(over="ignore"):
        direction = (direction * mean).astype(np.float32)
    if not np.isfinite(direction).all():
        raise LearnError(
            f"training: the direction of block {block} is too large for float32; use a smaller lr"
        )
    if not (mean > 0 and direction.any()):
        return None
    if layers:
        W, b = layers[-1]
        layers = (*layers[:-1], ((W / mean).astype(np.float32), (b / mean).astype(np.float32)))
    return BlockFit(direction, layers, explained)


def _some(fits: dict[int, Any]) -> dict[int, BlockFit]:
    if not fits:
        raise LearnError(
            "training: every gate has closed, expected steering; use a smaller lr, or fewer epochs"
        )
    return fits
