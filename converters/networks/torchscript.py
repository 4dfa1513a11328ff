"""Opens a TorchScript file whose code is arithmetic and nothing else.

In: a path. Out: a torch.jit.ScriptModule, or BundleError before torch has seen the file.

`torch.jit.load` runs no Python, but it is no sandbox: TorchScript can read and write files (aten::save,
aten::from_file), and a class with __setstate__ runs while it is loaded. So the archive's code is parsed here first,
and refused if it names a function outside a short list. Its pickles (data.pkl, constants.pkl) are read by torch's
C++ unpickler, which knows tensors and plain values only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any
from zipfile import BadZipFile, ZipFile

from edgesteer.bundle.refusal import refusal
from edgesteer_converters.networks.export import need_torch

_NAMES = """
linear addmm addmv matmul mm mv bmm dot einsum add add_ sub sub_ rsub mul mul_ div div_ neg relu
relu_ leaky_relu leaky_relu_ sigmoid sigmoid_ tanh tanh_ gelu silu silu_ erf square pow sqrt exp sum
mean abs dropout feature_dropout select slice squeeze unsqueeze reshape view flatten transpose t
permute contiguous size dim len embedding index index_select to float detach clone __getitem__
__contains__ append unchecked_cast unchecked_unwrap_optional isinstance annotate uninitialized int
bool format gt lt ge le eq ne tensor ones_like zeros_like hardtanh clamp softplus softmax where
type_as expand expand_as forward NumToTensor RaiseException range NotImplementedError Exception
AssertionError warn getattr list
"""
ARITHMETIC = frozenset(_NAMES.split())
_ROOTS = ("torch", "ops", "prim", "aten")
_METHODS = ("__len__", "__getitem__", "__contains__", "__iter__", "__init__")
_MAX_CODE = 2**22


def load_script(path: str) -> Any:
    """The module in this file, on the CPU.

    Raises:
        BundleError: not TorchScript, code that is more than arithmetic, or torch cannot read it.
        MissingExtra: torch is not installed.
    """
    torch = need_torch(f"read {path}")
    for name in _calls(path):
        if name not in ARITHMETIC:
            raise refusal(path, f"TorchScript that calls '{name}'", "arithmetic on tensors alone",
                          "save a state dict instead")  # fmt: skip
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch raises whatever it meets
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise refusal(path, reason, "a TorchScript file", "save it again with torch.jit.save") from None


def _calls(path: str) -> list[str]:
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise refusal(path, "a member twice", "each member once", "save it again with torch.jit.save")
            sources = [name for name in names if "/code/" in f"/{name}" and name.endswith(".py")]
            if sum(archive.getinfo(name).file_size for name in sources) > _MAX_CODE:
                raise refusal(path, "megabytes of code", "a small network", "save a state dict instead")
            trees = [ast.parse(archive.read(name)) for name in sources]
    except (BadZipFile, OSError, RuntimeError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refusal(path, str(error), "a TorchScript file", "save it again with torch.jit.save") from None
    return [name for tree in trees for name in _named(tree)]


def _named(tree: ast.AST) -> Iterator[str]:
    """What may run: functions called, operators of torch in any place, methods with a meaning of their own."""
    within = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # `_0 = __torch__.f; _0(x)`: f's own code is in the archive and is looked at there.
    aliases = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("__") and node.name not in _METHODS:
                yield node.name  # __setstate__ runs at load
        elif isinstance(node, ast.Attribute) and id(node) not in within and _root(node) in _ROOTS:
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") not in aliases:
            yield getattr(node.func, "attr", getattr(node.func, "id", type(node.func).__name__))


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
