"""The compiled half of the package: the tap, one optional extension for the stable ABI of CPython 3.11.

Everything else is in pyproject.toml; this file exists because compiler flags depend on the compiler.
A failed compile is not an error: the wheel then holds no extension, and edgesteer.runtime falls back to the
Python tap by itself.
"""

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("edgesteer/runtime/native")

# No contraction: a fused multiply-add would round differently from the NumPy reference, and from the
# same expression on another machine.
UNIX_FLAGS = ["-O3", "-ffp-contract=off", "-fvisibility=hidden"]

# A free-threaded interpreter has no stable ABI yet.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")

tap = Extension(
    "edgesteer.runtime._native",
    sources=[(NATIVE / name).as_posix() for name in ("module.c", "tap.c", "gate.c", "ort.c")],
    depends=[path.as_posix() for path in sorted(NATIVE.glob("*.h"))],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
    extra_compile_args=[] if sys.platform == "win32" else UNIX_FLAGS,
    py_limited_api=LIMITED,
    optional=True,
)

setup(
    ext_modules=[tap],
    options={"bdist_wheel": {"py_limited_api": "cp311"} if LIMITED else {}},
)
