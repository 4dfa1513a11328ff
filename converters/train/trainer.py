"""The training loop: AdamW with linear decay, held-out replies that say when to stop, and checkpoints.

The same seed, device, package versions and number of threads give the same bytes.

In:  a frozen model, a PsrNetwork, examples, settings.
Out: the network, trained in place, at the step where the held-out replies' loss was lowest; and its losses.

Only the network's parameters have gradients. The base model runs forward and backward over the steered
positions alone. On CUDA the passes run in bfloat16 under autocast; elsewhere in the model's own type.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgesteer.bundle.refusal import one_line
from edgesteer.errors import EdgesteerWarning, LearnError
from edgesteer.generate.progress import Done, no_progress, spread
from edgesteer_converters.torch_model import TorchModel
from edgesteer_converters.train.data import Batch, Example, collate
from edgesteer_converters.train.divergence import kl
from edgesteer_converters.train.network import PsrNetwork

_FORMAT = "edgesteer-train/2"
_KEYS = {"identity", "settings", "section", "network", "best", "optimizer", "losses"}

# How often the held-out replies are measured, and a checkpoint is written.
_SECTIONS = 5

# Training replies, at most, that the loss before and after and the mean coefficients are measured on.
_MEASURED = 24


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a training, found by trial (docs/log.md).

    first, last: which steps of a `total` these are; a second training goes on where the first ended.
    lr: falls linearly to 0 over the total. clip: largest norm of the gradient. batch: replies per step.
    """

    first: int
    last: int
    total: int
    lr: float = 5e-3
    weight_decay: float = 1e-6
    clip: float = 1.0
    batch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.lr, self.weight_decay, self.clip)
        sound = all(math.isfinite(x) and x >= 0 for x in numbers) and self.lr > 0 and self.clip > 0
        if not (sound and 0 <= self.first < self.last <= self.total and self.batch >= 1 and self.seed >= 0):
            raise LearnError(
                f"{self}: expected at least one step, batch at least 1, lr and clip above 0, none below 0"
            )

    @property
    def steps(self) -> int:
        return self.last - self.first


