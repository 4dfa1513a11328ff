"""From a producer's findings to a bundle that is known to mean the same.

    Artifact --weigh on real text, normalise, quantize--> Bundle --parity with Torch--> Bundle with its table

In:  an Artifact, the model's GGUF, what a person wants. Out: a Converted: the Bundle, and the figures it was accepted
with. A constant without a wish for parity is a matter of bytes: no model is opened, no Torch imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesteer.bundle import Bundle, ModelInfo, StrengthRange, build_gate, encode_directions
from edgesteer.bundle.refusal import refusal
from edgesteer.runtime import Lanes, SteeredLlama
from edgesteer_converters.artifact import Artifact, Choice
from edgesteer_converters.model_parity import ModelParity, Reference, Text, model_parity, texts_of
from edgesteer_converters.readers import PRODUCERS, recognise

# Nobody has evaluated what was just converted; this is what people commonly try.
VECTOR_STRENGTH = StrengthRange(1.0, -2.0, 2.0)
NETWORK_STRENGTH = StrengthRange(1.0, 0.0, 2.0)

if TYPE_CHECKING:
    from edgesteer_converters.networks.quantize import Quantized
    from edgesteer_converters.parity import Parity

F32 = npt.NDArray[np.float32]
Progress = Callable[[str, float], None]
Activations = Mapping[int, F32]
"""Block -> float32 [rows, n_embd], the residual stream before the steering of that block."""

_N_CTX = 1024

# Relative; a product with the mean in float32 is not further off.
_SAME_DIRECTION = 1e-6
_ANOTHER = "give the source that the bundle was made from"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person wants. scope, strength, parity: None for what suits the artifact: its own scope, 1, and parity
    for a network alone. weights: "fp32", "fp16" or "int8". ort: gate.ort too."""

    name: str
    description: str = ""
    license: str = "unspecified"
    scope: str | None = None
    strength: float | None = None
    weights: str = "fp32"
    ort: bool = False
    parity: bool | None = None
    n_threads: int = 1


