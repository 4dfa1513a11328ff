"""Writes tests/converters/fixtures with the producers' own packages, and what must come out of them beside.

    python -m tests.converters.make_fixtures          (needs torch, transformers, repeng, steering-vectors)

The model is a random Llama of 4 blocks and width 16. What must come out is computed here from forward hooks
on its blocks, never from a producer's numbering: a reader that is off by one block is seen.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
N_EMBD, N_LAYER = 16, 4
PAIRS = [(f"the sea is bright {i}", f"a dull grey stone {i}") for i in range(6)]


class Tokenizer:
    """One token a byte: all that the producers' training loops ask of a tokenizer."""

    pad_token_id, eos_token = 0, "\0"

    def __call__(self, texts: list[str] | str, **_: Any) -> Any:
        import torch
        from transformers import BatchEncoding

        rows = [list(text.encode()) for text in ([texts] if isinstance(texts, str) else texts)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})


def tiny_llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=N_EMBD,
        intermediate_size=32,
        num_hidden_layers=N_LAYER,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


def block_outputs(model: Any, text: str) -> np.ndarray:
    """[n_layer + 1, n_embd]: the outputs of the blocks at the last token, by hooks, and that of the final
    norm."""
    import torch

    seen: list[np.ndarray] = []

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        seen.append(output[0, -1].detach().float().numpy().copy())

    modules = [*model.model.layers, model.model.norm]
    handles = [module.register_forward_hook(hook) for module in modules]
    with torch.no_grad():
        model(**Tokenizer()(text))
    for handle in handles:
        handle.remove()
    return np.stack(seen)


def principal(differences: np.ndarray) -> np.ndarray:
    """The first principal axis; its sign is the producer's business."""
    centred = differences - differences.mean(0)
    return np.linalg.svd(centred, full_matrices=False)[2][0]


def expected(model: Any) -> dict[str, np.ndarray]:
    """What each fixture must give, by block; see the tests."""
    differences = np.stack([block_outputs(model, a) - block_outputs(model, b) for a, b in PAIRS])
    return {
        "mean": differences[:, :N_LAYER].mean(0),  # row N: block N
        "axis": np.stack([principal(differences[:, n]) for n in range(N_LAYER)]),
        "last_mean": differences[:, N_LAYER].mean(0),  # after the final norm
        "last_axis": principal(differences[:, N_LAYER]),
    }


def import_repeng() -> Any:
    """repeng 0.4.0 names `np.float_` in an annotation, which NumPy 2 has no longer."""
    if hasattr(np, "float_"):
        return importlib.import_module("repeng")
    np.float_ = np.float64  # type: ignore[attr-defined]
    try:
        return importlib.import_module("repeng")
    finally:
        del np.float_  # type: ignore[attr-defined]


def write_repeng(model: Any, folder: Path) -> None:
    import torch

    repeng = import_repeng()
    pairs = [repeng.DatasetEntry(positive=a, negative=b) for a, b in PAIRS]
    vector = repeng.ControlVector.train(model, Tokenizer(), pairs, batch_size=1)
    vector.export_gguf(folder / "repeng.gguf")
    layers = {n: torch.from_numpy(row) for n, row in vector.directions.items()}
    torch.save({"model_type": vector.model_type, "directions": layers}, folder / "repeng.pt")
    torch.save(vector, folder / "repeng_object.pt")
    every = repeng.ControlVector.train(model, Tokenizer(), pairs, batch_size=1, hidden_layers=range(N_LAYER))
    every.export_gguf(folder / "repeng_from_block_0.gguf")


def write_steering_vectors(model: Any, folder: Path) -> None:
    import steering_vectors
    import torch

    vector = steering_vectors.train_steering_vector(model, Tokenizer(), PAIRS)
    saved = {"layer_activations": vector.layer_activations, "layer_type": vector.layer_type}
    torch.save(saved, folder / "steering_vectors.pt")
    torch.save(vector, folder / "steering_vectors_object.pt")


def write_persona_vectors(model: Any, folder: Path) -> None:
    """The producer is a script, not a package: this is what its generate_vec.py does, at the last token."""
    import torch

    def states(text: str) -> Any:
        with torch.no_grad():
            out = model(**Tokenizer()(text), output_hidden_states=True)
        return torch.stack([state[0, -1] for state in out.hidden_states])

    rows = torch.stack([states(a) - states(b) for a, b in PAIRS]).mean(0)
    torch.save(rows, folder / "sea_prompt_last_diff.pt")


def write(folder: Path) -> None:
    """All fixtures but the list of versions."""
    model = tiny_llama()
    np.savez(folder / "expected.npz", **expected(model))
    write_repeng(model, folder)
    write_steering_vectors(model, folder)
    write_persona_vectors(model, folder)


def main() -> None:
    FIXTURES.mkdir(exist_ok=True)
    write(FIXTURES)
    packages = ("repeng", "steering-vectors", "torch", "transformers", "gguf", "numpy", "scikit-learn")
    lines = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    text = "Written by make_fixtures.py with:\n" + "\n".join(lines) + "\n"
    (FIXTURES / "VERSIONS.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