@dataclass(slots=True)
class Losses:
    """Mean KL in nats per token. curve: (step, the batch's loss before it).

    first, last: of some training replies, before training and for the network that is kept.
    held: (step, the held-out replies'), ascending; empty without any.
    """

    curve: list[tuple[int, float]] = field(default_factory=list)
    first: float = math.nan
    last: float = math.nan
    held: list[tuple[int, float]] = field(default_factory=list)

    @property
    def kept(self) -> int | None:
        """The step at which the held-out loss is lowest; None without any."""
        return min(self.held, key=lambda point: point[1])[0] if self.held else None


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
        self._some = [self.examples[i] for i in spread(len(self.examples), _MEASURED)]
        self.losses, self.section = Losses(), 0
        self.means: dict[int, float] = {}  # mean coefficients, after `run`
        self.best = self._copy()
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )

    def run(self, checkpoint: Path | None = None, progress: Done = no_progress) -> Losses:
        """Train to the end, resuming from the file `checkpoint` if it exists.

        It is written after each of five sections, so an interruption loses at most one. Another training's
        is replaced, with an EdgesteerWarning.
        Raises LearnError for a loss that is NaN or infinite, and for a file that is not a checkpoint.
        """
        if checkpoint is None or not checkpoint.exists() or not self._resume(checkpoint):
            self.losses.first = self.measure(self._some)[0]
            self._hold(0)
        ends = [self.settings.steps * (i + 1) // _SECTIONS for i in range(_SECTIONS)]
        while self.section < _SECTIONS:
            first = ends[self.section - 1] if self.section else 0
            for step in range(first, ends[self.section]):
                progress(step / self.settings.steps)
                self.losses.curve.append((step, self._step(step)))
            if ends[self.section] > first:
                self._hold(ends[self.section])
            self.section += 1
            self._save(checkpoint)
        self.network.load_state_dict(self.best)
        self.losses.last, self.means = self.measure(self._some)
        progress(1.0)
        return self.losses

    def _hold(self, step: int) -> None:
        """Measure the held-out replies, and remember the network if it is the best so far."""
        if self.held:
            self.losses.held.append((step, self.measure(self.held)[0]))
        if self.losses.kept in (None, step):
            self.best = self._copy()

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: values.clone() for name, values in self.network.state_dict().items()}

    def batch(self, step: int) -> list[Example]:
        """The replies of a step: all in an order drawn anew each time that they have been used up."""
        size = min(self.settings.batch, len(self.examples))
        per_round = -(-len(self.examples) // size)
        source = torch.Generator().manual_seed(self.settings.seed * 100_003 + step // per_round)
        order = torch.randperm(len(self.examples), generator=source).tolist()
        at = step % per_round * size
        return [self.examples[i] for i in order[at : at + size]]

    def _step(self, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * (1 - (self.settings.first + step) / self.settings.total)
        self.optimizer.zero_grad(set_to_none=True)
        loss, _ = self.loss(self.batch(step))
        value = _finite(float(loss.detach()), f"at step {step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimizer.step()
        return value

    def loss(self, examples: Sequence[Example]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """The KL, averaged over each reply's rows and over replies; and {block: sum of coefficients}."""
        batch = collate(examples, self.model.device, self.model.dtype)
        logits, sums = self._student(batch)
        return (kl(logits, batch.top) * batch.weight).sum(), sums

    def _student(self, batch: Batch) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Logits [rows, n_vocab], and each block's sum of coefficients."""
        sums: dict[int, torch.Tensor] = {}

        def steer(block: int, h: torch.Tensor) -> torch.Tensor:
            if block not in self.network.place:
                return h
            c = self.network.coefficient(block, h) * batch.scope
            sums[block] = c.detach().double().sum()
            return self.network.steered(block, h, c * batch.strength)

        columns = batch.predicts.any(0).nonzero()[:, 0]  # logits only where a token is predicted
        mixed = self.model.device.type == "cuda"
        with self.model.steered(steer), torch.autocast("cuda", torch.bfloat16, mixed):
            logits = self.model.logits(batch.tokens, mask=batch.mask, rows=columns, prefix=batch.prefix)
        return logits[batch.predicts[:, columns]], sums

    def measure(self, examples: Sequence[Example]) -> tuple[float, dict[int, float]]:
        """The mean loss over replies, without gradient; and each block's mean coefficient over their
        positions in scope."""
        losses, total, count = [], dict.fromkeys(self.network.blocks, 0.0), 0
        with torch.no_grad():
            for i in range(0, len(examples), self.settings.batch):
                some = examples[i : i + self.settings.batch]
                loss, sums = self.loss(some)
                losses.append(_finite(float(loss), f"after {self.section} of {_SECTIONS} parts") * len(some))
                count += sum(len(example.tokens) - example.first for example in some)
                for block, c in sums.items():
                    total[block] += float(c)
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
            "section": self.section,
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "losses": asdict(self.losses),
        }

    def _resume(self, path: Path) -> bool:
        """Resume from a checkpoint; False, with a warning, if it is another training's.

        Raises LearnError if it is damaged.
        """
        state = read_checkpoint(path, self.model.device)
        if (state["identity"], state["settings"]) != (self.identity, asdict(self.settings)):
            other = f"{path}: found a checkpoint of another training (other settings, pairs or start)"
            warnings.warn(f"{other}; it is replaced", EdgesteerWarning, stacklevel=3)
            return False
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            losses = {**state["losses"], **{k: [*map(tuple, state["losses"][k])] for k in ("curve", "held")}}
            self.losses, self.section, self.best = Losses(**losses), int(state["section"]), state["best"]
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


def _no_checkpoint(path: Path, error: Exception) -> LearnError:
    reason = one_line(str(error).partition(chr(10))[0])
    return LearnError(f"{path}: found {reason}; expected a training's checkpoint; remove it")


def _finite(loss: float, when: str) -> float:
    if not math.isfinite(loss):
        raise LearnError(
            f"training: loss {loss} {when}, expected a number; learn in closed form (effort quick)"
        )
    return loss
