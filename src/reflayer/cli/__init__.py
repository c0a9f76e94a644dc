"""The commands: the only place that prints or exits."""

from __future__ import annotations

import sys


def main() -> None:
    """The program ``reflayer``: exits 0, 1 (failed: one line says why) or 2 (wrong usage)."""
    from reflayer.cli.program import program
    from reflayer.errors import ReflayerError

    try:
        program(prog_name="reflayer")
    except ReflayerError as error:
        print(f"reflayer: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has enough
        sys.exit(1)
