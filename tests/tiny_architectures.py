"""The tiny models' architectures: keys, and tensors without values, as llama.cpp's src/models ask for them.

`tests.tiny` fills and writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

N_VOCAB = 320


@dataclass(frozen=True, slots=True)
class Sizes:
    """The hyperparameters of a tiny model, in llama.cpp's names."""

    n_layer: int = 4
    n_embd: int = 64
    n_ff: int = 128
    n_head: int = 4
    n_head_kv: int = 2
    n_vocab: int = N_VOCAB
    n_ctx: int = 512

    @property
    def n_embd_kv(self) -> int:
        """Width of the key and of the value projection."""
        return self.head * self.n_head_kv

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head


class Tensor(NamedTuple):
    """A tensor to write: its shape in ggml's order, fastest axis first, as llama.cpp's loader spells it."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["weight", "embd", "output", "norm", "bias", "decay"] = "weight"


class Architecture(NamedTuple):
    """One architecture: its tensors, its keys, and what llama.cpp's graph offers for it."""

    block: Callable[[int, Sizes], list[Tensor]]
    head: Callable[[Sizes], list[Tensor]]
    keys: Callable[[Sizes], dict[str, Any]]
    causal: bool = True
    """Whether it predicts a next token; else it only embeds."""
    slot: bool = True
    """Whether its graph adds a control vector and names its blocks' outputs `l_out-N`."""
    embd_scale: float = 2.0
    """RMS of the token embeddings times sqrt(n_embd)."""
    kind: str = "decoder"
    """decoder, experts, recurrent, hybrid, encoder or four streams."""
    gqa: bool = True
    """Whether it may have fewer key than query heads."""
    name: str = ""
    """`general.architecture`, where it is not the table's key."""


def norm(name: str, width: int, bias: bool = False) -> list[Tensor]:
    biases = [Tensor(f"{name}.bias", (width,), "bias")] if bias else []
    return [Tensor(f"{name}.weight", (width,), "norm"), *biases]


def linear(name: str, n_in: int, n_out: int, bias: bool = False) -> list[Tensor]:
    biases = [Tensor(f"{name}.bias", (n_out,), "bias")] if bias else []
    return [Tensor(f"{name}.weight", (n_in, n_out)), *biases]


def attention(b: str, s: Sizes, *, bias: bool = False, qk_norm: bool = False) -> list[Tensor]:
    q, kv = s.n_embd, s.n_embd_kv
    projections = [("attn_q", q), ("attn_k", kv), ("attn_v", kv)]
    tensors = [t for name, width in projections for t in linear(b + name, s.n_embd, width, bias)]
    norms = [*norm(b + "attn_q_norm", s.head), *norm(b + "attn_k_norm", s.head)] if qk_norm else []
    return [*tensors, *norms, *linear(b + "attn_output", s.n_embd, s.n_embd)]


def fused_attention(b: str, s: Sizes, *, bias: bool = False) -> list[Tensor]:
    width = s.n_embd + 2 * s.n_embd_kv
    return [
        *linear(b + "attn_qkv", s.n_embd, width, bias),
        *linear(b + "attn_output", s.n_embd, s.n_embd, bias),
    ]


def gated_ffn(b: str, s: Sizes) -> list[Tensor]:
    inner = [t for name in ("ffn_gate", "ffn_up") for t in linear(b + name, s.n_embd, s.n_ff)]
    return [*inner, *linear(b + "ffn_down", s.n_ff, s.n_embd)]


def plain_ffn(b: str, s: Sizes, bias: bool = True) -> list[Tensor]:
    return [*linear(b + "ffn_up", s.n_embd, s.n_ff, bias), *linear(b + "ffn_down", s.n_ff, s.n_embd, bias)]


def _llama_block(
    i: int,
    s: Sizes,
    *,
    bias: bool = False,
    qk_norm: bool = False,
    post: bool = False,
    layer_norm: bool = False,
) -> list[Tensor]:
    """Norm, attention, norm, gated feed-forward, as in llama; post: Gemma's norm after each output."""
    b = f"blk.{i}."
    norms = ["attn_norm", "ffn_norm"] + (["post_attention_norm", "post_ffw_norm"] if post else [])
    tensors = [t for name in norms for t in norm(b + name, s.n_embd, layer_norm)]
    return [*tensors, *attention(b, s, bias=bias, qk_norm=qk_norm), *gated_ffn(b, s)]


def gpt_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    norms = [*norm(b + "attn_norm", s.n_embd, True), *norm(b + "ffn_norm", s.n_embd, True)]
    return [*norms, *fused_attention(b, s, bias=True), *plain_ffn(b, s)]


def _phi3_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    ffn = [*linear(b + "ffn_up", s.n_embd, 2 * s.n_ff), *linear(b + "ffn_down", s.n_ff, s.n_embd)]
    norms = [*norm(b + "attn_norm", s.n_embd), *norm(b + "ffn_norm", s.n_embd)]
    return [*norms, *fused_attention(b, s), *ffn]


