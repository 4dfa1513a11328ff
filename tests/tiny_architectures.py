"""The architectures of the tiny models: keys and tensors, as llama.cpp's loader asks for them.

Knows each architecture's hyperparameters, tensor names and shapes, read in llama.cpp's src/models. Data flow:
sizes -> a list of tensors without values. `tests.tiny` fills and writes them.
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
    """What sets an architecture apart: its tensors, its keys, and what llama.cpp's graph offers."""

    block: Callable[[int, Sizes], list[Tensor]]
    head: Callable[[Sizes], list[Tensor]]
    keys: Callable[[Sizes], dict[str, Any]]
    causal: bool = True
    """Whether it predicts a next token; else it only embeds."""
    slot: bool = True
    """Whether its graph adds a control vector and names its blocks' outputs `l_out-N`; the others do neither."""
    embd_scale: float = 2.0
    """RMS of the token embeddings times sqrt(n_embd)."""


def _norm(name: str, width: int, bias: bool = False) -> list[Tensor]:
    biases = [Tensor(f"{name}.bias", (width,), "bias")] if bias else []
    return [Tensor(f"{name}.weight", (width,), "norm"), *biases]


def _linear(name: str, n_in: int, n_out: int, bias: bool = False) -> list[Tensor]:
    biases = [Tensor(f"{name}.bias", (n_out,), "bias")] if bias else []
    return [Tensor(f"{name}.weight", (n_in, n_out)), *biases]


def _attention(b: str, s: Sizes, *, bias: bool = False, qk_norm: bool = False) -> list[Tensor]:
    q, kv = s.n_embd, s.n_embd_kv
    projections = [("attn_q", q), ("attn_k", kv), ("attn_v", kv)]
    tensors = [t for name, width in projections for t in _linear(b + name, s.n_embd, width, bias)]
    norms = [*_norm(b + "attn_q_norm", s.head), *_norm(b + "attn_k_norm", s.head)] if qk_norm else []
    return [*tensors, *norms, *_linear(b + "attn_output", s.n_embd, s.n_embd)]


def _fused_attention(b: str, s: Sizes, *, bias: bool = False) -> list[Tensor]:
    width = s.n_embd + 2 * s.n_embd_kv
    return [
        *_linear(b + "attn_qkv", s.n_embd, width, bias),
        *_linear(b + "attn_output", s.n_embd, s.n_embd, bias),
    ]


def _gated_ffn(b: str, s: Sizes) -> list[Tensor]:
    inner = [t for name in ("ffn_gate", "ffn_up") for t in _linear(b + name, s.n_embd, s.n_ff)]
    return [*inner, *_linear(b + "ffn_down", s.n_ff, s.n_embd)]


def _plain_ffn(b: str, s: Sizes) -> list[Tensor]:
    return [*_linear(b + "ffn_up", s.n_embd, s.n_ff, True), *_linear(b + "ffn_down", s.n_ff, s.n_embd, True)]


def _llama_block(
    i: int,
    s: Sizes,
    *,
    bias: bool = False,
    qk_norm: bool = False,
    post: bool = False,
    layer_norm: bool = False,
) -> list[Tensor]:
    """The block of llama and its kin: norm, attention, norm, gated feed-forward; Gemma norms each output too."""
    b = f"blk.{i}."
    norms = ["attn_norm", "ffn_norm"] + (["post_attention_norm", "post_ffw_norm"] if post else [])
    tensors = [t for name in norms for t in _norm(b + name, s.n_embd, layer_norm)]
    return [*tensors, *_attention(b, s, bias=bias, qk_norm=qk_norm), *_gated_ffn(b, s)]


def _gpt_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    norms = [*_norm(b + "attn_norm", s.n_embd, True), *_norm(b + "ffn_norm", s.n_embd, True)]
    return [*norms, *_fused_attention(b, s, bias=True), *_plain_ffn(b, s)]


def _phi3_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    ffn = [*_linear(b + "ffn_up", s.n_embd, 2 * s.n_ff), *_linear(b + "ffn_down", s.n_ff, s.n_embd)]
    norms = [*_norm(b + "attn_norm", s.n_embd), *_norm(b + "ffn_norm", s.n_embd)]
    return [*norms, *_fused_attention(b, s), *ffn]


N_EXPERT, N_EXPERT_USED = 4, 2


