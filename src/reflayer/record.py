"""Records: frozen classes with slots that only hold values.

They are what ``dataclass(frozen=True, slots=True)`` makes. To import ``dataclasses`` takes longer,
with ``inspect`` and ``ast`` behind it, than to clone a small tree or to find a container.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar, dataclass_transform

    R = TypeVar("R")

    @dataclass_transform(frozen_default=True)
    def record(cls: type[R]) -> type[R]: ...

else:

    def record(cls):
        """Make a record of a class whose annotations are its fields; what it defines itself stays.

        A default is shared by all instances. ``__post_init__`` may refuse what it is given.
        """
        fields = tuple(cls.__annotations__)
        namespace = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        defaults = {name: namespace.pop(name) for name in fields if name in namespace}
        namespace["__slots__"] = namespace["__match_args__"] = fields
        for method in (__eq__, __hash__, __repr__, __reduce__, __setattr__, __delattr__):
            namespace.setdefault(method.__name__, method)
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        if "__init__" not in namespace:
            made.__init__ = _first_initializer(made, defaults)
        return made


def replace(record: R, **changes: object) -> R:
    """The same record with other values of some fields."""
    return type(record)(**{**as_dict(record), **changes})


def as_dict(record: object) -> dict[str, Any]:
    """The values of a record by the names of its fields."""
    return {name: getattr(record, name) for name in type(record).__slots__}  # type: ignore[attr-defined]


def _first_initializer(cls: type, defaults: dict[str, object]) -> Callable[..., None]:
    """``__init__`` that makes way for the one which it compiles: of most classes none is made."""

    def __init__(self: object, *values: object, **named: object) -> None:  # noqa: N807
        compiled = _initializer(cls.__slots__, defaults, hasattr(cls, "__post_init__"))  # type: ignore[attr-defined]
        cls.__init__ = compiled  # type: ignore[misc]
        compiled(self, *values, **named)

    return __init__


def _initializer(
    fields: tuple[str, ...], defaults: dict[str, object], checks: bool
) -> Callable[..., None]:
    """``__init__`` as Python would compile it from a class: a loop over names takes much longer."""
    arguments = (f"{name}=_defaults[{name!r}]" if name in defaults else name for name in fields)
    body = "; ".join(f"_set(self, {name!r}, {name})" for name in fields) or "pass"
    body += "; self.__post_init__()" if checks else ""
    made: dict[str, Any] = {"_set": object.__setattr__, "_defaults": defaults}
    exec(f"def __init__({', '.join(('self', *arguments))}): {body}", made)
    made["__init__"].__qualname__ = "record.__init__"
    return made["__init__"]  # type: ignore[no-any-return]


def _values(self: Any) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name in self.__slots__])


def __eq__(self: object, other: object) -> bool:  # noqa: N807 - a method of records
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def __hash__(self: object) -> int:  # noqa: N807
    return hash(_values(self))


def __repr__(self: object) -> str:  # noqa: N807
    values = ", ".join(f"{name}={value!r}" for name, value in as_dict(self).items())
    return f"{type(self).__qualname__}({values})"


def __reduce__(self: object) -> tuple[object, ...]:  # noqa: N807
    return type(self), _values(self)


def __setattr__(self: object, name: str, _: object) -> NoReturn:  # noqa: N807
    raise AttributeError(f"{type(self).__qualname__} is frozen: {name} cannot be set")


def __delattr__(self: object, name: str) -> NoReturn:  # noqa: N807
    raise AttributeError(f"{type(self).__qualname__} is frozen: {name} cannot be deleted")
