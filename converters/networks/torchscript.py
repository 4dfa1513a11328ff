"""Opens a TorchScript file whose code is arithmetic and nothing else.

In: a path. Out: a torch.jit.ScriptModule, or BundleError before torch has seen the file.

`torch.jit.load` runs no Python, but it is no sandbox: TorchScript can read and write files (aten::save,
aten::from_file), and a class with __setstate__ runs while it is loaded. So the archive's code is parsed here first,
and refused if it may call a function outside a short list. Its pickles (data.pkl, constants.pkl) are read by torch's
C++ unpickler, which makes tensors, plain values, classes of the archive's own code, and C++ classes that an extension
has registered (`torch.classes`): these last are refused. What passes can still be slow, by a long range or a large
tensor; a `while`, which need not end at all, is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, ZipInfo

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
_OWN = "__torch__"  # the archive's own code
_METHODS = ("__len__", "__getitem__", "__contains__", "__iter__", "__init__")
_MAX_CODE = 2**22

# In a pickle a class is `c__torch__.torch\nclasses.a.B\n`, with a line's end wherever its writer likes.
_CPP_CLASS = re.compile(rb"[.\s]classes\b")
# What torch writes: to other characters (a lone carriage return, a form feed) its parser and Python's may differ.
_SOURCE = re.compile(rb"[\n -~]*")


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
        with open(path, "rb") as file, ZipFile(file) as archive:
            members = _members(path, archive, file)
            sources = [archive.read(info) for name, info in members.items() if name.endswith(".py")]
            pickles = [archive.read(info) for name, info in members.items() if name.endswith(".pkl")]
            if not all(_SOURCE.fullmatch(source) for source in sources):
                raise ValueError("code in other characters than torch writes")
            trees = [ast.parse(source.decode("ascii")) for source in sources]
    except (BadZipFile, OSError, RuntimeError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refusal(path, str(error), "a TorchScript file", "save it again with torch.jit.save") from None
    return [
        *("torch.classes" for pickle in pickles if _CPP_CLASS.search(pickle)),
        *(name for tree in trees for name in _named(tree)),
    ]


def _members(path: str, archive: ZipFile, file: IO[bytes]) -> dict[str, ZipInfo]:
    """Code and pickles, by the names under which torch finds them: it does not look at the case."""
    file.seek(0)
    names = [name.lower() for name in archive.namelist()]
    # Older and mobile formats keep their code elsewhere; torch tells them by these marks.
    if file.read(4) != b"PK\3\4" or any(name.endswith("/model.json") for name in names):
        raise refusal(
            path, "an older or a mobile format", "a TorchScript file", "save it again with torch.jit.save"
        )
    if len(set(names)) < len(names):
        raise refusal(path, "a member twice", "each member once", "save it again with torch.jit.save")
    code = {
        name: info
        for name, info in zip(names, archive.infolist(), strict=True)
        if name.endswith(".pkl") or ("/code/" in f"/{name}" and name.endswith(".py"))
    }
    if sum(info.file_size for info in code.values()) > _MAX_CODE:
        raise refusal(path, "megabytes of code", "a small network", "save a state dict instead")
    return code


def _named(tree: ast.AST) -> Iterator[str]:
    """What may run: functions called, operators of torch in any place, methods with a meaning of their own."""
    within = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    bound = _bound(tree)
    if _OWN in bound:
        yield _OWN  # then it is no longer the archive's own code
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("__") and node.name not in _METHODS:
                yield node.name  # __setstate__ runs at load
        elif isinstance(node, ast.While):
            yield "while"
        elif isinstance(node, ast.Attribute):
            if node.attr == "classes" and _root(node) in (_OWN, *_ROOTS):
                yield "torch.classes"
            elif id(node) not in within and _root(node) in _ROOTS:
                yield node.attr
        elif isinstance(node, ast.Call):
            yield from _called(node.func, bound)


def _called(function: ast.expr, bound: dict[str, list[ast.expr | None]]) -> Iterator[str]:
    """The operator or function behind a call: `h.relu`, `torch.relu`, `int`, or a name given to one of them."""
    if isinstance(function, ast.Attribute):
        yield function.attr
    elif not isinstance(function, ast.Name):
        yield type(function).__name__
    elif function.id not in bound:
        yield function.id
    else:
        for value in bound[function.id]:
            if not isinstance(value, ast.Attribute):
                yield f"{function.id} (a name)"
            elif _root(value) != _OWN:  # `_0 = __torch__.f; _0(x)`: f's own code is looked at where it stands
                yield value.attr


def _bound(tree: ast.AST) -> dict[str, list[ast.expr | None]]:
    """Name -> what it is assigned; None for an argument, a loop's variable, a part of a tuple."""
    bound: dict[str, list[ast.expr | None]] = {}
    plain: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            names = [target for target in node.targets if isinstance(target, ast.Name)]
            plain |= {id(name) for name in names}
            for name in names:
                bound.setdefault(name.id, []).append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            bound.setdefault(node.arg, []).append(None)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and id(node) not in plain:
            bound.setdefault(node.id, []).append(None)
    return bound


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
