"""The frozen Torch model: loading, blocks, interventions, prefixes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgesteer.errors import MissingExtra, ModelError
from edgesteer_converters.torch_model import TorchModel
from tests.converters.torch_tiny import BLOCKS, VOCAB, WIDTH
from tests.tiny import write_tiny

TOKENS = torch.arange(1, 9)[None]


def test_blocks_width_and_vocabulary_are_found(llama: TorchModel) -> None:
    assert (llama.n_layer, llama.n_embd, llama.n_vocab) == (BLOCKS, WIDTH, VOCAB)
    assert llama.blocks == list(llama.module.model.layers)
    assert not llama.module.training
    assert not any(p.requires_grad for p in llama.module.parameters())


def test_block_outputs_are_the_hidden_states(llama: TorchModel) -> None:
    hidden = llama.module(input_ids=TOKENS, output_hidden_states=True).hidden_states
    outputs = llama.block_outputs(TOKENS)
    assert list(outputs) == list(range(BLOCKS))
    for n in range(BLOCKS - 1):  # transformers norms the last
        assert torch.equal(outputs[n], hidden[n + 1])
    logits = llama.module.lm_head(llama.module.model.norm(outputs[BLOCKS - 1]))
    assert torch.equal(logits, llama.logits(TOKENS))


def test_an_intervention_acts_from_its_block_on_and_leaves_with_the_with(llama: TorchModel) -> None:
    before, plain = llama.block_outputs(TOKENS), llama.logits(TOKENS)
    add = torch.ones(WIDTH)
    with llama.steered(lambda n, h: h + add if n == 2 else h):
        after = llama.block_outputs(TOKENS)
        assert not torch.equal(llama.logits(TOKENS), plain)
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[2], before[2] + add)
    assert not torch.equal(after[3], before[3])
    with pytest.raises(ZeroDivisionError), llama.steered(lambda n, h: 1 // 0):
        llama.logits(TOKENS)
    assert torch.equal(llama.logits(TOKENS), plain)


def test_blocks_that_give_tuples_are_steered_too(llama: TorchModel) -> None:
    plain = llama.logits(TOKENS)
    hook = llama.blocks[1].register_forward_hook(lambda m, a, out: (out, None))
    undo = llama.blocks[2].register_forward_pre_hook(lambda m, a: (a[0][0], *a[1:]))
    try:
        with llama.steered(lambda n, h: h * 2 if n == 0 else h):
            assert not torch.equal(llama.logits(TOKENS), plain)
        assert torch.equal(llama.logits(TOKENS), plain)
    finally:
        hook.remove()
        undo.remove()


def test_a_prefix_gives_what_the_whole_text_gives_and_stays_as_it_is(llama: TorchModel) -> None:
    whole = llama.logits(TOKENS)
    prefix = llama.keys(TOKENS[:, :5])
    assert prefix is not None
    kept = [(k.clone(), v.clone()) for k, v in prefix]
    for _ in range(2):
        torch.testing.assert_close(
            llama.logits(TOKENS[:, 5:], prefix=prefix), whole[:, 5:], atol=1e-5, rtol=0
        )
    assert all(
        torch.equal(a, b) for x, y in zip(prefix, kept, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_rows_choose_logits(llama: TorchModel) -> None:
    rows = torch.tensor([2, 7])
    torch.testing.assert_close(llama.logits(TOKENS, rows=rows), llama.logits(TOKENS)[:, rows])


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_a_gguf_is_loaded_silently(tmp_path: Path, arch: str, capsys: Any) -> None:
    model = TorchModel.load(write_tiny(tmp_path / "m.gguf", arch))
    assert (model.n_layer, model.n_embd) == (4, 64)
    assert model.info is not None
    assert model.info.architecture == arch
    assert torch.isfinite(model.logits(TOKENS)).all()
    assert capsys.readouterr() == ("", "")


def one_line_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        TorchModel.load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path) -> None:
    one_line_of(tmp_path / "missing.gguf")
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + bytes(100))
    one_line_of(tmp_path / "noise.gguf")
    assert "bert" in one_line_of(write_tiny(tmp_path / "b.gguf", "bert"))
    (tmp_path / "empty").mkdir()
    one_line_of(tmp_path / "empty")


def test_missing_weights_are_not_made_up(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama_folder / "config.json").read_text())
    weights = load_file(llama_folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "layers.1.mlp.up_proj" in one_line_of(tmp_path)


def test_pickles_and_remote_code_are_not_read(llama_folder: Path, tmp_path: Path) -> None:
    config = json.loads((llama_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(load_file(llama_folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    one_line_of(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    remote = {
        **config,
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
    }
    (theirs / "config.json").write_text(json.dumps(remote))
    (theirs / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    one_line_of(theirs)
    assert not (tmp_path / "ran").exists()


def test_a_header_that_says_otherwise_is_refused(llama: TorchModel) -> None:
    from edgesteer.bundle import ModelInfo

    info = ModelInfo("llama", "m", n_embd=WIDTH, n_layer=BLOCKS + 1, file_type="F32")
    with pytest.raises(ModelError, match=f"{BLOCKS} blocks"):
        TorchModel(llama.module, "m.gguf", info)


def test_a_model_without_a_chain_of_blocks_is_refused(llama: TorchModel) -> None:
    shared = type(llama.module)(llama.module.config)
    shared.forward = lambda **kwargs: None
    with pytest.raises(ModelError, match="no chain of blocks"):
        TorchModel(shared)


def test_without_torch_or_transformers_the_message_says_what_to_install(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import edgesteer_converters\n"
        "from edgesteer.errors import MissingExtra\n"
        "try: from edgesteer_converters.train import trainer\n"
        "except MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("torch: not installed")
    assert "edgesteer[convert]" in done.stdout
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"^transformers: not installed.*edgesteer\[convert\]"):
        TorchModel.load(llama_folder)
