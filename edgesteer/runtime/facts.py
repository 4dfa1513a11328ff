"""What a model file says of itself, read once when it is opened: what happens to the file later changes
nothing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from edgesteer.bundle import ModelInfo, read_model_info
from edgesteer.errors import ModelError

_SAMPLES, _SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True)
class ModelFacts:
    """content: names the file by its size, its header and 64 samples of its weights (0.3 MB, however large it
    is)."""

    _info: ModelInfo | ModelError
    content: bytes

    @classmethod
    def read(cls, path: str) -> ModelFacts:
        """Facts that a file lacks are an error when they are asked for: without steering they are not
        needed."""
        try:
            info: ModelInfo | ModelError = read_model_info(path)
        except ModelError as error:
            info = error
        return cls(info, _sampled(path))

    @property
    def info(self) -> ModelInfo:
        """What bundles are matched against. Raises ModelError where the file says too little."""
        if isinstance(self._info, ModelError):
            raise self._info
        return self._info

    @property
    def architecture(self) -> str:
        return "unknown" if isinstance(self._info, ModelError) else self._info.architecture

    def identity(self, *settings: object) -> str:
        """Names the file, and whatever else makes the same tokens give other numbers (LoRA, RoPE
        settings)."""
        return hashlib.blake2b(repr(settings).encode() + self.content, digest_size=16).hexdigest()


def _sampled(path: str) -> bytes:
    size = os.path.getsize(path)
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    with open(path, "rb") as file:
        for i in range(_SAMPLES):
            file.seek(i * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()
