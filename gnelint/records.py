"""Frozen dataclasses that are made quickly: gnelint has three hundred, and a run makes half of them before it reads.

`dataclasses.dataclass(frozen=True)` compiles six methods for each class, 0.4 ms; a check of a small file spent a fifth
of its time on that. Five of the six are the same for every class once its fields are known, so they are written here
once; only `__init__`, which callers run often, is compiled, once a few objects were made: of most classes no more ever
are. A class behaves as one of the standard decorator's does: fields, defaults, `replace`, equality, hash,
`FrozenInstanceError`. `replace` is the standard one, which asks every field of an object in turn and calls `__init__`
with all of them, where nothing of that is needed: propagation changes a few fields of a record some hundred thousand
times. `cached_property` is the standard one without its lock, which costs more than most of what is asked (and which
Python 3.12 has given up): an attribute that two threads ask for at once is worked out twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["cached_property", "dataclass", "replace"]

if TYPE_CHECKING:
    from dataclasses import dataclass, replace
    from functools import cached_property
else:

    class cached_property:  # noqa: N801
        """An attribute that is worked out when it is first asked for."""

        def __init__(self, find):
            self.func, self.__doc__ = find, find.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, record, owner=None):
            if record is None:
                return self
            found = record.__dict__[self._name] = self.func(record)
            return found

    def replace(record, /, **changes):
        """A record with other values in some fields, as `dataclasses.replace`."""
        names = getattr(record.__class__, "__replaced__", None)
        if names is None or not changes.keys() <= names:
            return dataclasses.replace(record, **changes)
        own = record.__dict__
        found = object.__new__(record.__class__)
        object.__setattr__(found, "__dict__", {name: own[name] for name in names} | changes)
        return found

    def dataclass(cls=None, /, *, frozen=False, eq=True, repr=True, kw_only=False):
        """The standard decorator; a frozen class is made here."""

        def made(cls):
            if cls.__doc__ is None:  # or the standard decorator looks for its signature, 13 ms the first time
                cls.__doc__ = cls.__name__
            if not frozen:
                return dataclasses.dataclass(cls, eq=eq, repr=repr, kw_only=kw_only)
            return _frozen(dataclasses.dataclass(cls, init=False, eq=False, repr=False, kw_only=kw_only), eq, repr)

        return made if cls is None else made(cls)


def _frozen(cls: type, eq: bool, repr: bool) -> type:
    """The class with its methods."""
    fields = dataclasses.fields(cls)
    methods: dict[str, Any] = {
        "__setattr__": _refuse_setting,
        "__delattr__": _refuse_deleting,
    }
    plain = "__init__" not in cls.__dict__ and not hasattr(cls, "__post_init__")
    methods["__replaced__"] = {field.name: None for field in fields}.keys() if plain and _all_given(fields) else None
    if "__init__" not in cls.__dict__:
        methods |= {"__init__": _first(cls, fields), "__signature__": _Arguments(cls, fields)}
    if eq:
        methods |= _comparison(tuple(field.name for field in fields if field.compare))
    if repr:
        methods["__repr__"] = _representation(tuple(field.name for field in fields if field.repr))
    for name, method in methods.items():
        if name not in cls.__dict__ or (name == "__hash__" and cls.__dict__[name] is None):
            setattr(cls, name, method)
    return cls


def _all_given(fields: tuple[Field[Any], ...]) -> bool:
    """Whether an object is its fields as they were given, each in its own `__dict__`."""
    return all(field.init for field in fields)


_FEW = 4
"""Objects of a class that are put together field by field; compiling takes as long as a hundred of them."""


def _first(cls: type, fields: tuple[Field[Any], ...]) -> Callable[..., None]:
    """An `__init__` that makes a few objects itself, then the real one, which it puts in its own place."""
    left = _FEW
    places = tuple(field.name for field in fields if field.init and not field.kw_only)
    names = frozenset(field.name for field in fields if field.init)
    finished = not hasattr(cls, "__post_init__")

    def first(self: Any, *arguments: Any, **named: Any) -> None:
        nonlocal left
        values = dict(zip(places, arguments, strict=False))
        left -= 1
        plain = len(arguments) <= len(places) and names >= named.keys() and values.keys().isdisjoint(named)
        values |= named
        if not plain or left < 0 or not _with_defaults(values, fields):
            cls.__init__ = real = _init(cls, fields)  # type: ignore[misc]
            real(self, *arguments, **named)  # or says what is wrong with the arguments
            return
        self.__dict__.update({field.name: values[field.name] for field in fields if field.name in values})
        if not finished:
            self.__post_init__()

    first.__qualname__ = f"{cls.__qualname__}.__init__"
    return first


def _with_defaults(values: dict[str, Any], fields: tuple[Field[Any], ...]) -> bool:
    """Add the defaults of the fields without a value; False if one that needs a value has none."""
    for field in fields:
        if field.name in values:
            continue
        if field.default_factory is not MISSING:
            values[field.name] = field.default_factory()
        elif field.default is not MISSING:
            values[field.name] = field.default
        elif field.init:
            return False
    return True


class _Arguments:
    """The signature of a class whose `__init__` may not be made yet, for those who ask `inspect`."""

    def __init__(self, cls: type, fields: tuple[Field[Any], ...]) -> None:
        self._cls, self._fields = cls, fields

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is not None or owner is not self._cls:
            raise AttributeError("__signature__")
        import inspect

        whole = inspect.signature(_init(self._cls, self._fields))
        return whole.replace(parameters=list(whole.parameters.values())[1:])


def _init(cls: type, fields: tuple[Field[Any], ...]) -> Callable[..., None]:
    """The `__init__` of a class with these fields."""
    known: dict[str, Any] = {"__later__": MISSING}  # names that no field has
    plain, named, body = ["self"], list[str](), ["__own__ = self.__dict__"]
    for field in fields:
        name, value = field.name, field.name
        default = ""
        if field.default is not MISSING:
            known[f"default_{name}"] = field.default
            default = f"=default_{name}"
        elif field.default_factory is not MISSING:
            known[f"make_{name}"] = field.default_factory
            default = "=__later__"
            value = f"make_{name}() if {name} is __later__ else {name}" if field.init else f"make_{name}()"
        if field.init:
            (named if field.kw_only else plain).append(f"{name}{default}")
        elif default == "":
            continue
        elif field.default is not MISSING:
            value = f"default_{name}"
        body.append(f"__own__[{name!r}] = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    arguments = ", ".join([*plain, *(["*", *named] if named else [])])
    lines = "\n  ".join(body)
    exec(
        f"def make({', '.join(known)}):\n def __init__({arguments}):\n  {lines}\n return __init__",
        {},
        found := dict[str, Any](),
    )
    made: Callable[..., None] = found["make"](**known)
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__annotations__ = {field.name: field.type for field in fields if field.init}
    return made


def _comparison(names: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    """Equality and hash by these fields."""
    if len(names) > 1:
        key: Callable[[Any], Any] = attrgetter(*names)
    elif names:
        only = attrgetter(names[0])

        def key(record: Any) -> Any:
            return (only(record),)

    else:

        def key(record: Any) -> Any:
            return ()

    def same(self: Any, other: Any) -> Any:
        if self is other:
            return True
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    def digest(self: Any) -> int:
        return hash(key(self))

    return {"__eq__": same, "__hash__": digest}


def _representation(names: tuple[str, ...]) -> Callable[[Any], str]:
    @recursive_repr()
    def shown(self: Any) -> str:
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__}({parts})"

    return shown


def _refuse_setting(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
