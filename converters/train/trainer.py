"""The training loop: AdamW with linear decay, and a checkpoint after each epoch.

The same seed, device, package versions and number of threads give the same bytes.

In:  a frozen model, a PsrNetwork, examples, settings.
Out: the network, trained in place, and its losses.

Only the network's parameters have gradients. The base model runs forward and backward over the steered
positions alone. On CUDA the passes run in bfloat16 under autocast; elsewhere in the model's own type.

On SmolLM2-135M and two cores a step takes twice its forward pass: 0.50 s for a reply of 64 tokens, or 0.35 s
per reply with four replies per step. Memory peaks at 1.2 GB while the GGUF is read, and at 1.6 GB with four
replies.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgesteer.bundle.refusal import one_line
from edgesteer.errors import EdgesteerWarning, LearnError
from edgesteer_converters.torch_model import TorchModel
from edgesteer_converters.train import objectives
from edgesteer_converters.train.data import Batch, Example, collate
from edgesteer_converters.train.network import PsrNetwork

Progress = Callable[[float], None]

_FORMAT = "edgesteer-train/1"
_KEYS = {"identity", "settings", "start", "epoch", "network", "optimizer", "losses"}

# Tolerance, relative to the tensor's norm, within which two fits are the same start. After an interruption
# the activations come from another pass and differ by rounding, which is coarse in quantized arithmetic.
_SAME_START = 0.2


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a training.

    lr: falls linearly to 0 over all steps. clip: largest norm of the gradient, or None. batch: replies per
        step.
    regulariser: weight of max(0, 1 - sum of coefficients). guidance: the teacher's, for KL.
    """

    objective: str
    epochs: int
    lr: float
    weight_decay: float = 1e-6
    clip: float | None = None
    batch: int = 1
    regulariser: float = 0.0
    guidance: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (
            self.lr,
            self.weight_decay,
            self.regulariser,
            self.guidance,
            1.0 if self.clip is None else self.clip,
        )
        sound = all(math.isfinite(x) and x >= 0 for x in numbers) and self.lr > 0 and self.clip != 0
        if self.objective not in DEFAULTS:
            raise LearnError(f"objective {self.objective!r}: unknown, expected one of {', '.join(DEFAULTS)}")
        if not (sound and self.epochs >= 1 and self.batch >= 1 and self.seed >= 0):
            raise LearnError(
                f"{self}: expected epochs and batch at least 1, lr and clip above 0, none below 0"
            )


DEFAULTS: dict[str, dict[str, Any]] = {
    "mse": {"epochs": 15, "lr": 1e-3, "regulariser": 1.0},
    "ll": {"epochs": 7, "lr": 1e-3, "regulariser": 1.0},
    "kl": {"epochs": 4, "lr": 5e-3, "clip": 1.0, "batch": 4, "guidance": 1.0},
}
"""MSE and LL as published (arXiv 2605.03907): AdamW, weight decay 1e-6, batch 1. KL is this project's own; on
two cores batch 4 is a third faster than 1, and reaches the same loss on held-out replies (docs/log.md)."""

AGAIN: dict[str, dict[str, Any]] = {"kl": {"epochs": 3, "lr": 3e-3}}
"""The settings that differ in a second training of trained gates."""


@dataclass(slots=True)
class Losses:
    """Mean losses. curve: (step, the batch's loss before it). first, last: before and after training.

    held_first, held_last: the same for held-out replies; None without any.
    """

    curve: list[tuple[int, float]] = field(default_factory=list)
    first: float = math.nan
    last: float = math.nan
    held_first: float | None = None
    held_last: float | None = None


