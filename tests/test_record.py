"""Records are what a frozen dataclass with slots is."""

from __future__ import annotations

import copy
import pickle

import pytest

from reflayer.record import as_dict, record, replace


@record
class Point:
    """A record with a default, a method, and a check."""

    x: int
    y: int = 7

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is below zero")

    def sum(self) -> int:
        """Its own methods stay."""
        return self.x + self.y


@record
class Named:
    """Another one with the same values."""

    x: int
    y: int

    def __repr__(self) -> str:
        return "Named()"


def test_it_holds_its_values_and_nothing_else() -> None:
    point = Point(1, y=2)
    assert (point.x, point.y, point.sum(), Point(1).y) == (1, 2, 3, 7)
    assert (repr(point), repr(Named(1, 2))) == ("Point(x=1, y=2)", "Named()")
    assert as_dict(point) == {"x": 1, "y": 2}
    assert replace(point, x=5) == Point(5, 2)
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be set"):
        setattr(point, "x", 2)  # noqa: B010
    with pytest.raises(AttributeError, match="Point is frozen: x cannot be deleted"):
        delattr(point, "x")
    with pytest.raises(AttributeError):
        object.__setattr__(point, "other", 1)
    match point:
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_it_is_equal_to_the_same_record_with_the_same_values() -> None:
    assert Point(1, 2) == Point(1, 2) != Point(1, 3)
    other: object = Named(1, 2)
    assert Point(1, 2) != other
    assert len({Point(1, 2), Point(1, 2), Point(2, 1)}) == 2
    for twin in (pickle.loads(pickle.dumps(Point(1, 2))), copy.deepcopy(Point(1, 2))):
        assert twin == Point(1, 2)


@pytest.mark.parametrize("arguments", [{}, {"x": 1, "z": 2}, {"x": -1}])
def test_what_it_is_not_made_of_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Point(**arguments)
