"""docs/architectures.md is what tests/runtime/architecture_laws.py finds. Checks it; `--write` makes it so.

    every architecture of tests.tiny -> a random model -> the sentinel and the laws -> a row of the page

Decodes with llama.cpp on one thread, about half a minute. tests/runtime/test_architectures.py compares too.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from edgesteer.runtime.sentinel import spans  # noqa: E402
from tests.runtime.architecture_laws import Outcome, examine, laws_of, steerable  # noqa: E402
from tests.tiny import ARCHITECTURES  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
REAL = {"llama": "SmolLM2-135M-Instruct", "gemma3": "Gemma 3 270M"}
KINDS = {
    "decoder": "decoder",
    "experts": "mixture of experts",
    "recurrent": "recurrent",
    "hybrid": "recurrent and attention",
    "encoder": "encoder",
    "four streams": "decoder, four streams",
}
HEAD = """\
# Architectures

<!-- Generated from what the tests find. Run `python tests/checks/architectures.py --write`. -->

Each row is a random model of four blocks, built by the tests. Before the first plan a sentinel injects a
probe at every block and looks whether it arrives: *per token* are the blocks where the eval callback
reaches the residual stream, *slots* those where llama.cpp's control vector acts. Block 0 has no slot, and
bundles never steer it. The laws:

1. No plan, strength 0 and a cleared plan give the logits of `llama_cpp.Llama`, bit for bit.
2. A vector bundle with scope `all` gives the logits of llama.cpp's own control vector, bit for bit.
3. A PSR bundle gives what the format's equation gives, to float32 rounding, however the prompt is split.
4. Plans add up in any order, cancel, and the previous one returns.
5. What is kept from earlier turns gives the logits of evaluating those tokens afresh, to rounding.

*Refused* means that `steer` raises `SteeringUnavailable`, and that no plan comes into force.

"""
TAIL = """
Laws 1 to 4 are also tested on real models, where the table names one. A recurrent memory cannot drop its
end: llama.cpp evaluates a changed prompt from its start there, and the first plan empties the context
(give the prompt again, as `create_completion` and `create_chat_completion` do).

Refused are `plamo2`, whose graph names no block's output; `gemma3n`, whose blocks put out four streams at
once, so that no single h is the residual stream; `bert`, which predicts no token.
"""


def _blocks(proven: frozenset[int] | None) -> str:
    return spans(sorted(proven)) if proven else "none"


def _law(outcome: Outcome, law: str) -> str:
    if law == "5" and not ARCHITECTURES[outcome.arch].causal:
        return "no memory"
    if law not in laws_of(outcome.arch):
        return "refused" if "refused" not in outcome.failures else "**fails**"
    return "**fails**" if law in outcome.failures else "holds"


def _row(outcome: Outcome) -> str:
    arch = ARCHITECTURES[outcome.arch]
    name = f"`{arch.name or outcome.arch}`" + (f" ({outcome.arch})" if arch.name else "")
    laws = [_law(outcome, law) for law in "12345"]
    cells = [name, KINDS[arch.kind], _blocks(outcome.tap), _blocks(outcome.slots), *laws]
    return "| " + " | ".join([*cells, REAL.get(outcome.arch, "")]) + " |"


def page(outcome: Callable[[str], Outcome]) -> str:
    """The whole of docs/architectures.md; steerable architectures first."""
    names = ["architecture", "kind", "per token", "slots", *(f"law {n}" for n in "12345"), "real model"]
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    rows = [_row(outcome(arch)) for arch in sorted(ARCHITECTURES, key=lambda a: not steerable(a))]
    return HEAD + "\n".join([*head, *rows]) + "\n" + TAIL


def check(write: bool) -> int:
    with tempfile.TemporaryDirectory() as folder:
        wanted = page(lambda arch: examine(arch, Path(folder)))
    if write:
        PAGE.write_text(wanted, "utf-8")
    stale = not PAGE.exists() or PAGE.read_text("utf-8") != wanted
    print("docs/architectures.md: " + ("out of date; run it with --write" if stale else "up to date"))
    return stale


if __name__ == "__main__":
    sys.exit(check("--write" in sys.argv[1:]))
