"""What every room says of its errors."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest

from reflayer import errors
from reflayer.errors import CopyError, OperationError, RegistryError, failing
from reflayer.images.model.image import NoImageError


def test_a_failing_operation_is_named_with_its_path() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/proc/self/fd/7")
    with pytest.raises(OperationError) as caught, failing("/there", "write"):
        raise error
    assert str(caught.value) == "/there: write: No space left on device"
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is error


def test_a_failing_operation_may_be_an_error_of_its_own_kind() -> None:
    with (
        pytest.raises(CopyError, match="/there: open: Permission"),
        failing(b"/there", "open", CopyError),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_no_other_error_is_one_of_an_operation() -> None:
    with pytest.raises(KeyError), failing("/there", "write"):
        raise KeyError


def test_every_error_has_a_code_of_its_own_that_the_page_lists() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    codes = [one.code for one in kinds if issubclass(one, errors.ReflayerError)]
    assert len(set(codes)) == len(codes)
    page = (Path(__file__).parents[1] / "docs/api.md").read_text()
    assert [code for code in codes if f"`{code}`" not in page] == []


@pytest.mark.parametrize(
    "error",
    [
        OperationError(b"/there", "write", "no room", errno.ENOSPC),
        errors.ArchiveError("bad", b"name"),
        errors.SandboxError("gone", 127, is_told=True),
        errors.UnknownNameError("x: no such container"),
        NoImageError("an index", "artifact"),
        RegistryError("refused"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_goes_from_one_process_to_another(error: errors.ReflayerError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))
