"""Turn a producer's artifact into a bundle, and check that it steers the same.

    Artifact --weigh on real text, normalise, quantize--> Bundle --parity with Torch--> Bundle with its table

A constant whose parity is not measured needs no model and no Torch.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle, ModelInfo, StrengthRange, build_gate, encode_directions
from edgesteer.bundle.refusal import refusal
from edgesteer.generate.progress import Progress, no_progress
from edgesteer.runtime import SteeredLlama
from edgesteer.scope import BIT, scope_bits
from edgesteer_converters.artifact import Artifact, Choice, Converted
from edgesteer_converters.model_parity import Text, texts_of
from edgesteer_converters.readers import PRODUCERS, recognise
from edgesteer_converters.torch_parity import against_torch, check_memory, compared, free_memory, scales

# A converted bundle has not been evaluated; this is the range that people usually try.
VECTOR_STRENGTH = StrengthRange(1.0, -2.0, 2.0)
NETWORK_STRENGTH = StrengthRange(1.0, 0.0, 2.0)

F32 = npt.NDArray[np.float32]
Activations = Mapping[int, F32]
"""Block -> float32 [rows, n_embd], the residual stream before the steering of that block."""

_N_CTX = 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a conversion.

    scope, strength, parity: None for the artifact's own scope, for 1, and for parity only of a network.
    weights: "fp32", "fp16" or "int8". ort: write gate.ort too.
    """

    name: str
    description: str = ""
    license: str = "unspecified"
    scope: str | None = None
    strength: float | None = None
    weights: str = "fp32"
    ort: bool = False
    parity: bool | None = None
    n_threads: int = 1


def read(paths: Sequence[Path], producer: str | None, model: ModelInfo, choice: Choice) -> Artifact:
    """The artifact in the files, in the runtime's convention.

    producer: a name in `readers.PRODUCERS`; None to recognise it by the files.
    Raises BundleError for files that are damaged, not the producer's, or ambiguous, and for a model that does
    not match.
    """
    name = recognise(paths) if producer is None else producer
    return PRODUCERS[name].read(paths, model, choice)


def convert(
    artifact: Artifact,
    model: Path,
    info: ModelInfo,
    settings: Settings,
    progress: Progress = no_progress,
) -> Converted:
    """The bundle of `artifact` for the model in the GGUF `model`, whose facts are `info`.

    A network is first run on held-out questions: there its mean coefficient is scaled to 1, and its
    coefficients in Torch are compared with those of gate.onnx.

    Raises:
        BundleError: the bundle would break the format, or Torch disagrees with gate.onnx or the steered
            model.
        MissingExtra: a package that the conversion needs is not installed.
    """
    parity = artifact.gate is not None if settings.parity is None else settings.parity
    if parity:
        check_memory(model, free_memory())
    if artifact.gate is None:
        _refuse_network_options(settings)
        if not parity:
            return Converted(_bundle(artifact, info, settings))
    progress("open", 0.0)
    with _opened(model, settings.n_threads) as llm:
        info = llm.model_info  # of what was opened: the file may have been replaced since
        raw = _bundle(artifact, info, settings)
        texts = texts_of(llm, raw)
        progress("weigh", 0.2)
        done = (
            Converted(raw)
            if artifact.gate is None
            else accepted(artifact, visited(llm, raw, texts), info, settings)
        )
        if parity:
            progress("parity", 0.4)
            done = replace(done, model=compared(llm, artifact, model, done.bundle, texts))
    figures = done.to_json()
    return replace(done, bundle=done.bundle.with_metadata(evaluation=figures)) if figures else done


def _opened(model: Path, n_threads: int) -> AbstractContextManager[SteeredLlama]:
    return contextlib.closing(
        SteeredLlama(str(model), n_ctx=_N_CTX, n_threads=n_threads, n_threads_batch=n_threads)
    )


def accepted(artifact: Artifact, seen: Activations, info: ModelInfo, settings: Settings) -> Converted:
    """A network's bundle: with mean coefficient 1 over `seen`, in `settings.weights`, compared with Torch."""
    from edgesteer_converters.networks.normalise import normalise
    from edgesteer_converters.networks.quantize import quantize, to_ort

    normal = normalise(artifact, seen)
    rows = {n: seen[n] for n in normal.directions}
    bundle = _bundle(normal, info, settings)
    parity, quantized = against_torch(artifact, bundle, rows), None
    if settings.weights != "fp32":
        quantized = quantize(_gate_bytes(normal, info), settings.weights, rows)  # type: ignore[arg-type]
        normal = replace(normal, gate=quantized.gate)
    ort = to_ort(_gate_bytes(normal, info), rows) if settings.ort else None
    if quantized is not None or ort is not None:
        bundle = _bundle(normal, info, settings, ort)
    return Converted(bundle, parity, quantized)


