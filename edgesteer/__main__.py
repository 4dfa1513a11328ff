"""`python -m edgesteer` is the `edgesteer` command."""

from edgesteer.cli import main

if __name__ == "__main__":
    main(prog_name="edgesteer")
