"""Frozen records against the standard decorator: whatever can be asked of a class has the same answer."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import field
from typing import Any

import pytest

from gnelint.records import cached_property, dataclass, replace


@dataclass(frozen=True)
class Ours:
    """A record."""

    a: int
    b: str = "x"
    c: list[int] = field(default_factory=list, compare=False)
    d: float = field(default=1.0, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "d", self.d * 2)


@dataclass(frozen=True)
class Under(Ours):
    """One that inherits."""

    e: int = 0


@dataclass(frozen=True, kw_only=True)
class Named:
    """One whose arguments are given by name."""

    a: int
    b: int = 2


@dataclass(frozen=True, eq=False)
class Itself:
    """One that is equal to itself alone."""

    a: int = 0


@dataclass(frozen=True)
class Nothing:
    """One without fields."""


def theirs(cls: type, **options: Any) -> type:
    """The same class by the standard decorator."""
    fields = [(each.name, each.type, each) for each in dataclasses.fields(cls)]
    methods = {"__post_init__": cls.__post_init__} if hasattr(cls, "__post_init__") else {}
    return dataclasses.make_dataclass(cls.__name__, fields, frozen=True, namespace=methods, **options)


@pytest.mark.parametrize("cls", [Ours, Under])
@pytest.mark.parametrize("given", [((1,), {}), ((1, "y"), {}), ((), {"a": 3, "d": 4.0}), ((1, "y", [2]), {})])
def test_records_are_what_the_standard_ones_are(cls: type, given: tuple[Any, Any]) -> None:
    ours, standard = cls(*given[0], **given[1]), theirs(cls)(*given[0], **given[1])
    assert vars(ours) == vars(standard)
    assert repr(ours) == repr(standard)
    assert hash(ours) == hash(standard)
    assert dataclasses.asdict(ours) == dataclasses.asdict(standard)


def test_equality() -> None:
    assert Ours(1) == Ours(1, c=[3])
    assert Ours(1) != Ours(2)
    assert Ours(1) != Under(1)
    assert Itself() != Itself()
    assert Nothing() == Nothing()
    assert len({Ours(1), Ours(1), Ours(2)}) == 2


def test_defaults_are_made_anew() -> None:
    assert Ours(1).c is not Ours(1).c


@pytest.mark.parametrize("make", [lambda: Ours(), lambda: Ours(1, z=2), lambda: Named(1), lambda: Nothing(1)])
def test_wrong_arguments(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


def test_nothing_is_set_or_deleted() -> None:
    record = Ours(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="a"):
        record.a = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="a"):
        del record.a
    assert dataclasses.replace(record, a=2) == Ours(2, d=2.0)


def test_copies() -> None:
    record = Under(1, e=5)
    assert copy.deepcopy(record) == pickle.loads(pickle.dumps(record)) == record


@dataclass(frozen=True)
class Late:
    """Its `__init__` is made when there are a few objects."""

    name: str
    parts: tuple[int, ...] = ()
    more: dict[str, int] = field(default_factory=dict, kw_only=True)


class Derived(Late):
    def __init__(self, number: int) -> None:
        super().__init__(str(number), (number,))


def test_a_class_tells_its_arguments_before_and_after_its_first_object() -> None:
    before = inspect.signature(Late)
    assert list(before.parameters) == ["name", "parts", "more"]
    assert before.parameters["parts"].default == ()
    assert before.parameters["more"].kind is inspect.Parameter.KEYWORD_ONLY
    made = Derived(3)
    assert (made.name, made.parts, made.more) == ("3", (3,), {})
    assert Late("a").more is not Late("a").more
    assert inspect.signature(Late) == before
    assert list(inspect.signature(Derived).parameters) == ["number"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        Late("a", other=1)  # type: ignore[call-arg]


def test_the_first_objects_are_as_those_behind_them() -> None:
    """The first few are put together one by one, the rest by a function that is made for the class."""

    @dataclass(frozen=True)
    class Counted(Ours):
        e: list[int] = field(default_factory=list)
        f: int = field(default=7, init=False)
        g: int = field(default=0, kw_only=True)

    made = [Counted(1, "y", g=3) for _ in range(20)]
    assert all(vars(each) == vars(made[-1]) for each in made)
    assert vars(made[0]) == {"a": 1, "b": "y", "c": [], "d": 2.0, "e": [], "f": 7, "g": 3}
    assert len({id(each.e) for each in made}) == 20
    assert Counted.__init__.__code__.co_varnames[:2] == ("self", "a")

    for count in range(8):

        @dataclass(frozen=True)
        class Wrong(Named):
            c: int = 0

        for number in range(count):
            Wrong(a=number)
        for given in (((), {}), ((1,), {"a": 2, "c": 1}), ((1, 2), {}), ((), {"a": 1, "z": 2})):
            with pytest.raises(TypeError):
                Wrong(*given[0], **given[1])


def test_a_class_without_words_gets_its_name() -> None:
    @dataclass(frozen=True)
    class Silent:
        number: int

    assert Silent.__doc__ == "Silent"
    assert Silent(1) == Silent(1)


@dataclass(frozen=True)
class Asked:
    """One of which something is worked out when it is asked for."""

    a: int
    b: tuple[int, ...] = ()

    @cached_property
    def found(self) -> list[int]:
        """Of its fields."""
        return [self.a, *self.b]


@pytest.mark.parametrize("record", [Asked(1, (2,)), Ours(1), Under(1, e=5), Named(a=1), Derived(3)])
def test_a_changed_record_is_what_the_standard_one_makes(record: Any) -> None:
    changes = {"name": "x"} if isinstance(record, Late) else {"a": 7}
    found = replace(record, **changes)
    assert type(found) is type(record)
    assert vars(found) == vars(record) | changes | ({"d": 4.0} if isinstance(record, Ours) else {})
    with pytest.raises(TypeError):
        replace(record, z=1)


def test_what_was_worked_out_stays_with_its_record() -> None:
    record = Asked(1, (2,))
    assert record.found is record.found
    assert replace(record, a=3).found == [3, 2]
    assert Asked.found.__doc__ == "Of its fields."


def test_fields_may_have_any_name() -> None:
    """One called `own` hid the dictionary that the others went to."""

    @dataclass(frozen=True)
    class Words:
        own: int
        later: list[int] = field(default_factory=list)
        put: int = 3

    many = [Words(1, [2]) for _ in range(6)]  # the first few are put together another way
    assert [vars(each) for each in many] == [{"own": 1, "later": [2], "put": 3}] * 6
    assert Words(own=1).later == []


def test_fields_are_in_the_order_of_the_class() -> None:
    """A report lists them: the first objects had those first that they were given."""

    @dataclass(frozen=True)
    class Chosen:
        a: int = 1
        b: int = 2
        c: int = 3

    assert {tuple(vars(Chosen(b=5))) for _ in range(6)} == {("a", "b", "c")}