class Trainer:
    """A training. identity: a digest of the data, to recognise another training's checkpoint."""

    def __init__(
        self,
        model: TorchModel,
        network: PsrNetwork,
        settings: Settings,
        examples: Sequence[Example],
        held: Sequence[Example] = (),
        identity: str = "",
    ) -> None:
        self.model, self.network, self.settings = model, network.to(model.device), settings
        self.examples, self.held, self.identity = list(examples), list(held), identity
        self.losses, self.epoch = Losses(), 0
        self.start = {name: values.clone() for name, values in network.state_dict().items()}
        self.means: dict[int, float] = {}  # mean coefficients, after `run`
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )

    @property
    def per_epoch(self) -> int:
        return -(-len(self.examples) // self.settings.batch)

    def run(
        self,
        checkpoint: Path | None = None,
        progress: Progress = lambda fraction: None,
        replace: bool = False,
    ) -> Losses:
        """Train to the end, resuming from the file `checkpoint` if it exists.

        It is written after each epoch, so an interruption loses at most one epoch.

        replace: overwrite another training's checkpoint, with an EdgesteerWarning, instead of refusing it.
        Raises LearnError for a loss that is NaN or infinite, and for a file that is not this training's.
        """
        if checkpoint is None or not checkpoint.exists() or not self.resume(checkpoint, replace):
            self.losses.first, self.means = self.measure(self.examples)
            self.losses.held_first = self.measure(self.held)[0] if self.held else None
            self._save(checkpoint)
        while self.epoch < self.settings.epochs:
            self._one_epoch(progress)
            self._save(checkpoint)
        self.losses.last, self.means = self.measure(self.examples)
        self.losses.held_last = self.measure(self.held)[0] if self.held else None
        progress(1.0)
        return self.losses

    def _one_epoch(self, progress: Progress) -> None:
        source = torch.Generator().manual_seed(self.settings.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.examples), generator=source).tolist()
        size, total = self.settings.batch, self.settings.epochs * self.per_epoch
        for i in range(self.per_epoch):
            step = self.epoch * self.per_epoch + i
            progress(step / total)
            batch = [self.examples[k] for k in order[i * size : (i + 1) * size]]
            self.losses.curve.append((step, self._step(batch, step, total)))
        self.epoch += 1

    def _step(self, examples: Sequence[Example], step: int, total: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * (1 - step / total)
        self.optimizer.zero_grad(set_to_none=True)
        loss, _ = self.loss(collate(examples, self.model.device))
        value = _finite(float(loss.detach()), f"at step {step}")
        loss.backward()
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimizer.step()
        return value

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """The objective, averaged over each reply's rows and over replies; and {block: coefficients [batch,
        n]}, which are 0 out of scope."""
        logits, outputs, coefficients = self._student(batch)
        rows = self._rows(batch, logits, outputs)
        loss = (rows * batch.weight).sum()
        if self.settings.regulariser:
            loss = loss + self.settings.regulariser * objectives.shortfall(coefficients)
        return loss, coefficients

    def _student(self, batch: Batch) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Logits [rows, n_vocab], coefficients, and for MSE block outputs [rows, n_embd]."""
        outputs: dict[int, torch.Tensor] = {}
        coefficients: dict[int, torch.Tensor] = {}
        blocks, mse = set(self.network.blocks), self.settings.objective == "mse"

        def steer(block: int, h: torch.Tensor) -> torch.Tensor:
            if block in blocks:
                coefficients[block] = self.network.coefficient(block, h) * batch.scope
                amount = coefficients[block] * batch.strength
                h = h + amount[..., None] * self.network.direction[str(block)]
            if mse and block >= self.network.blocks[0]:
                outputs[block] = h[batch.predicts]
            return h

        columns = batch.predicts.any(0).nonzero()[:, 0]  # logits only where a token is predicted
        with self.model.steered(steer), torch.autocast("cuda", torch.bfloat16, self._mixed):
            wanted = columns[:1] if mse else columns
            logits = self.model.logits(batch.tokens, mask=batch.mask, rows=wanted, prefix=batch.prefix)
        return logits if mse else logits[batch.predicts[:, columns]], outputs, coefficients

    @property
    def _mixed(self) -> bool:
        return bool(self.model.device.type == "cuda")

    def _rows(self, batch: Batch, logits: torch.Tensor, outputs: dict[int, torch.Tensor]) -> torch.Tensor:
        examples = batch.examples
        if self.settings.objective == "kl":
            tops = [e.top for e in examples if e.top is not None]
            top = objectives.Top(torch.cat([t.ids for t in tops]), torch.cat([t.log_probs for t in tops]))
            return objectives.kl(logits, top)
        if self.settings.objective == "ll":
            return objectives.ll(logits, torch.cat([e.targets for e in examples]))
        given = [e.outputs for e in examples if e.outputs is not None]
        teacher = {n: torch.cat([each[n] for each in given]) for n in given[0]}
        return objectives.mse(outputs, teacher)

    def measure(self, examples: Sequence[Example]) -> tuple[float, dict[int, float]]:
        """The mean loss over replies, without gradient; and each block's mean coefficient over their
        positions in scope."""
        losses, total, count = [], dict.fromkeys(self.network.blocks, 0.0), 0.0
        with torch.no_grad():
            for i in range(0, len(examples), self.settings.batch):
                batch = collate(examples[i : i + self.settings.batch], self.model.device)
                loss, coefficients = self.loss(batch)
                losses.append(_finite(float(loss), f"after {self.epoch} epochs") * len(batch.examples))
                count += float(batch.scope.sum())
                for block, c in coefficients.items():
                    total[block] += float(c.double().sum())
        return math.fsum(losses) / len(examples), {block: sum_ / count for block, sum_ in total.items()}

    def _save(self, path: Path | None) -> None:
        """Atomically: the file is never half written."""
        if path is None:
            return
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            torch.save(self._state(), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _state(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "identity": self.identity,
            "settings": asdict(self.settings),
            "start": self.start,
            "epoch": self.epoch,
            "step": self.epoch * self.per_epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": asdict(self.losses),
        }

    def resume(self, path: Path, replace: bool = False) -> bool:
        """Resume from a checkpoint; with `replace`, returns False and warns if it is another training's.

        Raises LearnError if it is damaged, or another training's and `replace` is not set.
        """
        state = read_checkpoint(path, self.model.device)
        same = (state["identity"], state["settings"]) == (self.identity, asdict(self.settings))
        if not (same and _close(state["start"], self.start)):
            other = f"{path}: found a checkpoint of another training (other settings, pairs or start)"
            if not replace:
                raise LearnError(f"{other}, expected this one's; remove it, or name another file")
            warnings.warn(f"{other}; it is replaced", EdgesteerWarning, stacklevel=2)
            return False
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.losses, self.epoch = Losses(**state["losses"]), int(state["epoch"])
            self.start = state["start"]
        except Exception as error:
            raise _no_checkpoint(path, error) from error
        return True


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `Trainer` saved. Raises LearnError for any other file."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError("a file of another format")
        if missing := _KEYS - state.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
    except Exception as error:  # torch.load can raise anything
        raise _no_checkpoint(path, error) from error
    return state


def _close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both are the same parameters, up to rounding."""
    return one.keys() == other.keys() and all(
        x.shape == other[name].shape and bool((x - other[name]).norm() <= _SAME_START * other[name].norm())
        for name, x in one.items()
    )


def _no_checkpoint(path: Path, error: Exception) -> LearnError:
    reason = one_line(str(error).partition(chr(10))[0])
    return LearnError(f"{path}: found {reason}; expected a training's checkpoint; remove it")


def _finite(loss: float, when: str) -> float:
    if not math.isfinite(loss):
        raise LearnError(f"training: loss {loss} {when}, expected a number; use a smaller lr")
    return loss
