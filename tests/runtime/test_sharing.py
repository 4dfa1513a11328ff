"""Siblings: several contexts on weights that were loaded once, each with a plan of its own."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama_h
import numpy as np
import pytest

from edgesteer import ModelError, SteeredLlama, SteeringOverflow
from tests.runtime.support import OPTIONS, logits, plain, psr, steered, tokens_of, vector

Model = Callable[[str], Path]


def _rounds(llm: SteeredLlama, tokens: list[int], times: int = 4) -> list[Any]:
    out: list[Any] = []
    for _ in range(times):
        out.append(logits(llm, tokens))
        said = itertools.islice(llm.generate(tokens, temp=0), 20)
        out.append(list(said))
    return out


@pytest.mark.parametrize("arch", ["llama", "gemma3", "smollm2"])
def test_two_plans_in_two_threads_give_what_each_gives_alone(model: Model, arch: str) -> None:
    path = model(arch)
    first = steered(path, n_threads=1, n_threads_batch=1)
    both = [first, first.sibling()]
    tokens = tokens_of(first, n=8)
    for llm, bundle in zip(both, (psr(path, size=0.02), vector(path, scope="response", seed=1)), strict=True):
        llm.steer(bundle)
    alone = [_rounds(llm, tokens) for llm in both]
    together: dict[int, list[Any]] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.update({i: _rounds(both[i], tokens)})) for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (0, 1):
        assert all(np.array_equal(a, b) for a, b in zip(together[i], alone[i], strict=True))


def test_a_plan_an_error_and_a_state_stay_with_their_own(model: Model) -> None:
    path = model("llama")
    one = steered(path)
    two = one.sibling()
    tokens = tokens_of(one)
    original = logits(plain(path), tokens)
    one.steer(vector(path))
    assert not two.steering
    assert np.array_equal(logits(two, tokens), original)
    one.steer(psr(path), 1e38)
    with pytest.raises(SteeringOverflow):
        one.eval(tokens)
    assert two.n_tokens == len(tokens)
    one.clear_steering()
    one.load_state(two.save_state())
    assert one.n_tokens == len(tokens)
    assert np.array_equal(logits(one, tokens), original)


def test_a_sibling_has_context_options_of_its_own(model: Model) -> None:
    path = model("llama")
    one = SteeredLlama(str(path), **OPTIONS)
    two = one.sibling(n_ctx=512, n_threads=1, gate_engine="native")
    three = two.sibling()
    assert (two.n_ctx(), two.gate_engine) == (512, "native")
    assert (three.n_ctx(), three.gate_engine) == (512, "native")
    assert one.n_ctx() == OPTIONS["n_ctx"]
    again = pickle.loads(pickle.dumps(three))  # our own
    assert np.array_equal(logits(again, tokens_of(one)), logits(three, tokens_of(one)))


def test_what_concerns_the_model_is_refused(model: Model) -> None:
    one = steered(model("llama"))
    for option in ("n_gpu_layers", "use_mmap", "model_path", "kv_overrides"):
        with pytest.raises(TypeError, match=f"'{option}', which concerns the model"):
            one.sibling(**{option: 0})
    with pytest.raises(TypeError, match="unexpected argument 'n_contexts'"):
        one.sibling(n_contexts=2)
    assert len(logits(one, [3, 4])) == 2
    one.close()
    with pytest.raises(ModelError, match="closed"):
        one.sibling()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_weights_go_with_the_last(
    model: Model, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = steered(model("llama"))
    family = [one, one.sibling(), one.sibling()]
    freed: list[object] = []
    original = llama_h.llama_model_free
    monkeypatch.setattr(llama_h, "llama_model_free", lambda m: (freed.append(m), original(m))[1])
    for count, i in enumerate(order):
        assert not freed
        family[i].close()
        family[i].close()
        for j in order[count + 1 :]:
            assert np.isfinite(logits(family[j], [3, 4, 5])).all()
    assert len(freed) == 1


def test_a_process_ends_quietly_however_its_siblings_are_left(model: Model) -> None:
    code = """if True:
        import faulthandler, gc, sys
        faulthandler.enable()
        from edgesteer import SteeredLlama
        one = SteeredLlama(sys.argv[1], n_ctx=64, n_threads=1)
        two, three = one.sibling(), one.sibling()
        one.eval([3, 4]); two.eval([3, 4])
        del one; gc.collect()
        three.eval([5]); two.eval([6])
        two.close()
        print(three.n_tokens)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(model("llama"))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
