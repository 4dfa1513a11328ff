"""The arrays and strings of a Torch file, under dotted names.

Only Torch's restricted reader (`weights_only=True`) is used, with no additions to what it allows. NumPy
arrays in a pickle are refused too: NumPy rebuilds them from a dtype that the file describes, and a forged one
turns numbers into pointers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from edgesteer.bundle.refusal import refusal
from edgesteer.errors import BundleError
from edgesteer_converters.extras import need_torch
from edgesteer_converters.raw_arrays import Contents, Raw, torchscript

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_MAX_DEPTH, _MAX_ENTRIES = 8, 65_536
_NUMPY = "save tensors instead: torch.from_numpy(array), or write .npz or .safetensors"
_REMEDIES = {
    "repeng.extract.ControlVector": "write it with vector.export_gguf(path) and convert that",
    "steering_vectors.steering_vector.SteeringVector": (
        "save {'layer_activations': sv.layer_activations, 'layer_type': sv.layer_type} instead"
    ),
}


def contents(data: bytes, where: str) -> Contents:
    """The arrays of a Torch file, and the strings among them.

    Raises:
        BundleError: damaged, a pickle that wants a class or a function, or nested beyond reason.
        MissingExtra: torch is not installed.
    """
    torch = need_torch(f"read {where}")
    try:
        loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # unpickling arbitrary bytes can raise anything
        raise _unreadable(error, where) from None
    raws: list[Raw] = []
    texts: dict[str, str] = {}
    for name, leaf in _leaves(loaded, where):
        if isinstance(leaf, torch.Tensor):
            raws.append(_raw(name, leaf, where))
        elif isinstance(leaf, str):
            texts[name] = leaf
    return raws, texts


def _unreadable(error: Exception, where: str) -> BundleError:
    wanted = _GLOBAL.search(str(error))
    if "TorchScript" in str(error):
        return torchscript(where)
    if wanted is None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return refusal(where, f"no Torch file of plain tensors ({reason})", "one", "save the file again")
    name = wanted[1].rstrip(".")
    remedy = _NUMPY if name.startswith("numpy.") else "save a dict of tensors instead"
    found = f"a pickle that wants {name} (refused: loading it would run code)"
    return refusal(where, found, "tensors, dicts, lists and strings", _REMEDIES.get(name, remedy))


def _leaves(loaded: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted name; limited in depth and number, because a pickle can contain itself."""
    stack: list[tuple[str, Any, int]] = [("", loaded, 0)]
    seen = 0
    while stack:
        name, value, depth = stack.pop()
        seen += 1
        if depth > _MAX_DEPTH or seen > _MAX_ENTRIES:
            limits = f"at most {_MAX_DEPTH} levels and {_MAX_ENTRIES} entries"
            raise refusal(where, "dicts within dicts without end", limits, "save a flat dict of tensors")
        if not isinstance(value, dict | list | tuple):
            yield name, value
            continue
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        if len(items) + seen > _MAX_ENTRIES:
            raise refusal(where, f"{len(items)} entries", f"at most {_MAX_ENTRIES}", "save fewer")
        stack += [(_join(name, key, where), entry, depth + 1) for key, entry in reversed(items)]


def _join(name: str, key: Any, where: str) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise refusal(where, f"a key {key!r}", "names and numbers as keys", "save a dict of names")
    return f"{name}.{key}" if name else str(key)


def _raw(name: str, tensor: Any, where: str) -> Raw:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu" or tensor.is_quantized:
        found = f"'{name}' that is sparse, quantized or without data"
        raise refusal(where, found, "a plain tensor", "save tensor.to_dense()")
    plain = tensor.detach()

    def values() -> Any:
        return (plain.float() if dtype == "bfloat16" else plain).resolve_neg().numpy()

    return Raw(name, dtype, plain.numel(), values)
