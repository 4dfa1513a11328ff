"""Which tap a process uses: the compiled one, or the one in Python."""

from __future__ import annotations

import os
import warnings
from functools import cache

from edgesteer.errors import EdgesteerWarning
from edgesteer.runtime import native
from edgesteer.runtime.python_tap import PythonTap
from edgesteer.runtime.tap import Tap


def make_tap() -> Tap:
    """The compiled tap, or the Python one with a warning. EDGESTEER_TAP=python forces the latter."""
    if os.environ.get("EDGESTEER_TAP") != "python":
        if native.available():
            return native.NativeTap()
        _warn_once()
    return PythonTap()


@cache
def _warn_once() -> None:
    warnings.warn(
        "the compiled tap is missing, so steering runs through Python (same results, slower); "
        "reinstall edgesteer with a C compiler on the PATH",
        EdgesteerWarning,
        stacklevel=4,
    )
