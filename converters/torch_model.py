"""A frozen language model in Torch, for training by gradients and for comparing the runtime with a source.

It is read from a GGUF file, whose weights transformers dequantizes, or from a folder in Hugging Face's
layout. It gives logits and the output of every decoder block, and lets callers intervene there.

Blocks count from 0, as in llama.cpp; an intervention gets llama.cpp's `l_out-N`. No code of a folder is
executed, and its weights are read from safetensors alone. Memory: the weights in `dtype`, whatever the file's
quantization (135 M parameters in float32: 0.54 GB, and about as much again while a GGUF is read).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesteer.bundle import ModelInfo, read_model_info
from edgesteer.bundle.container import expanded
from edgesteer.bundle.refusal import one_line
from edgesteer.errors import ModelError
from edgesteer_converters.extras import missing, need

try:
    import torch
except ImportError as error:
    raise missing("torch", "run a model in Torch") from error

Intervention = Callable[[int, torch.Tensor], torch.Tensor]
"""(block, h [batch, n, n_embd]) -> h', the output that the next block reads."""

Keys = list[tuple[torch.Tensor, torch.Tensor]]
"""A prefix's KV cache: for each block its keys and values, [batch, heads, length, head width]."""


class TorchModel:
    """A causal language model in eval mode, without gradients for its parameters.

    module: the transformers model. blocks: its decoder layers, in order; n_layer: their number.
    n_embd: width of the residual stream. n_vocab: number of logits. info: of the GGUF; None for a folder.
    """

    def __init__(self, module: Any, name: str = "model", info: ModelInfo | None = None) -> None:
        """Raises ModelError if no list of blocks can be found, or if it contradicts `info`."""
        self.module = module.eval().requires_grad_(False)
        self.name, self.info = name, info
        self.n_embd = int(module.config.get_text_config().hidden_size)
        self.blocks = _blocks(self.module, self.n_embd, name)
        self.n_layer = len(self.blocks)
        if info is not None and (info.n_layer, info.n_embd) != (self.n_layer, self.n_embd):
            found = f"{self.n_layer} blocks of width {self.n_embd}"
            raise _refusal(name, found, f"{info.n_layer} of width {info.n_embd}, as its header says")

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> TorchModel:
        """A GGUF file, or a folder with config.json and safetensors.

        Raises:
            ModelError: no such model, an architecture that transformers does not know, or missing weights.
            MissingExtra: transformers is not installed.
        """
        path = expanded(path)
        info = None if path.is_dir() else read_model_info(path)
        return cls(_read(path, dtype).to(device), str(path), info)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def n_vocab(self) -> int:
        return int(self.module.get_output_embeddings().weight.shape[0])

    @contextmanager
    def steered(self, intervention: Intervention) -> Iterator[None]:
        """Within the `with`, replace every block's output h by intervention(block, h)."""
        hooks = [block.register_forward_hook(_hook(n, intervention)) for n, block in enumerate(self.blocks)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def logits(
        self,
        tokens: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        prefix: Keys | None = None,
    ) -> torch.Tensor:
        """Next-token logits [batch, rows, n_vocab] of tokens [batch, n].

        mask: [batch, prefix + n], 0 for padding; None without padding. rows: positions of `tokens` to compute
            logits at, [rows]; None for all. prefix: the KV cache before them, from `keys`; not changed.
        """
        past = 0 if prefix is None else prefix[0][0].shape[2]
        extra: dict[str, Any] = {"use_cache": False}
        if prefix is not None:
            extra = cached(self.module, _cache(prefix))
        if mask is not None:
            extra |= {"attention_mask": mask, "position_ids": _positions(mask)[:, past:]}
        keep = 0 if rows is None else rows
        return self.module(input_ids=tokens, logits_to_keep=keep, **extra).logits

    def block_outputs(self, tokens: torch.Tensor, **options: Any) -> dict[int, torch.Tensor]:
        """Block -> its output [batch, n, n_embd], after an intervention; `options` as for `logits`."""
        seen: dict[int, torch.Tensor] = {}

        def keep(block: int, h: torch.Tensor) -> torch.Tensor:
            seen[block] = h
            return h

        with self.steered(
            keep
        ):  # hooks run in the order of their registration, so an outer `steered` comes first
            self.logits(tokens, **{"rows": torch.zeros(1, dtype=torch.long, device=self.device), **options})
        return seen

    def keys(self, tokens: torch.Tensor, prefix: Keys | None = None) -> Keys | None:
        """The KV cache of `prefix` and then tokens [batch, n], unsteered and without gradient, to continue
        from.

        None for a model that keeps more, or less, than keys and values for each block.
        """
        from transformers import DynamicCache

        past = 0 if prefix is None else prefix[0][0].shape[2]
        cache = DynamicCache() if prefix is None else _cache(prefix)
        try:
            with torch.no_grad():
                self.module(input_ids=tokens, logits_to_keep=1, **cached(self.module, cache))
        except (AttributeError, IndexError, TypeError, ValueError):  # it wants a cache of another kind
            return None
        kept = [
            (layer.keys, layer.values) for layer in cache.layers if getattr(layer, "keys", None) is not None
        ]
        n = past + tokens.shape[1]
        whole = all(k.ndim == 4 and k.shape[2] == v.shape[2] == n for k, v in kept)
        return kept if whole and len(kept) == self.n_layer else None


def cached(module: Any, cache: Any) -> dict[str, Any]:
    """Arguments for a transformers model that reads and fills `cache`; 5.24 renamed the first."""
    new = "cache" in inspect.signature(module.forward).parameters
    return {"cache" if new else "past_key_values": cache, "use_cache": True}


def _refusal(where: str, found: str, expected: str, remedy: str = "use another model") -> ModelError:
    return ModelError(f"{where}: found {one_line(found)}; expected {expected}; {remedy}")


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Each token's position in its own text, without the padding before it."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)


def _cache(prefix: Keys) -> Any:
    """A new cache that holds `prefix`. Appending makes new tensors, so `prefix` does not change."""
    from transformers import DynamicCache

    return DynamicCache(prefix)


def _hook(n: int, intervention: Intervention) -> Callable[..., Any]:
    """A hook for block n, whose output is the stream, or a tuple that begins with it in some releases."""

    def replace(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (intervention(n, output[0]), *output[1:])
        return intervention(n, output)

    return replace


def _blocks(module: Any, n_embd: int, name: str) -> list[Any]:
    """The longest ModuleList whose members hand the residual stream from one to the next."""
    lists = [list(m) for m in module.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    for blocks in sorted(lists, key=len, reverse=True):
        if _is_stream(module, blocks, n_embd):
            return blocks
    raise _refusal(
        name, f"no chain of blocks in {type(module).__name__}", "decoder blocks one after the other"
    )


def _is_stream(module: Any, blocks: Sequence[Any], n_embd: int) -> bool:
    """Whether, on a text of two tokens, each of the blocks reads the output of the one before it."""
    read: list[Any] = []
    outputs: list[Any] = []

    def look(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        read.append(args[0] if args else kwargs.get("hidden_states"))
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(look, with_kwargs=True) for block in blocks]
    try:
        with torch.no_grad():
            device = next(module.parameters()).device
            module(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    shapes = all(isinstance(h, torch.Tensor) and h.shape == (1, 2, n_embd) for h in outputs)
    passed_on = all(a is b for a, b in zip(outputs, read[1:], strict=False))
    return len(outputs) == len(blocks) and shapes and passed_on


def _read(path: Path, dtype: torch.dtype) -> Any:
    """The transformers model of a file or folder. Raises ModelError for any error."""
    need("transformers", "run a model in Torch")
    try:
        with _silence():
            module, loading = _from_folder(path, dtype) if path.is_dir() else _from_gguf(path, dtype)
    except Exception as error:  # transformers has no error of its own for what it cannot read
        raise _refusal(str(path), _first_line(error), "a model that transformers can load") from error
    lost = sorted([*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])])
    if lost:  # transformers would go on with random ones
        raise _refusal(str(path), f"no weights that fit {', '.join(lost)}", "all of them", "fetch it again")
    return module


def _from_folder(path: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, trust_remote_code=False, local_files_only=True, use_safetensors=True,
        output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip


def _from_gguf(path: Path, dtype: torch.dtype) -> Any:
    """Read a GGUF in two steps, because `from_pretrained(gguf_file=...)` requires accelerate."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=empty, torch_dtype=dtype)
    return type(empty).from_pretrained(
        None, config=config, state_dict=weights["tensors"], dtype=dtype,
        output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text.strip()}"


@contextmanager
def _silence() -> Iterator[None]:
    """Switch off transformers' progress bars and warnings meanwhile."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    bars, level, tqdm = logging.is_progress_bar_enabled(), logging.get_verbosity(), gguf_reader.tqdm
    gguf_reader.tqdm = lambda items, **_: items  # transformers has no setting for this bar
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        gguf_reader.tqdm = tqdm
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
