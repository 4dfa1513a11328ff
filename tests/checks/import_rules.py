"""Who may import what. Reads the source with `ast`; run by `make check`: prints each violation, exits 1.

    errors < bundle < plan < runtime < generate < evaluate < learn < report < cli, server

A room imports from its own level and from those before it. On top of that: torch stays in converters;
what is heavy is imported where it is used, not when edgesteer is; llama.cpp's private and C names stay in
the runtime; click stays in the command line.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"edgesteer": "edgesteer", "edgesteer_converters": "converters", "edgesteer_models": "models"}

LEVELS = {
    "edgesteer.errors": 0,
    "edgesteer.text": 0,
    "edgesteer.bundle": 1,
    "edgesteer.scope": 2,
    "edgesteer.plan": 2,
    "edgesteer.interference": 2,
    "edgesteer.norms": 2,
    "edgesteer.steering_map": 2,  # a value that the runtime fills in, like the plan that it reads
    "edgesteer.runtime": 3,
    "edgesteer.generate": 4,
    "edgesteer.evaluate": 5,
    "edgesteer.learn": 6,
    "edgesteer.report": 7,
    "edgesteer.cli": 8,
    "edgesteer.server": 8,
}
HEAVY = {"torch", "transformers", "safetensors", "onnx", "onnxruntime", "fastapi", "starlette", "uvicorn"}
NOT_AT_IMPORT = sorted(
    HEAVY | {"click", "edgesteer_converters", "edgesteer_models", "edgesteer.cli", "edgesteer.server"}
)
DOORS = {
    "edgesteer.cli.bench",
    "edgesteer.cli.convert",
    "edgesteer.cli.learn",
    "edgesteer.cli.verify",
}
C_PREFIXES = ("llama_", "ggml_", "LLAMA_", "GGML_")
PUBLIC_LLAMA_MODULES = ("llama_cpp.llama_chat_format", "llama_cpp.llama_grammar", "llama_cpp.llama_types")


class Import(NamedTuple):
    """One imported thing: the module, the name taken from it ('' for the module itself), and where."""

    module: str
    name: str
    line: int
    at_import: bool  # runs when the importing module is imported


def imports_of(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    """Every import in a module but those under `if TYPE_CHECKING`, relative ones made absolute."""
    yield from _walk(tree.body, module if is_package else module.rpartition(".")[0], True)


def _walk(body: list[ast.stmt], package: str, at_import: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            yield from (Import(module, alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _walk(node.orelse, package, at_import)
        else:
            inside = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for field in ("body", "orelse", "finalbody"):
                yield from _walk(getattr(node, field, []), package, inside)
            for handler in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
                yield from _walk(handler.body, package, inside)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def level(module: str) -> int | None:
    """The level of the room that `module` lives in; the longest name that matches decides."""
    matches = [room for room in LEVELS if _within(module, room)]
    return LEVELS[max(matches, key=len)] if matches else None


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def complaints(module: str, found: Import) -> Iterator[str]:
    """What is wrong with `module` importing `found`."""
    target = f"{found.module}.{found.name}" if found.name else found.module
    top = found.module.split(".")[0]
    in_edgesteer = _within(module, "edgesteer")
    if in_edgesteer:
        mine, theirs = level(module), level(target)
        if mine is not None and theirs is not None and theirs > mine:
            yield f"imports {target}, which lies above it"
        if top == "torch" or (top == "edgesteer_converters" and module not in DOORS):
            yield f"imports {target}: Torch and the converters stay out of edgesteer"
        if top in HEAVY and found.at_import and not _within(module, "edgesteer.server"):
            yield f"imports {target} at module level: import it where it is used"
    if top == "click" and not _within(module, "edgesteer.cli"):
        yield "imports click: only the command line does"
    if _is_private_llama(found) and not _within(module, "edgesteer.runtime"):
        yield f"imports {target}: llama.cpp's private and C names stay in edgesteer.runtime"
    if _within(module, "edgesteer_models") and top == "edgesteer" and found.module != "edgesteer.errors":
        yield f"imports {target}: the models know edgesteer's errors alone"
    if top == "edgesteer_models" and in_edgesteer and not _within(module, "edgesteer.cli"):
        yield f"imports {target}: names are resolved in the command line"


def _is_private_llama(found: Import) -> bool:
    if found.module in ("ctypes", "_ctypes") or found.module.startswith("ctypes."):
        return True
    if found.module == "llama_cpp":
        dotted = f"llama_cpp.{found.name}"
        return found.name.startswith((*C_PREFIXES, "_")) and dotted not in PUBLIC_LLAMA_MODULES
    return found.module.startswith("llama_cpp.") and found.module not in (
        *PUBLIC_LLAMA_MODULES,
        "llama_cpp.llama",
    )


def attribute_complaints(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    """`llama_cpp.llama_decode` and the like, written as attributes outside the runtime."""
    if _within(module, "edgesteer.runtime"):
        return
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "llama_cpp"
        ):
            dotted = f"llama_cpp.{node.attr}"
            if node.attr.startswith((*C_PREFIXES, "_")) and dotted not in PUBLIC_LLAMA_MODULES:
                yield node.lineno, f"uses {dotted}: llama.cpp's private and C names stay in edgesteer.runtime"


def check_source(source: str, module: str, is_package: bool = False) -> list[tuple[int, str]]:
    """(line, complaint) for one module's source."""
    tree = ast.parse(source)
    found = [
        (item.line, text)
        for item in imports_of(tree, module, is_package)
        for text in complaints(module, item)
    ]
    return sorted(set(found) | set(attribute_complaints(tree, module)))


def check_tree(root: Path = ROOT) -> list[str]:
    """`path:line: complaint` for every module of every room."""
    lines = []
    for package, folder in ROOMS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join((package, *(parts[:-1] if is_package else parts)))
            for line, text in check_source(path.read_text("utf-8"), module, is_package):
                lines.append(f"{path.relative_to(root)}:{line}: {text}")
    return lines


def check_loaded() -> list[str]:
    """What a fresh interpreter has loaded after `import edgesteer` although it must not."""
    code = f"import sys, edgesteer; print(*[name for name in {NOT_AT_IMPORT!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        return [f"import edgesteer fails: {done.stderr.strip().splitlines()[-1]}"]
    return [f"import edgesteer loads {name}" for name in done.stdout.split()]


def main() -> int:
    found = check_tree() + check_loaded()
    for line in found:
        print(line, file=sys.stderr)
    print(f"import rules: {len(found)} violation(s)" if found else "import rules: kept")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
