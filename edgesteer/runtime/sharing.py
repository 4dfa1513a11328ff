"""One model, several contexts: the weights are loaded once and freed with the last that uses them.

In:  the constructor arguments of one SteeredLlama, and what another should have otherwise.
Out: the other's arguments; a model that counts who holds it.
"""

from __future__ import annotations

import threading
from typing import Any

import llama_cpp._internals as internals

# What llama.cpp reads when it loads weights; siblings have it in common.
_WEIGHTS = ("n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "kv_overrides", "numa")
_OF_THE_MODEL = frozenset((*_WEIGHTS, "model_path", "vocab_only", "use_mmap", "use_mlock"))


class SharedModel(internals.LlamaModel):
    """llama_cpp's model, closed when as many have closed it as held it."""

    holders = 1
    _counting = threading.Lock()

    @classmethod
    def hold(cls, model: internals.LlamaModel) -> SharedModel:
        with cls._counting:
            model.__class__ = cls
            assert isinstance(model, cls)
            model.holders += 1
            return model

    def close(self) -> None:
        with self._counting:
            self.holders -= 1
            last = self.holders <= 0
        if last:
            super().close()  # type: ignore[no-untyped-call]


def context_options(of_this: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments for a sibling. Raises TypeError for one that concerns the model."""
    unfit = sorted(_OF_THE_MODEL & wanted.keys())
    if unfit:
        raise TypeError(f"sibling() got {unfit[0]!r}, which concerns the model; its siblings share it")
    inherited = of_this if "n_ctx" not in wanted else {**of_this, "n_batch": 512, "n_ubatch": 512}
    # Loading the vocabulary alone: Llama.__init__ must load something, and this takes milliseconds.
    return {**inherited, **wanted, "vocab_only": True, "use_mmap": True, "use_mlock": False}