def visited(llm: SteeredLlama, bundle: Bundle, texts: Sequence[Text]) -> dict[int, F32]:
    """The stream that each block's gate reads, at tokens in scope, while `bundle` steers at strength 1."""
    rows: dict[int, list[F32]] = {n: [] for n in bundle.layers}
    turns = llm.turns
    for text in texts:
        tokens = [*text.prompt, *text.reply]
        inside = (scope_bits(tokens, len(text.prompt), turns) & BIT[bundle.scope]) != 0
        with llm.steered(bundle, 1.0), llm.record() as steering_map:
            after = llm.capture(tokens, bundle.layers, prompt_len=len(text.prompt))
        for i, n in enumerate(bundle.layers):
            before = after[n] - steering_map.coefficients[:, i, None] * bundle.directions[n]
            rows[n].append(before[inside])
    return {n: np.concatenate(parts) for n, parts in rows.items()}


def against(
    bundle: Bundle,
    artifact: Artifact,
    model: Path,
    n_threads: int,
    progress: Progress = no_progress,
) -> Converted:
    """The parity of an existing bundle with the source that it should come from.

    The loss of a gate in fewer bits is judged by the rule of `model_parity`.

    Raises BundleError if they do not steer the same.
    """
    scales(artifact, bundle)
    check_memory(model, free_memory())
    progress("open", 0.0)
    with _opened(model, n_threads) as llm:
        texts = texts_of(llm, bundle)
        progress("weigh", 0.2)
        done = _weighed(llm, bundle, artifact, texts)
        progress("parity", 0.4)
        return replace(done, model=compared(llm, artifact, model, bundle, texts))


def _weighed(llm: SteeredLlama, bundle: Bundle, artifact: Artifact, texts: Sequence[Text]) -> Converted:
    if bundle.gate is None:
        return Converted(bundle)
    from edgesteer_converters.networks.quantize import Quantized, kind_of

    kind = kind_of(bundle.gate)
    rows = visited(llm, bundle, texts)
    parity = against_torch(artifact, bundle, rows, bounded=kind is None)
    if kind is None:
        return Converted(bundle, parity)
    return Converted(bundle, quantized=Quantized(bundle.gate, kind, None, len(bundle.gate), parity))


def _bundle(artifact: Artifact, info: ModelInfo, settings: Settings, ort: bytes | None = None) -> Bundle:
    gate = artifact.gate
    if isinstance(gate, bytes):
        gate = _gate_bytes(artifact, info)
    usual = VECTOR_STRENGTH if gate is None else NETWORK_STRENGTH
    return Bundle.build(
        name=settings.name,
        description=settings.description or f"Converted from {artifact.producer}.",
        license=settings.license,
        directions=artifact.directions,
        gate=gate,
        gate_ort=ort,
        model=info,
        scope=settings.scope or artifact.scope,
        strength=_strength(settings.strength, usual),
        training=artifact.facts,
    )


def _strength(given: float | None, usual: StrengthRange) -> StrengthRange:
    """The usual range, or one around the given strength."""
    if given is None:
        return usual
    return StrengthRange(given, min(usual.min, 2 * given), max(usual.max, 2 * given))


def _gate_bytes(artifact: Artifact, info: ModelInfo) -> bytes:
    """gate.onnx, with the digest of its directions."""
    from edgesteer_converters.networks.merge import stamp

    digest = hashlib.sha256(encode_directions(artifact.directions, info.architecture)).hexdigest()
    gate = artifact.gate
    assert gate is not None
    return (
        stamp(gate, sorted(artifact.directions), digest)
        if isinstance(gate, bytes)
        else build_gate(gate, digest)
    )


def _refuse_network_options(settings: Settings) -> None:
    for option, given in (("--weights", settings.weights != "fp32"), ("--ort", settings.ort)):
        if given:
            raise refusal(
                "convert", f"{option} for a constant", "a network", "leave it out: there is no gate"
            )
