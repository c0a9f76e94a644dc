"""``python -m reflayer.cli`` is the program ``reflayer``."""

from reflayer.cli import main

main()