N_EXPERT, N_EXPERT_USED = 4, 2


def _moe_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    up, down = (s.n_embd, s.n_ff // 2, N_EXPERT), (s.n_ff // 2, s.n_embd, N_EXPERT)
    experts = [Tensor(f"{b}ffn_{n}_exps.weight", down if n == "down" else up) for n in ("gate", "up", "down")]
    shared = [t._replace(name=t.name.replace(".weight", "_shexp.weight")) for t in gated_ffn(b, s)]
    gates = [
        *linear(b + "ffn_gate_inp", s.n_embd, N_EXPERT),
        Tensor(b + "ffn_gate_inp_shexp.weight", (s.n_embd,)),
    ]
    norms = [*norm(b + "attn_norm", s.n_embd), *norm(b + "ffn_norm", s.n_embd)]
    return [*norms, *attention(b, s, bias=True), *gates, *experts, *shared]


def _bert_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    norms = [*norm(b + "attn_output_norm", s.n_embd, True), *norm(b + "layer_output_norm", s.n_embd, True)]
    return [*norms, *attention(b, s, bias=True), *plain_ffn(b, s)]


def _head(
    s: Sizes, *, layer_norm: bool = False, tied: bool = False, positions: bool = False, bert: bool = False
) -> list[Tensor]:
    """The tensors outside the blocks: embeddings, the final norm, the output matrix."""
    tensors = [Tensor("token_embd.weight", (s.n_embd, s.n_vocab), "embd")]
    if positions:
        tensors.append(Tensor("position_embd.weight", (s.n_embd, s.n_ctx), "embd"))
    if bert:
        return [
            *tensors,
            Tensor("token_types.weight", (s.n_embd, 2), "embd"),
            *norm("token_embd_norm", s.n_embd, True),
        ]
    tensors += norm("output_norm", s.n_embd, layer_norm)
    return tensors if tied else [*tensors, Tensor("output.weight", (s.n_embd, s.n_vocab), "output")]


def head_with(**options: bool) -> Callable[[Sizes], list[Tensor]]:
    return lambda s: _head(s, **options)


def _block_with(**options: bool) -> Callable[[int, Sizes], list[Tensor]]:
    return lambda i, s: _llama_block(i, s, **options)


def keys_with(layer_norm: bool = False, **extra: Any) -> Callable[[Sizes], dict[str, Any]]:
    eps = "layer_norm_epsilon" if layer_norm else "layer_norm_rms_epsilon"
    more = {key.replace("__", "."): value for key, value in extra.items()}
    return lambda s: {f"attention.{eps}": 1e-6, **more}


def rope_keys_with(**extra: Any) -> Callable[[Sizes], dict[str, Any]]:
    return lambda s: {"rope.dimension_count": s.head, **keys_with(**extra)(s)}


def moe_keys() -> dict[str, Any]:
    return {"expert_count": N_EXPERT, "expert_used_count": N_EXPERT_USED}


_GEMMA2: dict[str, Any] = {
    "attention__sliding_window": 64,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(_block_with(), head_with(), rope_keys_with()),
    "qwen2": Architecture(_block_with(bias=True), head_with(), keys_with()),
    "qwen3": Architecture(_block_with(qk_norm=True), head_with(), keys_with()),
    "gemma2": Architecture(
        _block_with(post=True), head_with(tied=True), keys_with(**_GEMMA2), embd_scale=0.3
    ),
    "gemma3": Architecture(
        _block_with(post=True, qk_norm=True),
        head_with(),
        keys_with(attention__sliding_window=64),
        embd_scale=0.5,
    ),
    "phi3": Architecture(_phi3_block, head_with(), rope_keys_with()),
    "stablelm": Architecture(
        _block_with(layer_norm=True), head_with(layer_norm=True), rope_keys_with(layer_norm=True)
    ),
    "gpt2": Architecture(
        gpt_block, head_with(layer_norm=True, positions=True), keys_with(layer_norm=True), gqa=False
    ),
    "gptneox": Architecture(
        gpt_block,
        head_with(layer_norm=True),
        rope_keys_with(layer_norm=True, use_parallel_residual=True),
        gqa=False,
    ),
    "qwen2moe": Architecture(
        _moe_block, head_with(), lambda s: {**keys_with()(s), **moe_keys(), **_moe_widths(s)}, kind="experts"
    ),
    "bert": Architecture(
        _bert_block,
        head_with(positions=True, bert=True),
        keys_with(layer_norm=True, attention__causal=False, pooling_type=1),
        causal=False,
        slot=False,
        kind="encoder",
        gqa=False,
    ),
}


def _moe_widths(s: Sizes) -> dict[str, Any]:
    return {"expert_feed_forward_length": s.n_ff // 2, "expert_shared_feed_forward_length": s.n_ff}
