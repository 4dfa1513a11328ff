"""llama_cpp's prompt caches, keyed by what was computed: the tokens and the intervention at each.

In:  any BaseLlamaCache, in memory or on disk.
Out: the same cache, in which a state made under one plan is found by that plan's prompts alone. Unsteered
     positions keep their token ids as keys, so a plain Llama's cache serves the unsteered model.

A state that cannot be used - damaged, of another model or version - is a miss, with a warning.
"""

from __future__ import annotations

import hashlib
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from llama_cpp import Llama
from llama_cpp.llama_cache import BaseLlamaCache

from edgesteer.errors import EdgesteerWarning, StateError
from edgesteer.runtime.kv import Hashes
from edgesteer.runtime.session import Session
from edgesteer.runtime.state import Stamp
from edgesteer.text import one_line


class Reusing(Protocol):
    """The part of a SteeredLlama that a cache asks."""

    n_tokens: int
    _session: Session

    def _drop_other_kv(self, tokens: Sequence[int]) -> None: ...

    def _check_state(self, held: Any) -> Stamp | None: ...


def steered_keys(tokens: Sequence[int], applied: Hashes) -> tuple[int, ...]:
    """One integer a position: the token id where nothing was applied, else a hash of both, below 0."""
    return tuple(
        int(token) if mark == 0 else _key(int(token), int(mark))
        for token, mark in zip(tokens, applied.tolist(), strict=True)
    )


def _key(token: int, mark: int) -> int:
    digest = hashlib.blake2b(f"{token} {mark}".encode(), digest_size=7).digest()
    return -1 - int.from_bytes(digest, "little")


class SteeredCache(BaseLlamaCache):
    """`inner`, seen by one SteeredLlama."""

    def __init__(self, inner: BaseLlamaCache, llama: Reusing) -> None:
        super().__init__(inner.capacity_bytes)
        self.inner = inner
        self._llama = weakref.ref(llama)

    @property
    def cache_size(self) -> int:
        size: int = self.inner.cache_size
        return size

    def __contains__(self, key: Sequence[int]) -> bool:
        return self._wanted(key) in self.inner

    def __getitem__(self, key: Sequence[int]) -> Any:
        """The state with the longest prefix that this plan can reuse. KeyError where there is none."""
        llama, wanted = self._open(), self._wanted(key)
        llama._drop_other_kv(list(key))  # llama_cpp compares token ids alone with what the context holds
        try:
            state = self.inner[wanted]
            usable = Llama.longest_token_prefix(self._keys(state, llama._check_state(state)), wanted)
        except KeyError:
            raise
        except StateError as error:
            raise self._miss(str(error)) from None
        except Exception as error:  # whatever unpickling a foreign or damaged file raises
            raise self._miss(f"{type(error).__name__}: {error}") from None
        if usable <= llama.n_tokens:
            raise KeyError("the context holds as much")
        return state

    def _keys(self, state: Any, mark: Stamp | None) -> tuple[int, ...]:
        tokens = state.input_ids[: state.n_tokens].tolist()
        return steered_keys(tokens, np.zeros(len(tokens), np.uint64) if mark is None else mark.applied)

    def __setitem__(self, key: Sequence[int], value: Any) -> None:
        # llama_cpp's key ends with the sampled token, which has not been evaluated.
        n = min(len(key), value.n_tokens)
        self.inner[steered_keys(key[:n], value.edgesteer.applied[:n])] = value

    def _wanted(self, key: Sequence[int]) -> tuple[int, ...]:
        return steered_keys(key, self._open()._session.main.wanted(list(key)))

    def _open(self) -> Reusing:
        llama = self._llama()
        assert llama is not None, "only its model uses a cache"
        return llama

    def _miss(self, reason: str) -> KeyError:
        text = one_line(reason, None)
        warnings.warn(f"prompt cache: an entry is not used: {text}", EdgesteerWarning, stacklevel=4)
        return KeyError(text)


def wrapped(cache: BaseLlamaCache | None, llama: Reusing) -> SteeredCache | None:
    return None if cache is None else SteeredCache(getattr(cache, "inner", cache), llama)
