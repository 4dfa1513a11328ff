"""Train steering through the model, for `edgesteer learn`.

In:  a model, pairs to train on and pairs to hold out, the blocks to steer.
Out: fits per block, scaled to mean coefficient 1 over the training positions in scope; and facts.

A constant without gates, else S-PSR for one block, A-PSR for several, which are trained jointly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgesteer.errors import LearnError, ModelError
from edgesteer.generate.progress import Done
from edgesteer.learn import Trainer as LearnTrainer
from edgesteer.learn.fit import BlockFit
from edgesteer.learn.pairs import Pair
from edgesteer_converters.torch_model import TorchModel
from edgesteer_converters.torch_parity import float32_bytes
from edgesteer_converters.train.data import Example, collate, digest, prepared, triplets
from edgesteer_converters.train.network import PsrNetwork
from edgesteer_converters.train.trainer import Losses, Settings, Trainer, read_checkpoint

# Share of the progress that preparing the examples takes.
_READY = 0.15

# Replies whose activations give a block's scale.
_SCALED_BY = 32


def trainer(
    model: Path | TorchModel,
    *,
    checkpoint: Path | None = None,
    n_threads: int = 1,
    device: str | None = None,
    memory: int | None = None,
) -> LearnTrainer:
    """The trainer that `edgesteer.learn` hands pairs to.

    model: a GGUF file, or a folder in Hugging Face's layout, which is read at once; or a loaded model.
    checkpoint: an interrupted training resumes from it, to the same bytes; another training's is replaced,
        with an EdgesteerWarning, because minutes of sampling have passed by then. The second training has its
        own, see `checkpoints`. They stay when training is done; remove them when the bundle is saved.
    device: "cpu", "cuda", ...; None for CUDA if there is one, else the CPU.
    memory: bytes that a GGUF file's weights may take while they are read; None: not checked.
    Raises LearnError if such a file is not a checkpoint, and for an unusable device; ModelError for a file
    that takes more memory; that and MissingExtra as `TorchModel.load` does. The trainer raises LearnError for
    pairs or fits that cannot be trained with, and for a loss that is NaN or infinite.
    """
    device = _device(device)
    files = (None, None) if checkpoint is None else checkpoints(checkpoint)
    for file in files:
        if file is not None and file.exists():
            read_checkpoint(file)
    torch.set_num_threads(n_threads)
    frozen = model if isinstance(model, TorchModel) else _loaded(model, device, memory)
    known: dict[str, Example] = {}  # the second training reads the first one's replies again

    def train(
        pairs: Sequence[Pair],
        held: Sequence[Pair],
        *,
        blocks: Sequence[int],
        gated: bool,
        steps: range,
        total: int,
        start: Mapping[int, BlockFit] | None,
        starts: Sequence[int] | None,
        seed: int,
        progress: Done,
    ) -> tuple[dict[int, BlockFit], dict[str, Any]]:
        torch.set_num_threads(n_threads)
        check_blocks(blocks, frozen)
        settings = Settings(steps.start, steps.stop, total, seed=seed)
        if not pairs:
            raise LearnError("training pairs: none, expected at least one; give more questions")
        items = triplets([*pairs, *held], starts)
        keys = [digest([item]) for item in items]
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
        made = prepared(frozen, list(new.values()), lambda done: progress(_READY * done))
        known.update(zip(new, made, strict=True))
        examples = [known[key] for key in keys]
        used, kept = examples[: len(pairs)], examples[len(pairs) :]
        scales = stream_sizes(frozen, used, blocks)
        if start is None:
            network = PsrNetwork(frozen.n_embd, scales, gated, seed)
        else:
            network = PsrNetwork.from_fits(start, scales)
        identity = f"{digest(items)} {len(used)} {network.digest()}"
        one = Trainer(frozen, network, settings, used, kept, identity)
        losses = one.run(files[start is not None], lambda done: progress(_READY + (1 - _READY) * done))
        fits = {n: network.fit(n, one.means[n]) for n in network.blocks}
        opened = {n: fit for n, fit in fits.items() if fit is not None}
        if not opened:
            why = "no step lowers the KL on held-out replies" if losses.kept == 0 else "every gate has closed"
            raise LearnError(
                f"training: {why}, expected steering that generalises; "
                "give more questions, or learn in closed form (effort quick)"
            )
        return opened, facts(losses, len(used), len(kept), [n for n in fits if n not in opened])

    return train


def checkpoints(first: Path) -> tuple[Path, Path]:
    """The paths of the checkpoints of the first training and of the second, which continues from it."""
    return first, first.with_name(first.name + "-again")


def facts(losses: Losses, n_train: int, n_held: int, closed: Sequence[int]) -> dict[str, Any]:
    """For a manifest: nats per token, and no times. closed: blocks whose gate never opens."""
    held = dict(losses.held)
    return {
        "steps": len(losses.curve),
        "replies": n_train,
        "held": n_held,
        "kl_before": round(losses.first, 4),
        "kl_after": round(losses.last, 4),
        **({"held_before": round(held[0], 4), "held_after": round(min(held.values()), 4)} if held else {}),
        **({} if losses.kept is None else {"kept_step": losses.kept}),
        "closed": list(closed),
    }


def stream_sizes(
    model: TorchModel, examples: Sequence[Example], blocks: Sequence[int]
) -> dict[int, float]:
    """The root mean square of the unsteered residual stream at each block, over positions in scope."""
    squares, count = dict.fromkeys(sorted(blocks), 0.0), 0
    for example in examples[:_SCALED_BY]:
        batch = collate([example], model.device, model.dtype)
        with torch.no_grad():
            seen = model.block_outputs(batch.tokens, prefix=batch.prefix)
        count += len(example.tokens) - example.first
        for block in squares:
            squares[block] += float(seen[block][0, example.first :].double().square().mean(-1).sum())
    sizes = {block: float(np.float32((total / count) ** 0.5)) for block, total in squares.items()}
    return {block: size or 1.0 for block, size in sizes.items()}


def check_blocks(blocks: Sequence[int], model: TorchModel) -> None:
    """Raises LearnError for blocks that this model cannot steer."""
    if not blocks:
        raise LearnError("blocks: none, expected at least one")
    for n in blocks:
        if not 1 <= n < model.n_layer:
            raise LearnError(f"block {n}: expected a block from 1 to {model.n_layer - 1} ({model.name})")


def _loaded(path: Path, device: str, memory: int | None) -> TorchModel:
    if memory is not None and path.is_file() and (needed := float32_bytes(path)) > memory:
        raise ModelError(
            f"{path}: found weights that take about {needed / 2**30:.1f} GiB in Torch; expected at most the "
            f"{memory / 2**30:.1f} GiB that are free; use a smaller model"
        )
    return TorchModel.load(path, device)


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
