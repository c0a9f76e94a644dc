"""``python -m reflayer`` is the program ``reflayer``."""

from reflayer.cli import main

main()
