"""Who may import what, read from the source with `ast`. `make check` runs it; each violation is a line.

The rooms stand on FLOORS. A room imports from its own floor and from those below it: at module level, inside
a function and for type checking alike, without exceptions. No modules import each other in a circle. Besides:
torch stays in the converters; heavy packages are imported where they are used; llama.cpp's private and C
names stay in the runtime; click, the converters and the models are the command line's.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"edgesteer": "edgesteer", "edgesteer_converters": "converters", "edgesteer_models": "models"}

# From the ground up; DESIGN.md's house. `edgesteer/__init__.py` is the door: it may import any room.
FLOORS = (
    ("errors", "file_kinds", "file_lock", "process", "scope", "steering_map", "text"),
    ("bundle",),
    ("plan", "interference", "norms"),
    ("runtime",),
    ("generate",),
    ("evaluate",),
    ("learn",),
    ("report",),
    ("cli", "server", "__main__"),
)
FLOOR = {f"edgesteer.{room}": floor for floor, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {"torch", "transformers", "safetensors", "onnx", "onnxruntime", "fastapi", "starlette", "uvicorn"}
NOT_AT_IMPORT = sorted(
    HEAVY | {"click", "edgesteer_converters", "edgesteer_models", "edgesteer.cli", "edgesteer.server"}
)
C_PREFIXES = ("llama_", "ggml_", "LLAMA_", "GGML_")
PUBLIC_LLAMA_MODULES = ("llama_cpp.llama_chat_format", "llama_cpp.llama_grammar", "llama_cpp.llama_types")


class Import(NamedTuple):
    """One imported thing: the module, the name taken from it ('' for the module itself), and where."""

    module: str
    name: str
    line: int
    at_import: bool  # runs when the importing module is imported

    @property
    def target(self) -> str:
        """The full dotted name of what is imported."""
        return f"{self.module}.{self.name}" if self.name else self.module


def imports_of(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    """Every import in a module, relative ones made absolute."""
    yield from _walk(tree.body, module if is_package else module.rpartition(".")[0], True)


def _walk(body: list[ast.stmt], package: str, at_import: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            yield from (Import(module, alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _walk(node.body, package, False)
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


def room_of(name: str) -> str:
    """The room that a module or a name of edgesteer lives in: 'edgesteer.learn' for 'edgesteer.learn.x.Y'."""
    return ".".join(name.split(".")[:2])


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def complaints(module: str, item: Import) -> Iterator[str]:
    """What is wrong with this import in `module`."""
    target = item.target
    top = item.module.split(".")[0]
    in_edgesteer = _within(module, "edgesteer")
    in_cli = _within(module, "edgesteer.cli")
    if in_edgesteer and top == "edgesteer" and module != "edgesteer":
        mine, theirs = FLOOR.get(room_of(module)), FLOOR.get(room_of(target))
        if mine is None:
            yield f"{room_of(module)} stands on no floor: add it to FLOORS"
        elif theirs is None:
            yield f"imports {target} through edgesteer/__init__.py: import it from the room that defines it"
        elif theirs > mine:
            yield f"imports {target}, which stands above {room_of(module)}"
    if in_edgesteer:
        if top == "torch":
            yield f"imports {target}: torch stays in the converters"
        if top == "edgesteer_converters" and not (in_cli and not item.at_import):
            yield f"imports {target}: only commands import the converters, inside a function"
        if top in HEAVY and item.at_import and not _within(module, "edgesteer.server"):
            yield f"imports {target} at module level: import it where it is used"
    if top == "click" and not in_cli:
        yield "imports click: only the command line does"
    if _is_private_llama(item) and not _within(module, "edgesteer.runtime"):
        yield f"imports {target}: llama.cpp's private and C names stay in edgesteer.runtime"
    known = ("edgesteer.errors", "edgesteer.file_kinds")
    if _within(module, "edgesteer_models") and top == "edgesteer" and item.module not in known:
        yield f"imports {target}: the models know edgesteer's errors and kinds of files alone"
    if top == "edgesteer_models" and in_edgesteer and not in_cli:
        yield f"imports {target}: names are resolved in the command line"


def _is_private_llama(item: Import) -> bool:
    if item.module in ("ctypes", "_ctypes") or item.module.startswith("ctypes."):
        return True
    if item.module == "llama_cpp":
        dotted = f"llama_cpp.{item.name}"
        return item.name.startswith((*C_PREFIXES, "_")) and dotted not in PUBLIC_LLAMA_MODULES
    return item.module.startswith("llama_cpp.") and item.module not in (
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
    by_import = [
        (item.line, text)
        for item in imports_of(tree, module, is_package)
        for text in complaints(module, item)
    ]
    return sorted(set(by_import) | set(attribute_complaints(tree, module)))


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of every room by its import name; a package by the name of its folder."""
    paths = {}
    for package, folder in ROOMS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            paths[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return paths


def check_tree(root: Path = ROOT) -> list[str]:
    """`path:line: complaint` for every module of every room, and a line for each circle of modules."""
    lines, graph = [], {}
    known = modules(root)
    for module, path in known.items():
        source, is_package = path.read_text("utf-8"), path.name == "__init__.py"
        lines += [
            f"{path.relative_to(root)}:{line}: {text}"
            for line, text in check_source(source, module, is_package)
        ]
        imports = imports_of(ast.parse(source), module, is_package)
        graph[module] = {item.target if item.target in known else item.module for item in imports} - {module}
    return lines + [f"these modules import each other: {', '.join(circle)}" for circle in circles(graph)]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other in a circle. imports: module -> modules."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = (graph.get(waiting.pop(), set()) & graph.keys()) - seen
            seen |= new
            waiting += new
        reached[start] = seen
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def check_loaded() -> list[str]:
    """What a fresh interpreter has loaded after `import edgesteer` although it must not."""
    code = f"import sys, edgesteer; print(*[name for name in {NOT_AT_IMPORT!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    if result.returncode:
        return [f"import edgesteer fails: {result.stderr.strip().splitlines()[-1]}"]
    return [f"import edgesteer loads {name}" for name in result.stdout.split()]


def main() -> int:
    violations = check_tree() + check_loaded()
    for line in violations:
        print(line, file=sys.stderr)
    count = f"{len(violations)} violation" + ("" if len(violations) == 1 else "s")
    print(f"import rules: {count}" if violations else "import rules: kept")
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main())