@dataclass(frozen=True, slots=True)
class Converted:
    """A bundle, and what was measured of it; None and empty where nothing was.

    coefficients: Torch against gate.onnx, per block. quantized: the loss of fewer bits. model: the steered model in
    Torch against the runtime.
    """

    bundle: Bundle
    coefficients: Sequence[Parity] = ()
    quantized: Quantized | None = None
    model: ModelParity | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json` and the manifest's `evaluation`."""
        told: dict[str, Any] = {}
        if self.coefficients:
            told["coefficients"] = _summed(self.coefficients)
        if self.quantized is not None:
            told["quantized"] = {"weights": self.quantized.kind, **_summed(self.quantized.loss)}
        if self.model is not None:
            told["model"] = self.model.to_json()
        return {"parity": told} if told else {}

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        if self.coefficients:
            told = _summed(self.coefficients)
            yield (
                f"torch against gate.onnx: coefficients differ by at most {told['max_abs']:.2g} over "
                f"{told['rows']} tokens and {len(self.coefficients)} blocks (the largest is {told['largest']:.3g})"
            )
        if self.quantized is not None:
            yield str(self.quantized)
        if self.model is not None:
            yield from self.model.lines()


def read(paths: Sequence[Path], producer: str | None, model: ModelInfo, choice: Choice) -> Artifact:
    """What the files hold, in the runtime's convention.

    producer: a name in `readers.PRODUCERS`; None: as the files say, if they do.
    Raises BundleError for files that are damaged, not the producer's, or ambiguous, and for a model that does not
    match.
    """
    name = recognise(paths) if producer is None else producer
    return PRODUCERS[name].read(paths, model, choice)


def convert(
    artifact: Artifact,
    model: Path,
    info: ModelInfo,
    settings: Settings,
    progress: Progress = lambda stage, fraction: None,
) -> Converted:
    """The bundle of `artifact` for the model in the GGUF `model`, whose facts are `info`.

    A network is run on held-out questions first: its coefficients' mean there becomes 1, Torch's are compared with
    those of gate.onnx.

    Raises:
        BundleError: the bundle would break the format, Torch and gate.onnx disagree, or the steered models do.
        MissingExtra: what the work needs is not installed.
    """
    parity = artifact.gate is not None if settings.parity is None else settings.parity
    if artifact.gate is None:
        _refuse_network_options(settings)
        if not parity:
            return Converted(_bundle(artifact, info, settings))
    progress("open", 0.0)
    n = settings.n_threads
    llm = SteeredLlama(str(model), n_ctx=_N_CTX, n_threads=n, n_threads_batch=n)
    try:
        done = _checked(llm, artifact, info, settings, progress)
        if parity:
            progress("parity", 0.4)
            done = replace(done, model=_compared(llm, artifact, model, done.bundle, n))
    finally:
        llm.close()
    told = done.to_json()
    return replace(done, bundle=done.bundle.with_metadata(evaluation=told)) if told else done


def _checked(
    llm: SteeredLlama, artifact: Artifact, info: ModelInfo, settings: Settings, progress: Progress
) -> Converted:
    if artifact.gate is None:
        return Converted(_bundle(artifact, info, settings))
    raw = _bundle(artifact, info, settings)
    texts = texts_of(llm, raw)
    progress("weigh", 0.2)
    return accepted(artifact, visited(llm, raw, texts), info, settings)


def accepted(artifact: Artifact, seen: Activations, info: ModelInfo, settings: Settings) -> Converted:
    """A network's bundle: of mean 1 over `seen`, in as many bits as asked for, compared with Torch."""
    from edgesteer_converters.networks.normalise import normalise
    from edgesteer_converters.networks.quantize import quantize, to_ort

    normal = normalise(artifact, seen)
    rows = {n: seen[n] for n in normal.directions}
    bundle = _bundle(normal, info, settings)
    found, quantized = _against_torch(artifact, bundle, rows), None
    if settings.weights != "fp32":
        quantized = quantize(_gate_bytes(normal, info), settings.weights, rows)  # type: ignore[arg-type]
        normal = replace(normal, gate=quantized.gate)
    ort = to_ort(_gate_bytes(normal, info), rows) if settings.ort else None
    if quantized is not None or ort is not None:
        bundle = _bundle(normal, info, settings, ort)
    return Converted(bundle, found, quantized)


def visited(llm: SteeredLlama, bundle: Bundle, texts: Sequence[Text]) -> dict[int, F32]:
    """Of the tokens in scope, the stream that each block's gate reads while `bundle` steers with strength 1."""
    found: dict[int, list[F32]] = {n: [] for n in bundle.layers}
    for text in texts:
        first = 0 if bundle.scope == "all" else len(text.prompt) - 1
        lanes = Lanes(llm, [text.prompt], bundle.layers, first)
        with llm.steered(bundle, 1.0), llm.record() as seen, lanes:
            lanes.run({0: [text.prompt[-1], *text.reply]})
            after = lanes.seen(0)
        for i, n in enumerate(bundle.layers):
            found[n].append(after[i] - seen.coefficients[first:, i, None] * bundle.directions[n])
    return {n: np.concatenate(parts) for n, parts in found.items()}


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
    """The range holds what was given."""
    if given is None:
        return usual
    return StrengthRange(given, min(usual.min, 2 * given), max(usual.max, 2 * given))


def _gate_bytes(artifact: Artifact, info: ModelInfo) -> bytes:
    """gate.onnx with the digest of the directions that it belongs to."""
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


# -- Torch's side --------------------------------------------------------------------------------------------


def _against_torch(artifact: Artifact, bundle: Bundle, rows: Activations) -> list[Parity]:
    """Torch's coefficients, in the bundle's scale, against those of its gate. Raises BundleError for a miss; empty
    where there is no Torch to ask."""
    from edgesteer_converters.parity import require, same_coefficients

    ask = torch_coefficients(artifact)
    if ask is None or bundle.gate is None:
        return []
    factors = scales(artifact, bundle)

    def asked(n: int) -> Callable[[F32], F32]:
        return lambda h: (ask(n, h) * np.float32(factors[n])).astype(np.float32)

    found = same_coefficients({n: asked(n) for n in rows}, bundle.gate, rows)
    require(found, "gate.onnx")
    return found


def scales(artifact: Artifact, bundle: Bundle) -> dict[int, float]:
    """Block -> f with artifact.directions = f * bundle.directions: what normalisation moved out of the gate.

    Raises BundleError for other blocks than the bundle's, or directions that are no multiples.
    """
    if missing := set(bundle.layers) - artifact.directions.keys():
        raise refusal(
            bundle.name, f"blocks {sorted(missing)}, which the source has not", "its blocks", _ANOTHER
        )
    found = {}
    for n in bundle.layers:
        theirs, mine = (d.astype(np.float64) for d in (artifact.directions[n], bundle.directions[n]))
        found[n] = float(theirs @ mine / (mine @ mine))
        if np.linalg.norm(theirs - found[n] * mine) > _SAME_DIRECTION * np.linalg.norm(theirs):
            raise refusal(bundle.name, f"another direction at block {n}", "the source's", _ANOTHER)
    if bundle.kind == "vector" and any(abs(f - 1) > _SAME_DIRECTION for f in found.values()):
        raise refusal(bundle.name, "directions of another length", "the source's", _ANOTHER)
    return found


def against(
    bundle: Bundle,
    artifact: Artifact,
    model: Path,
    n_threads: int,
    progress: Progress = lambda stage, part: None,
) -> Converted:
    """The figures of `convert` for a bundle that exists and the source that it is said to come from.

    Raises BundleError where they do not mean the same.
    """
    if bundle.kind != ("vector" if artifact.gate is None else "psr"):
        raise refusal(bundle.name, f"kind {bundle.kind}", "the source's kind", _ANOTHER)
    scales(artifact, bundle)
    progress("open", 0.0)
    llm = SteeredLlama(str(model), n_ctx=_N_CTX, n_threads=n_threads, n_threads_batch=n_threads)
    try:
        progress("weigh", 0.2)
        found = _against_torch(artifact, bundle, visited(llm, bundle, texts_of(llm, bundle)))
        progress("parity", 0.4)
        return Converted(bundle, found, None, _compared(llm, artifact, model, bundle, n_threads))
    finally:
        llm.close()


def torch_coefficients(artifact: Artifact) -> Callable[[int, F32], F32] | None:
    """The producer's network as Torch computes it: (block, h [rows, n_embd]) -> [rows]; None where there is none to
    run but the gate itself."""
    from edgesteer_converters.networks.export import torch_blocks
    from edgesteer_converters.networks.relu_chain import as_modules

    if artifact.network is None and not isinstance(artifact.gate, Mapping):
        return None
    modules = as_modules(artifact.gate) if artifact.network is None else artifact.network  # type: ignore[arg-type]
    width = len(next(iter(artifact.directions.values())))
    blocks = torch_blocks(modules, sorted(artifact.directions), width)
    return lambda n, h: blocks[n].coefficients(h)


def _reference(artifact: Artifact) -> Reference:
    """What the artifact adds, as Torch computes it."""
    import torch

    directions = {n: torch.from_numpy(np.array(v)) for n, v in artifact.directions.items()}
    if artifact.gate is None:
        return lambda n, h: directions[n].expand_as(h)
    from edgesteer_converters.networks.coefficients import asking

    ask = torch_coefficients(artifact) or asking(artifact.gate)
    return lambda n, h: torch.from_numpy(ask(n, h.numpy()))[:, None] * directions[n]


def _compared(
    llm: SteeredLlama, artifact: Artifact, model: Path, bundle: Bundle, n_threads: int
) -> ModelParity:
    """Raises BundleError where the runtime is further from Torch steered than the law of `model_parity` allows."""
    import torch

    from edgesteer_converters.torch_model import TorchModel

    torch.set_num_threads(n_threads)
    found = model_parity(TorchModel.load(model), _reference(artifact), llm, bundle, texts_of(llm, bundle))
    if not found.holds:
        seen = f"a KL of {found.kl:.3g} nats between Torch and the runtime, steered"
        raise refusal(
            bundle.name, seen, f"at most {found.allowed:.3g}", "report the network; nothing was written"
        )
    return found


def _summed(found: Sequence[Parity]) -> dict[str, Any]:
    rows = sum(p.n for p in found)
    return {
        "max_abs": float(f"{max(p.max_abs for p in found):.3g}"),
        "mean_abs": float(f"{sum(p.mean_abs * p.n for p in found) / rows:.3g}"),
        "largest": float(f"{max(p.size for p in found):.4g}"),
        "rows": rows,
    }
