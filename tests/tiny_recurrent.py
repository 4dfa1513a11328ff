"""Recurrent and hybrid tiny models: Mamba, PLaMo 2, Mamba 2, RWKV 7, Jamba, Granite 4, LFM2."""

from __future__ import annotations

from typing import Any

from tests.tiny_architectures import (
    Architecture,
    Sizes,
    Tensor,
    attention,
    fused_attention,
    gated_ffn,
    head_with,
    keys_with,
    linear,
    norm,
)

D_CONV, D_STATE = 4, 16


def mamba_mixer(b: str, s: Sizes) -> list[Tensor]:
    d_inner, dt_rank = 2 * s.n_embd, max(1, s.n_embd // 16)
    return [
        *linear(b + "ssm_in", s.n_embd, 2 * d_inner),
        Tensor(b + "ssm_conv1d.weight", (D_CONV, d_inner), "norm"),
        Tensor(b + "ssm_conv1d.bias", (d_inner,), "bias"),
        *linear(b + "ssm_x", d_inner, dt_rank + 2 * D_STATE),
        *linear(b + "ssm_dt", dt_rank, d_inner, True),
        Tensor(b + "ssm_a", (D_STATE, d_inner), "decay"),
        Tensor(b + "ssm_d", (d_inner,), "norm"),
        *linear(b + "ssm_out", d_inner, s.n_embd),
    ]


def _mamba_block(i: int, s: Sizes) -> list[Tensor]:
    return [*norm(f"blk.{i}.attn_norm", s.n_embd), *mamba_mixer(f"blk.{i}.", s)]


def _plamo2_mamba(b: str, s: Sizes) -> list[Tensor]:
    d_inner, dt = 2 * s.n_embd, max(64, s.n_embd // 16)
    return [
        *linear(b + "ssm_in", s.n_embd, 2 * d_inner),
        Tensor(b + "ssm_conv1d.weight", (D_CONV, d_inner), "norm"),
        *linear(b + "ssm_x", d_inner, dt + 2 * D_STATE),
        *linear(b + "ssm_dt", dt, s.n_head, True),
        Tensor(b + "ssm_a", (s.n_head,), "decay"),
        Tensor(b + "ssm_d", (s.n_head,), "norm"),
        *linear(b + "ssm_out", d_inner, s.n_embd),
        *(Tensor(f"{b}ssm_{n}_norm", (w,), "norm") for n, w in (("dt", dt), ("b", D_STATE), ("c", D_STATE))),
    ]


def _plamo2_attention(b: str, s: Sizes) -> list[Tensor]:
    norms = [("attn_q_norm", s.n_head), ("attn_k_norm", s.n_head_kv)]
    return [
        *fused_attention(b, s),
        *(Tensor(f"{b}{n}.weight", (s.head, heads), "norm") for n, heads in norms),
    ]


def _plamo2_block(i: int, s: Sizes) -> list[Tensor]:
    """Even blocks are recurrent, odd ones attend; two of the norms are named without `.weight`."""
    b = f"blk.{i}."
    ffn = [*linear(b + "ffn_up", s.n_embd, 2 * s.n_ff), *linear(b + "ffn_down", s.n_ff, s.n_embd)]
    names = ("attn_norm.weight", "post_attention_norm", "ffn_norm.weight", "post_ffw_norm")
    norms = [Tensor(b + name, (s.n_embd,), "norm") for name in names]
    return [*norms, *(_plamo2_attention(b, s) if i % 2 else _plamo2_mamba(b, s)), *ffn]


N_GROUP, N_SSM_HEAD = 2, 8


def _mamba2_mixer(b: str, s: Sizes) -> list[Tensor]:
    d_inner = 2 * s.n_embd
    conv = d_inner + 2 * N_GROUP * D_STATE
    return [
        *linear(b + "ssm_in", s.n_embd, d_inner + conv + N_SSM_HEAD),
        Tensor(b + "ssm_conv1d.weight", (D_CONV, conv), "norm"),
        Tensor(b + "ssm_conv1d.bias", (conv,), "bias"),
        Tensor(b + "ssm_dt.bias", (N_SSM_HEAD,), "bias"),
        Tensor(b + "ssm_a", (1, N_SSM_HEAD), "decay"),
        Tensor(b + "ssm_d", (1, N_SSM_HEAD), "norm"),
        Tensor(b + "ssm_norm.weight", (d_inner // N_GROUP, N_GROUP), "norm"),
        *linear(b + "ssm_out", d_inner, s.n_embd),
    ]


def _jamba_mixer(b: str, s: Sizes) -> list[Tensor]:
    """Mamba's, with norms for what drives the state."""
    widths = {"dt": max(1, s.n_embd // 16), "b": D_STATE, "c": D_STATE}
    return [*mamba_mixer(b, s), *(t for name, n in widths.items() for t in norm(f"{b}ssm_{name}_norm", n))]


def _short_convolution(b: str, s: Sizes) -> list[Tensor]:
    return [
        Tensor(b + "shortconv.conv.weight", (3, s.n_embd), "norm"),
        *linear(b + "shortconv.in_proj", s.n_embd, 3 * s.n_embd),
        *linear(b + "shortconv.out_proj", s.n_embd, s.n_embd),
    ]


def _mamba2_block(i: int, s: Sizes) -> list[Tensor]:
    return [*norm(f"blk.{i}.attn_norm", s.n_embd), *_mamba2_mixer(f"blk.{i}.", s)]


def _hybrid_block(mixer: Any, qk_norm: bool = False) -> Any:
    """Even blocks are recurrent, odd ones attend; each has a feed-forward of its own."""

    def block(i: int, s: Sizes) -> list[Tensor]:
        b = f"blk.{i}."
        norms = [*norm(b + "attn_norm", s.n_embd), *norm(b + "ffn_norm", s.n_embd)]
        mixed = attention(b, s, qk_norm=qk_norm) if i % 2 else mixer(b, s)
        return [*norms, *mixed, *gated_ffn(b, s)]

    return block


def _alternating(s: Sizes) -> dict[str, Any]:
    """Heads and feed-forward of a hybrid: a block without key heads is recurrent."""
    per_block = [s.n_head_kv if i % 2 else 0 for i in range(s.n_layer)]
    return {
        "attention.head_count": s.n_head,
        "attention.head_count_kv": per_block,
        "feed_forward_length": s.n_ff,
    }


def _mamba2_keys(s: Sizes) -> dict[str, Any]:
    return ssm_keys(s) | {"ssm.time_step_rank": N_SSM_HEAD, "ssm.group_count": N_GROUP}


def _lfm2_head(s: Sizes) -> list[Tensor]:
    """The final norm goes by the name of an embedding norm."""
    return [t._replace(name=t.name.replace("output_norm", "token_embd_norm")) for t in head_with()(s)]


RANK, WKV_HEAD = 8, 64  # a head below 32 makes ggml read beyond it


def _rwkv7_block(i: int, s: Sizes) -> list[Tensor]:
    b, d = f"blk.{i}.", s.n_embd
    norms = [t for name in ("attn_norm", "attn_norm_2", "time_mix_ln") for t in norm(b + name, d, True)]
    low_rank = [
        t
        for n in "wavg"
        for t in (*linear(f"{b}time_mix_{n}1", d, RANK), *linear(f"{b}time_mix_{n}2", RANK, d))
    ]
    vectors = ("w0", "a0", "v0", "k_k", "k_a", "r_k")
    square = ("key", "value", "receptance", "output")
    return [
        *norms,
        *low_rank,
        *(Tensor(f"{b}time_mix_{name}.weight", (d,), "bias") for name in vectors),
        *(t for name in square for t in linear(f"{b}time_mix_{name}", d, d)),
        Tensor(b + "time_mix_lerp_fused.weight", (d, 1, 1, 6), "bias"),
        Tensor(b + "channel_mix_lerp_k.weight", (d, 1, 1), "bias"),
        *linear(b + "channel_mix_key", d, s.n_ff),
        *linear(b + "channel_mix_value", s.n_ff, d),
    ]


def _rwkv7_keys(s: Sizes) -> dict[str, Any]:
    ranks = {f"attention.{n}_lora_rank": RANK for n in ("decay", "iclr", "value_residual_mix", "gate")}
    heads = {"attention.head_count": 0, "attention.head_count_kv": 0}
    return {
        **keys_with(layer_norm=True)(s),
        **ranks,
        **heads,
        "wkv.head_size": WKV_HEAD,
        "token_shift_count": 2,
    }


def ssm_keys(s: Sizes) -> dict[str, Any]:
    sizes = {"conv_kernel": D_CONV, "inner_size": 2 * s.n_embd, "state_size": D_STATE}
    ssm = {f"ssm.{key}": value for key, value in (sizes | {"time_step_rank": max(1, s.n_embd // 16)}).items()}
    return {
        **keys_with()(s),
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
    ssm = ssm_keys(s) | {"ssm.time_step_rank": s.n_head, "ssm.group_count": 0}
    heads = {
        "attention.head_count": s.n_head,
        "attention.head_count_kv": per_block,
        "feed_forward_length": s.n_ff,
    }
    return ssm | lengths | heads


_LAYER_NORM = {"layer_norm": True}
RECURRENT: dict[str, Architecture] = {
    "mamba": Architecture(_mamba_block, head_with(), ssm_keys, kind="recurrent"),
    "plamo2": Architecture(_plamo2_block, head_with(), _plamo2_keys, slot=False, kind="hybrid"),
    "mamba2": Architecture(_mamba2_block, head_with(), _mamba2_keys, kind="recurrent"),
    "rwkv7": Architecture(
        _rwkv7_block,
        lambda s: [*head_with(**_LAYER_NORM)(s), *norm("token_embd_norm", s.n_embd, True)],
        _rwkv7_keys,
        kind="recurrent",
    ),
    "jamba": Architecture(
        _hybrid_block(_jamba_mixer), head_with(), lambda s: {**ssm_keys(s), **_alternating(s)}, kind="hybrid"
    ),
    "granitehybrid": Architecture(
        _hybrid_block(_mamba2_mixer),
        head_with(),
        lambda s: {**_mamba2_keys(s), **_alternating(s), "rope.dimension_count": s.head},
        kind="hybrid",
    ),
    "lfm2": Architecture(
        _hybrid_block(_short_convolution, qk_norm=True),
        _lfm2_head,
        lambda s: {**keys_with()(s), **_alternating(s), "shortconv.l_cache": 3},
        kind="hybrid",
    ),
}
