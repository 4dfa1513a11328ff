"""A random constant on disk, as a bundle that was learnt from a sentence."""

from pathlib import Path

import numpy as np

from edgesteer.bundle import Bundle, StrengthRange, read_model_info, save

# Longer than any table's column.
NAME = "a bundle with a very long name"


def drawn_bundle(model: Path, path: Path, **training: str) -> Path:
    """For block 1 of `model`. training: the manifest's."""
    info = read_model_info(str(model))
    drawn = np.random.default_rng(0).standard_normal(info.n_embd).astype(np.float32)
    bundle = Bundle.build(
        name=f"{NAME} {path.stem}",
        directions={1: drawn},
        model=info,
        strength=StrengthRange(1.0, 0.0, 2.0),
        training=training,
    )
    save(bundle, path)
    return path
