"""``reflayer bench``: how fast each way of making a container is in a folder."""

from __future__ import annotations

from reflayer.cli.bench.command import add_arguments, run

__all__ = ["add_arguments", "run"]
