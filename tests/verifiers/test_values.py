"""Values cross the wall without loss, and whatever else comes is refused or compared as data, in little time."""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.verifiers.sandbox.inside.values import Unfit, check, decode, dumps, encode, loads, looks, same, shown


def unfolded(value: Any) -> Any:
    """Which of an hour's two passes a time is in is left behind, as ``==`` does not ask for it."""
    return value.replace(fold=0)


zones = st.sampled_from([None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=5))])
ints = st.integers() | st.sampled_from([2**53 - 1, 2**53, -(2**53), 2**4000])
atoms = (
    st.none() | st.booleans() | ints | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False) | st.text()
    | st.binary() | st.binary().map(bytearray) | st.decimals(allow_nan=False) | st.fractions() | st.dates()
    | st.datetimes(timezones=zones).map(unfolded) | st.times().map(unfolded) | st.timedeltas()
    | st.builds(range, st.integers(), st.integers(), st.integers(1))
)  # fmt: skip
hashable = (atoms.filter(lambda value: type(value) is not bytearray)) | st.tuples(st.text(), st.integers())
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.lists(inner).map(collections.deque) | st.sets(hashable)
        | st.frozensets(hashable) | st.dictionaries(hashable, inner)
        | st.dictionaries(hashable, inner).map(collections.OrderedDict)
        | st.dictionaries(hashable, inner).map(lambda made: collections.defaultdict(None, made))
        | st.dictionaries(hashable, st.integers()).map(collections.Counter)
    ),
    max_leaves=12,
)  # fmt: skip
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([*"lsdifcnrRohyYmeq"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


def tree_of(value: object) -> object:
    return check(loads(dumps(encode(value))))


def kinds(value: object) -> object:
    """The types in a value, throughout."""
    if isinstance(value, dict):
        return type(value), [(kinds(key), kinds(part)) for key, part in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return type(value), [kinds(part) for part in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(str(type(part)) for part in value)
    return type(value)


@given(values)
def test_what_is_sent_arrives(value):
    back = decode(tree_of(value), looks)
    assert back == value
    assert kinds(back) == kinds(value)
    if isinstance(value, dict):
        assert list(back) == list(value)  # in its order


@given(values, values)
def test_same_is_equality_of_values_and_types(one, other):
    left, right = tree_of(one), tree_of(other)
    assert same(left, left)
    assert same(left, left, 1e-9)
    assert same(left, right) == same(right, left)
    if kinds(one) == kinds(other):
        assert same(left, right) == (one == other)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, False), (1, True, False), ([1], (1,), False), ({1}, frozenset({1}), False), (0.0, -0.0, True),
        (Decimal("1.50"), Decimal("1.5"), True), (Decimal("0E+5"), Decimal("-0"), True), (range(0), range(3, 1), True),
        (Decimal("1E+2"), Decimal("100"), True), (Decimal(1), Decimal(10), False),
        (Fraction(2, 4), Fraction(1, 2), True),
        (range(0, 3, 2), range(0, 4, 2), True), (range(1), range(0, 9, 9), True), (range(2), range(3), False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), (float("nan"), float("nan"), True), ({1, 2, 3}, {3, 2, 1}, True),
        (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), False), (b"a", bytearray(b"a"), False),
        (collections.Counter("a"), {"a": 1}, False), ({1.0: 2}, {1: 2}, False), (1 + 0j, 1.0, False), ("1", 1, False),
    ],
)  # fmt: skip
def test_equality_in_detail(one, other, equal):
    assert same(tree_of(one), tree_of(other)) is equal
    assert same(tree_of([one]), tree_of([other])) is equal


@pytest.mark.parametrize(
    ("wanted", "got", "close"),
    [
        (1.0, 1.0 + 1e-7, True), (1.0, 1.0 + 1e-5, False), (1e9, 1e9 + 100, True), (1.0, 1, True), (1, 1.0, True),
        (0.0, 1e-7, True), (1.0, True, False), (1.0, "1.0", False), (math.nan, math.nan, True), (math.nan, 1.0, False),
        (math.inf, math.inf, True), (math.inf, 1e308, False), (1.0, math.inf, False), (math.inf, -math.inf, False),
        (10**400, 10**400, True), (10**400, 1.0, False), (1.0, 10**400, False), (10**400, 10**400 + 1, False),
        (1 + 1j, 1 + 1.0000001j, True), (1 + 1j, 1 + 2j, False), ([1.0], (1.0,), False), ([1.0, 2], [1.0], False),
        ({1.0, 2.0}, {0.9999999, 2.0}, True), ({1.0: "a", 2.0: "b"}, {0.9999999: "a", 2.0: "b"}, True),
        ({"a": 1.0}, {"a": 1.0000001}, True), ({"a": 1.0}, {"b": 1.0}, False), (0.0, -0.0, True),
        ({(1.0, 2.0), (3.0, 4.0)}, {(0.9999999, 2.0), (3.0, 4.0)}, True), ("abc", "abc", True), (None, None, True),
    ],
)  # fmt: skip
def test_a_tolerance_is_for_numbers_wherever_they_stand(wanted, got, close):
    assert same(tree_of(wanted), tree_of(got), 1e-6) is close


