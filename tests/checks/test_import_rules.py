"""The import rules find what they forbid, pass what they allow, and the tree keeps them."""

import pytest

from tests.checks import import_rules

RULES = {
    "a room that lies above": ("edgesteer.plan", "from edgesteer.runtime import SteeredLlama"),
    "also inside a function": ("edgesteer.bundle.x", "def f():\n    import edgesteer.plan"),
    "also relatively": ("edgesteer.runtime.slots", "from ..cli import main"),
    "also a name of a package": ("edgesteer.runtime.slots", "from edgesteer import cli"),
    "torch in edgesteer": ("edgesteer.learn.x", "def f():\n    import torch"),
    "the converters in edgesteer": ("edgesteer.learn.x", "def f():\n    import edgesteer_converters"),
    "onnx at module level": ("edgesteer.learn.x", "try:\n    import onnx\nexcept ImportError:\n    pass"),
    "onnxruntime in a class body": ("edgesteer.runtime.x", "class A:\n    import onnxruntime"),
    "the converters at a command's import": ("edgesteer.cli.x", "import edgesteer_converters"),
    "a room above, for types alone": (
        "edgesteer.bundle.x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import edgesteer.runtime",
    ),
    "learning in evaluation": ("edgesteer.evaluate.x", "def f():\n    from edgesteer.learn import learn"),
    "a page in a plan": ("edgesteer.plan", "from edgesteer.report import terminal"),
    "the package's own door": ("edgesteer.learn.x", "from edgesteer import SteeredLlama"),
    "a room on no floor": ("edgesteer.attic", "from edgesteer.errors import BundleError"),
    "click outside the command line": ("edgesteer.learn.x", "import click"),
    "C names": ("edgesteer.learn.x", "from llama_cpp import llama_decode"),
    "C names by attribute": ("edgesteer.evaluate.x", "import llama_cpp\nllama_cpp.llama_decode(1, 2)"),
    "the C module": ("edgesteer.cli.x", "import llama_cpp.llama_cpp as c"),
    "private modules": ("edgesteer_models.x", "from llama_cpp._internals import LlamaContext"),
    "ctypes": ("edgesteer.bundle.x", "import ctypes"),
    "more than errors in the models": ("edgesteer_models.x", "from edgesteer.bundle import load"),
    "the models below the command line": ("edgesteer.learn.x", "from edgesteer_models import get"),
}


@pytest.mark.parametrize(("module", "source"), RULES.values(), ids=RULES)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert import_rules.check_source(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgesteer.cli.x", "from edgesteer.runtime import SteeredLlama\nimport click"),
        (
            "edgesteer.runtime.x",
            "import ctypes\nimport llama_cpp.llama_cpp\ndef f():\n    import onnxruntime",
        ),
        (
            "edgesteer.learn.x",
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import onnx\n    import edgesteer.bundle",
        ),
        ("edgesteer.learn.x", "from edgesteer.evaluate import intervals"),
        ("edgesteer.report.x", "from edgesteer.learn import learn"),
        ("edgesteer", "from edgesteer.learn import learn"),
        ("edgesteer.learn.x", "from llama_cpp import Llama, llama_chat_format"),
        ("edgesteer_converters.x", "import torch\nfrom edgesteer.bundle import Bundle"),
        ("edgesteer.cli.anything", "def f():\n    import edgesteer_converters"),
    ],
)
def test_an_allowed_import_passes(module: str, source: str) -> None:
    assert import_rules.check_source(source, module) == []


def test_a_circle_of_modules_is_found() -> None:
    graph = {"a": {"b", "z"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"e2"}, "e2": {"e"}}
    assert import_rules.circles(graph) == [["a", "b", "c"], ["e", "e2"]]


def test_the_tree_keeps_the_rules() -> None:
    assert import_rules.check_tree() == []


def test_importing_edgesteer_loads_nothing_heavy() -> None:
    assert import_rules.check_loaded() == []
