"""Fails unless the compiled tap exists, is built for the stable ABI, and is the one that the runtime uses."""

import importlib
import sys
import warnings


def main() -> int:
    try:
        extension = importlib.import_module("edgesteer.runtime._native")
        from edgesteer.errors import EdgesteerWarning
        from edgesteer.runtime.taps import make_tap

        warnings.simplefilter("error", EdgesteerWarning)  # the runtime warns when it falls back
        taken = make_tap().name
    except (ImportError, Warning) as error:
        print(f"the compiled tap is not in use: {error}", file=sys.stderr)
        return 1
    if taken != "native" or ".abi3." not in str(extension.__file__):
        print(f"the runtime takes the {taken} tap; compiled: {extension.__file__}", file=sys.stderr)
        return 1
    print(f"compiled tap in use: {extension.__file__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
