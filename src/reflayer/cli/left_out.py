"""What a tar cannot hold is told."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def tell_left_out(skipped: Mapping[str, int]) -> None:
    """Say on standard error how many of each kind were left out, if any were."""
    if skipped:
        left_out = ", ".join(
            f"{count:,} {kind}" + ("s" if count > 1 else "") for kind, count in skipped.items()
        )
        print(f"reflayer: left out: {left_out}", file=sys.stderr)