@settings(max_examples=400)
@given(junk)
def test_check_refuses_or_makes_a_tree_that_it_leaves_as_it_is(junk):
    try:
        tree = check(loads(json.dumps(junk).encode()))
    except Unfit:
        return
    assert check(tree) == tree
    assert len(shown(tree)) <= 301
    same(tree, tree)
    same(tree, tree, 1e-6)
    with contextlib.suppress(Unfit):
        decode(tree, lambda part: part)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000, b"NaN", b'["i"]', b'["i", "x"]', b'["f", "0x1p9999"]',
             b'["R", "0", "1", "0"]', b'["R", "0", "%s", "1"]' % (b"f" * 300), b'["n", "x"]', b'["y", "2024-02-30"]',
             b'["e", "fffffffff", "0", "0"]', b'["l", 1]', b'["d", [[null]]]', b"[]", b"{}", b"1.5", b'["b", "0"]'],
)  # fmt: skip
def test_what_is_no_tree_is_unfit(line):
    with pytest.raises(Unfit):
        check(loads(line))


def test_the_second_pass_of_an_hour_is_the_first_as_it_is_for_python():
    first = datetime.datetime(2024, 10, 27, 2, 30)
    second = first.replace(fold=1)
    assert first == second
    assert same(tree_of(first), tree_of(second))
    assert shown(tree_of(second)) == repr(first)


@given(values)
def test_what_is_shown_is_what_python_shows_or_the_beginning_of_it(value):
    text = shown(tree_of(value), 100)
    assert len(text) <= 101
    ordered = isinstance(value, list | tuple | str | int | float | Decimal | Fraction | datetime.date | None)
    if ordered and kinds(value) in (type(value), (list, [int]), (tuple, [str])) and len(repr(value)) <= 100:
        assert text == repr(value)


@pytest.mark.parametrize(
    "value", [(), (1,), set(),
              {1}, frozenset(), frozenset({1}), {}, {"a": [None]}, [1.5, "é'", b"\0"], range(3),
              range(1, 9, 2),               -0.0, 1e300, 2j, bytearray(b"x"), Fraction(1, 2),
              datetime.timedelta(1), collections.deque([1])],
)  # fmt: skip
def test_values_are_shown_as_python_shows_them(value):
    assert shown(tree_of(value)) == repr(value)


def test_thirty_levels_are_deep_enough():
    value: object = 1
    for _ in range(30):
        value = [value]
    assert decode(tree_of(value), looks) == value
    assert len(shown(tree_of(value))) == 61
    with pytest.raises(Unfit, match="deeper than 30"):
        encode([value])
    tree = encode(value)
    with pytest.raises(Unfit, match="deeper than 30"):
        check(["l", [tree]])
    with pytest.raises(Unfit, match="more than 200000"):
        encode([0] * 200_000)
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(Unfit):
        encode(loop)


class Equal:
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


class Number(int):
    __eq__ = Equal.__eq__  # type: ignore[assignment]
    __hash__ = int.__hash__


class Loud:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("value", [Equal(), Number(1), Loud(), object, print, type("S", (str,), {})("a"), lambda: 1])
def test_what_is_not_plain_is_equal_to_nothing_not_even_itself(value):
    tree = tree_of(value)
    for tolerance in (None, 1e-6):
        assert not same(tree, tree, tolerance)
        assert not same(tree_of(1), tree, tolerance)
        assert not same(tree_of({"a": [1]}), tree_of({"a": [value]}), tolerance)
    assert len(shown(tree)) <= 301
    assert same(tree_of(["o", "x", "y"]), tree_of(["o", "x", "y"]))  # a list that looks like an object's tree


def test_an_iterator_is_read_out_up_to_a_point():
    assert tree_of(iter([1, 2])) == tree_of(n for n in (1, 2))
    assert list(decode(tree_of(map(abs, [-1])), looks)) == [1]
    assert shown(tree_of(iter([1, 2]))) == "<1, 2>"
    with pytest.raises(Unfit, match="iterator"):
        encode(n for n in range(20_000))


def test_trees_are_never_hashed_in_the_parent():
    """A dict of these ints, which have one hash, would take hours to build."""
    modulus = 2**61 - 1
    keys = [["i", format(1 + modulus * n, "x")] for n in range(40_000)]
    wide = check(["d", [[key, None] for key in keys]])
    sets = check(["s", keys[::-1]])
    deep: object = ["s", keys[:20_000]]
    for _ in range(25):
        deep = ["s", [deep]]
    deep = check(deep)
    for tree in (wide, sets, deep):
        assert same(tree, tree)
        assert same(tree, tree, 1e-6)
        assert len(shown(tree)) <= 301
