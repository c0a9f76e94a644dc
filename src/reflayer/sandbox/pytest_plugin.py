"""A pytest plugin: the fixture ``fresh_root``, a sandbox of an image for each test that asks.

The image is named in the ini file as ``reflayer_image``, or by the test, and the store, where it is
not the user's, as ``reflayer_root``. A test that does not ask for it costs the import of this file.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.sandbox.box import Sandbox


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("reflayer_image", "the image of which fresh_root is made")
    parser.addini("reflayer_root", "the folder of the store that it is made in")


@pytest.fixture
def fresh_root(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A root file system of the test's own: a path, in which ``run`` runs commands.

    It is a container of the image that ``reflayer_image`` names, or which a test is given by
    ``pytest.mark.parametrize("fresh_root", ["debian:12"], indirect=True)``; gone after the test.
    """
    from reflayer.errors import ReflayerError
    from reflayer.sandbox.box import Sandbox
    from reflayer.store import Store

    image = getattr(request, "param", None) or request.config.getini("reflayer_image")
    if not image:
        raise pytest.UsageError("fresh_root: the ini file names no reflayer_image")
    root = request.config.getini("reflayer_root")
    with ExitStack() as stack:
        try:
            box = stack.enter_context(Sandbox(image, store=Store(root) if root else None))
        except ReflayerError as error:  # which says what to do; where it was raised does not
            pytest.fail(f"fresh_root: {error}", pytrace=False)
        yield box
