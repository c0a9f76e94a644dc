"""What the archive's tests share: layers applied in place, and as differences."""

from __future__ import annotations

import pytest

from tests.archive import differences, tars


@pytest.fixture(params=["in place", "as a difference"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's ``apply`` does so in place, or by way of a difference that is laid over the root.

    That is for a whole file, as ``pytestmark``.
    """
    apply = tars.apply if request.param == "in place" else differences.apply_over
    monkeypatch.setattr(request.module, "apply", apply)
