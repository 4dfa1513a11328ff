"""`python -m edgesteer` and the `edgesteer` script: Ctrl-C is exit code 130, also while the modules are
imported."""

import sys


def run() -> None:
    """Run the command line and exit."""
    try:
        from edgesteer.cli import main

        main(prog_name="edgesteer")
    except KeyboardInterrupt:
        print("edgesteer: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
