"""The commands: the only place that prints or exits."""

from __future__ import annotations

import sys


def main() -> None:
    """The program ``reflayer``: exits 0, 1 (failed: one line says why) or 2 (wrong usage)."""
    if sys.argv[1:2] == ["copy"]:
        from reflayer.cli import hands

        hands.start()  # while the rest of the program is being imported
    from reflayer.cli.program import parser
    from reflayer.errors import ReflayerError

    arguments = parser().parse_args()
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
    except ReflayerError as error:
        print(f"reflayer: {error}", file=sys.stderr)
        status = 1
    except BrokenPipeError:
        sys.stdout = None  # whoever read our output has enough
        status = 1
    sys.exit(status)