def _moe_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    up, down = (s.n_embd, s.n_ff // 2, N_EXPERT), (s.n_ff // 2, s.n_embd, N_EXPERT)
    experts = [Tensor(f"{b}ffn_{n}_exps.weight", down if n == "down" else up) for n in ("gate", "up", "down")]
    shared = [t._replace(name=t.name.replace(".weight", "_shexp.weight")) for t in _gated_ffn(b, s)]
    gates = [
        *_linear(b + "ffn_gate_inp", s.n_embd, N_EXPERT),
        Tensor(b + "ffn_gate_inp_shexp.weight", (s.n_embd,)),
    ]
    norms = [*_norm(b + "attn_norm", s.n_embd), *_norm(b + "ffn_norm", s.n_embd)]
    return [*norms, *_attention(b, s, bias=True), *gates, *experts, *shared]


D_CONV, D_STATE = 4, 16


def _mamba_block(i: int, s: Sizes) -> list[Tensor]:
    b, d_inner, dt_rank = f"blk.{i}.", 2 * s.n_embd, max(1, s.n_embd // 16)
    return [
        *_norm(b + "attn_norm", s.n_embd),
        *_linear(b + "ssm_in", s.n_embd, 2 * d_inner),
        Tensor(b + "ssm_conv1d.weight", (D_CONV, d_inner), "norm"),
        Tensor(b + "ssm_conv1d.bias", (d_inner,), "bias"),
        *_linear(b + "ssm_x", d_inner, dt_rank + 2 * D_STATE),
        *_linear(b + "ssm_dt", dt_rank, d_inner, True),
        Tensor(b + "ssm_a", (D_STATE, d_inner), "decay"),
        Tensor(b + "ssm_d", (d_inner,), "norm"),
        *_linear(b + "ssm_out", d_inner, s.n_embd),
    ]


def _plamo2_mamba(b: str, s: Sizes) -> list[Tensor]:
    d_inner, dt = 2 * s.n_embd, max(64, s.n_embd // 16)
    return [
        *_linear(b + "ssm_in", s.n_embd, 2 * d_inner),
        Tensor(b + "ssm_conv1d.weight", (D_CONV, d_inner), "norm"),
        *_linear(b + "ssm_x", d_inner, dt + 2 * D_STATE),
        *_linear(b + "ssm_dt", dt, s.n_head, True),
        Tensor(b + "ssm_a", (s.n_head,), "decay"),
        Tensor(b + "ssm_d", (s.n_head,), "norm"),
        *_linear(b + "ssm_out", d_inner, s.n_embd),
        *(Tensor(f"{b}ssm_{n}_norm", (w,), "norm") for n, w in (("dt", dt), ("b", D_STATE), ("c", D_STATE))),
    ]


def _plamo2_attention(b: str, s: Sizes) -> list[Tensor]:
    norms = [("attn_q_norm", s.n_head), ("attn_k_norm", s.n_head_kv)]
    return [
        *_fused_attention(b, s),
        *(Tensor(f"{b}{n}.weight", (s.head, heads), "norm") for n, heads in norms),
    ]


def _plamo2_block(i: int, s: Sizes) -> list[Tensor]:
    """Even blocks are recurrent, odd ones attend; two of the norms are named without `.weight`."""
    b = f"blk.{i}."
    ffn = [*_linear(b + "ffn_up", s.n_embd, 2 * s.n_ff), *_linear(b + "ffn_down", s.n_ff, s.n_embd)]
    names = ("attn_norm.weight", "post_attention_norm", "ffn_norm.weight", "post_ffw_norm")
    norms = [Tensor(b + name, (s.n_embd,), "norm") for name in names]
    return [*norms, *(_plamo2_attention(b, s) if i % 2 else _plamo2_mamba(b, s)), *ffn]


def _bert_block(i: int, s: Sizes) -> list[Tensor]:
    b = f"blk.{i}."
    norms = [*_norm(b + "attn_output_norm", s.n_embd, True), *_norm(b + "layer_output_norm", s.n_embd, True)]
    return [*norms, *_attention(b, s, bias=True), *_plain_ffn(b, s)]


def _head(
    s: Sizes, *, layer_norm: bool = False, tied: bool = False, positions: bool = False, bert: bool = False
) -> list[Tensor]:
    """What stands around the blocks: embeddings, the final norm, the output matrix."""
    tensors = [Tensor("token_embd.weight", (s.n_embd, s.n_vocab), "embd")]
    if positions:
        tensors.append(Tensor("position_embd.weight", (s.n_embd, s.n_ctx), "embd"))
    if bert:
        return [
            *tensors,
            Tensor("token_types.weight", (s.n_embd, 2), "embd"),
            *_norm("token_embd_norm", s.n_embd, True),
        ]
    tensors += _norm("output_norm", s.n_embd, layer_norm)
    return tensors if tied else [*tensors, Tensor("output.weight", (s.n_embd, s.n_vocab), "output")]


def _head_with(**options: bool) -> Callable[[Sizes], list[Tensor]]:
    return lambda s: _head(s, **options)


def _block_with(**options: bool) -> Callable[[int, Sizes], list[Tensor]]:
    return lambda i, s: _llama_block(i, s, **options)


def _keys(layer_norm: bool = False, **extra: Any) -> Callable[[Sizes], dict[str, Any]]:
    eps = "layer_norm_epsilon" if layer_norm else "layer_norm_rms_epsilon"
    more = {key.replace("__", "."): value for key, value in extra.items()}
    return lambda s: {f"attention.{eps}": 1e-6, **more}


def _rope_keys(**extra: Any) -> Callable[[Sizes], dict[str, Any]]:
    return lambda s: {"rope.dimension_count": s.head, **_keys(**extra)(s)}


def _ssm_keys(s: Sizes) -> dict[str, Any]:
    sizes = {"conv_kernel": D_CONV, "inner_size": 2 * s.n_embd, "state_size": D_STATE}
    ssm = {f"ssm.{key}": value for key, value in (sizes | {"time_step_rank": max(1, s.n_embd // 16)}).items()}
    return {
        **_keys()(s),
        **ssm,
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "feed_forward_length": 0,
    }


def _plamo2_keys(s: Sizes) -> dict[str, Any]:
    per_block = [s.n_head_kv if i % 2 else 0 for i in range(s.n_layer)]
    lengths = {
        "attention.key_length": s.head,
        "attention.value_length": s.head,
        "rope.dimension_count": s.head,
    }
    ssm = _ssm_keys(s) | {"ssm.time_step_rank": s.n_head, "ssm.group_count": 0}
    heads = {
        "attention.head_count": s.n_head,
        "attention.head_count_kv": per_block,
        "feed_forward_length": s.n_ff,
    }
    return ssm | lengths | heads


_MOE: dict[str, Any] = {"expert_count": N_EXPERT, "expert_used_count": N_EXPERT_USED}
_GEMMA2: dict[str, Any] = {
    "attention__sliding_window": 64,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(_block_with(), _head_with(), _rope_keys()),
    "qwen2": Architecture(_block_with(bias=True), _head_with(), _keys()),
    "qwen3": Architecture(_block_with(qk_norm=True), _head_with(), _keys()),
    "gemma2": Architecture(_block_with(post=True), _head_with(tied=True), _keys(**_GEMMA2), embd_scale=0.3),
    "gemma3": Architecture(
        _block_with(post=True, qk_norm=True),
        _head_with(),
        _keys(attention__sliding_window=64),
        embd_scale=0.5,
    ),
    "phi3": Architecture(_phi3_block, _head_with(), _rope_keys()),
    "stablelm": Architecture(
        _block_with(layer_norm=True), _head_with(layer_norm=True), _rope_keys(layer_norm=True)
    ),
    "gpt2": Architecture(_gpt_block, _head_with(layer_norm=True, positions=True), _keys(layer_norm=True)),
    "gptneox": Architecture(
        _gpt_block, _head_with(layer_norm=True), _rope_keys(layer_norm=True, use_parallel_residual=True)
    ),
    "qwen2moe": Architecture(_moe_block, _head_with(), lambda s: {**_keys(**_MOE)(s), **_moe_widths(s)}),
    "mamba": Architecture(_mamba_block, _head_with(), _ssm_keys),
    "plamo2": Architecture(_plamo2_block, _head_with(), _plamo2_keys, slot=False),
    "bert": Architecture(
        _bert_block,
        _head_with(positions=True, bert=True),
        _keys(layer_norm=True, attention__causal=False, pooling_type=1),
        causal=False,
        slot=False,
    ),
}
CAUSAL = tuple(name for name, arch in ARCHITECTURES.items() if arch.causal)


def _moe_widths(s: Sizes) -> dict[str, Any]:
    return {"expert_feed_forward_length": s.n_ff // 2, "expert_shared_feed_forward_length": s.n_ff}
