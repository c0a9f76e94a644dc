"""``contextlib`` and ``functools.cached_property``, as far as a command needs them that only looks.

Those import ``collections``, which takes a fifth of what it takes to list containers. Used by the
few files that every command imports; all others have Python's own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import closing, contextmanager, suppress
    from functools import cached_property

    __all__ = ["cached_property", "closing", "contextmanager", "suppress"]
else:

    def contextmanager(function):
        """Let a generator function that yields once be what a ``with`` statement takes."""

        def block(*arguments, **named):
            return _Block(function(*arguments, **named))

        block.__doc__ = function.__doc__
        return block

    class _Block:
        __slots__ = ("_generator",)

        def __init__(self, generator):
            self._generator = generator

        def __enter__(self):
            return next(self._generator)

        def __exit__(self, kind, error, trace):
            if kind is None:
                for _ in self._generator:
                    raise RuntimeError("it yields more than once")
                return False
            try:
                self._generator.throw(error)
            except StopIteration:
                return True
            except BaseException as raised:
                if raised is not error:
                    raise
                raised.__traceback__ = trace
                return False
            raise RuntimeError("it yields once more after an error")

    class closing:  # noqa: N801 - as contextlib has it
        """Close something at the end of the block."""

        __slots__ = ("_thing",)

        def __init__(self, thing):
            self._thing = thing

        def __enter__(self):
            return self._thing

        def __exit__(self, *_):
            self._thing.close()

    class suppress:  # noqa: N801
        """Leave the block at one of these exceptions, and go on."""

        __slots__ = ("_kinds",)

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            pass

        def __exit__(self, kind, _, __):
            return kind is not None and issubclass(kind, self._kinds)

    class cached_property:  # noqa: N801
        """A property that is worked out when it is first asked for."""

        def __init__(self, function):
            self._function = function
            self.__doc__ = function.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, one, owner=None):
            if one is None:
                return self
            value = one.__dict__[self._name] = self._function(one)
            return value
