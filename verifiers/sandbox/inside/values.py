"""Plain values as JSON trees, without loss of type: what crosses the wall between trusted and untrusted processes.

No pickle and no eval: a tree is made of null, booleans, strings and tagged lists, integers and floats are hexadecimal
text. ``encode`` runs beside untrusted code, which may as well write its own bytes; so ``check`` takes nothing for
granted, and the trusted side compares and shows trees without ever building the value (a dict of chosen keys takes
quadratic time to build). Only sandboxed processes ``decode``.

====================  ==================================================================
value                 tree
====================  ==================================================================
None, bool, str       null, true, "text"
int                   ["i", "-ff"]; on the wire also 255, as long lists of small ones are common
float, complex        ["f", "0x1.8p+0" | "nan" | "inf"], ["c", real, imag]
bytes, bytearray      ["b", "00ff"], ["B", "00ff"]
list, tuple, deque    ["l", [...]], ["t", [...]], ["q", [...]]
set, frozenset        ["s", [...]], ["z", [...]]
dict and its kinds    ["d", [[key, value], …]], ["C", …] (Counter), ["O", …], ["D", …] (defaultdict)
Decimal, Fraction     ["n", "1.50"], ["r", "-ff", "10"]
range                 ["R", start, stop, step]
date, datetime, time  ["y", iso], ["Y", iso], ["m", iso], without fold, for which == does not ask
timedelta             ["e", days, seconds, microseconds]
iterators             ["g", [...]]: what is left in them, read out
anything else         ["o", "type's name", "what it looks like"]: equal to nothing
object of a class     ["h", "its number", "type's name"]: it stays where it is, see ``examiner``
====================  ==================================================================
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import itertools
import json
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Tree", "Unfit", "check", "decode", "dumps", "encode", "loads", "looks", "same", "shown"]

Tree = Any  # None | bool | str | list[Tree]; unchecked also int

DEEPEST = 30
MOST = 200_000  # values in one tree
LONGEST = 1 << 20  # bytes of one tree
_READ_OUT = 10_000  # values taken out of an iterator
_SMALL = 1 << 53  # ints below it are JSON's own: any reader has them exactly
_LONGEST_BOUND = 256  # hexadecimal digits of a range's bounds, which are computed with

_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", collections.deque: "q", set: "s", frozenset: "z"}
_CLOCKS: dict[type, str] = {datetime.date: "y", datetime.datetime: "Y", datetime.time: "m"}
_CLOCK_KINDS: dict[str, Any] = {tag: kind for kind, tag in _CLOCKS.items()}
_MAPPINGS: dict[type, str] = {
    dict: "d",
    collections.Counter: "C",
    collections.OrderedDict: "O",
    collections.defaultdict: "D",
}
_ITERATORS: tuple[type, ...] = (
    types.GeneratorType, map, filter, zip, enumerate, reversed, type({}.keys()), type({}.values()),
    type({}.items()), type(iter([])), type(iter(())), type(iter(set())), type(iter({})), type(iter("")),
    itertools.chain, itertools.islice, itertools.permutations, itertools.combinations, itertools.product,
    itertools.accumulate,
)  # fmt: skip
_LISTED = frozenset("ltqszg")  # tags of one list of trees
_PAIRED = frozenset("dCOD")  # tags of one list of pairs of trees
_ATOM_SIZES = {"i": 1, "f": 1, "c": 2, "b": 1, "B": 1, "n": 1, "r": 2, "R": 3, "o": 2, "h": 2,
               "y": 1, "Y": 1, "m": 1, "e": 3}  # fmt: skip
_BRACKETS = {"l": "[]", "t": "()", "s": "{}", "z": ("frozenset({", "})"), "q": ("deque([", "])"), "g": ("<", ">")}
_NAMES = {"C": "Counter", "O": "OrderedDict", "D": "defaultdict"}


class Unfit(Exception):  # noqa: N818 - a fact about a value, not a failure
    """This value or tree is not plain, too deep or too large; the message says which."""


def dumps(tree: Tree) -> bytes:
    """One line of ASCII, its end included."""
    return json.dumps(tree, separators=(",", ":")).encode() + b"\n"


def loads(line: bytes) -> Tree:
    """The JSON of a line that anybody may have written.

    Raises:
        Unfit: it is none, or nested without end.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"no JSON: {type(error).__name__}") from None


# --- beside the program under test ---------------------------------------------------------------------------------


def encode(value: object, opaque: Callable[[object], Tree] | None = None) -> Tree:
    """The tree of a value; exact types only, so that a subclass with an ``__eq__`` of its own is no number.

    Args:
        value: What to encode.
        opaque: The tree of what is not plain; by default its type and looks.

    Raises:
        Unfit: nested deeper than 30, or more than 200,000 values.
    """
    parts = 0

    def walk(value: object, depth: int) -> Tree:
        nonlocal parts
        parts += 1
        if depth > DEEPEST:
            raise Unfit(f"a value nested deeper than {DEEPEST}")
        if parts > MOST:
            raise Unfit(f"a value of more than {MOST} parts")
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind in _SEQUENCES:
            return [_SEQUENCES[kind], [walk(item, depth + 1) for item in value]]  # type: ignore[attr-defined]
        if kind in _MAPPINGS:
            pairs = value.items()  # type: ignore[attr-defined]
            return [_MAPPINGS[kind], [[walk(key, depth + 1), walk(item, depth + 1)] for key, item in pairs]]
        if kind in _ITERATORS:
            items = list(itertools.islice(iter(value), _READ_OUT + 1))  # type: ignore[call-overload]
            if len(items) > _READ_OUT:
                raise Unfit(f"an iterator of more than {_READ_OUT} values")
            return ["g", [walk(item, depth + 1) for item in items]]
        atom = _atom(kind, value)
        return atom if atom is not None else (opaque or looks)(value)

    return walk(value, 0)


def _atom(kind: type, value: Any) -> Tree:
    if kind is int:
        return value if -_SMALL < value < _SMALL else ["i", format(value, "x")]
    if kind is float:
        return ["f", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "B", value.hex()]
    if kind is decimal.Decimal:
        return ["n", str(value)]
    if kind is fractions.Fraction:
        return ["r", format(value.numerator, "x"), format(value.denominator, "x")]
    if kind is range:
        return ["R", *(format(part, "x") for part in (value.start, value.stop, value.step))]
    if kind in _CLOCKS and type(getattr(value, "tzinfo", None)) in (types.NoneType, datetime.timezone):
        return [_CLOCKS[kind], value.isoformat()]
    if kind is datetime.timedelta:
        return ["e", *(format(part, "x") for part in (value.days, value.seconds, value.microseconds))]
    return None


def looks(value: object) -> Tree:
    """The tree of what is not plain: its type's name and what it looks like."""
    try:
        seen = str.__getitem__(repr(value), slice(200))
    except BaseException as error:  # noqa: BLE001 - its __repr__ is untrusted, too
        seen = f"<its repr raised {type(error).__name__}>"
    return ["o", str(type(value).__name__)[:100], seen]


# --- the trusted side ----------------------------------------------------------------------------------------------


def check(tree: Tree) -> Tree:
    """The tree itself with its atoms in canonical form, whoever wrote it; the order of its parts is kept.

    Raises:
        Unfit: it is no tree of a value.
    """
    return _checked(tree, 0)


def _checked(tree: Tree, depth: int) -> Tree:
    if depth > DEEPEST:
        raise Unfit(f"a value nested deeper than {DEEPEST}")
    if tree is None or type(tree) in (bool, str):
        return tree
    if type(tree) is int:
        return ["i", format(tree, "x")]
    if type(tree) is not list or not tree or type(tree[0]) is not str:
        raise Unfit("no plain value")
    tag, rest = tree[0], tree[1:]
    if tag in _LISTED and len(rest) == 1 and type(rest[0]) is list:
        return [tag, [_checked(item, depth + 1) for item in rest[0]]]
    if tag in _PAIRED and len(rest) == 1 and type(rest[0]) is list:
        if not all(type(pair) is list and len(pair) == 2 for pair in rest[0]):
            raise Unfit("no plain value")
        return [tag, [[_checked(key, depth + 1), _checked(item, depth + 1)] for key, item in rest[0]]]
    if len(rest) != _ATOM_SIZES.get(tag) or not all(type(part) is str for part in rest):
        raise Unfit("no plain value")
    try:
        return [tag, *_ATOMS[tag](*rest)]
    except (ValueError, OverflowError, decimal.InvalidOperation):
        raise Unfit("no plain value") from None


def _float(text: str) -> str:
    return float.fromhex(text).hex()


def _int(text: str) -> str:
    return format(int(text, 16), "x")


def _range(parts: tuple[str, ...]) -> tuple[str, ...]:
    if max(map(len, parts)) > _LONGEST_BOUND or int(parts[2], 16) == 0:
        raise ValueError
    return tuple(map(_int, parts))


def _timedelta(parts: tuple[str, ...]) -> tuple[str, ...]:
    if max(map(len, parts)) > 20:
        raise ValueError
    value = datetime.timedelta(*(int(part, 16) for part in parts))
    return tuple(format(part, "x") for part in (value.days, value.seconds, value.microseconds))


_ATOMS: dict[str, Callable[..., tuple[str, ...]]] = {
    "i": lambda text: (_int(text),),
    "f": lambda text: (_float(text),),
    "c": lambda real, imag: (_float(real), _float(imag)),
    "b": lambda text: (bytes.fromhex(text).hex(),),
    "B": lambda text: (bytes.fromhex(text).hex(),),
    "n": lambda text: (str(decimal.Decimal(text)),),
    "r": lambda over, under: (_int(over), _int(under)),
    "R": lambda *parts: _range(parts),
    "y": lambda text: (datetime.date.fromisoformat(text).isoformat(),),
    "Y": lambda text: (datetime.datetime.fromisoformat(text).isoformat(),),
    "m": lambda text: (datetime.time.fromisoformat(text).isoformat(),),
    "e": lambda *parts: _timedelta(parts),
    "o": lambda name, seen: (name, seen),
    "h": lambda number, name: (_int(number), name),
}


def same(expected: Tree, got: Tree, tolerance: float | None = None) -> bool:
    """Whether two checked trees are of the same value: ``==`` of equal types throughout, and NaN is NaN.

    Args:
        expected: What is wanted.
        got: What was returned.
        tolerance: Numbers may differ by so much, absolutely or relative to ``expected``, complex ones part by part; and
            an int then may stand for a float. None asks for equal values of equal type.
    """
    if _has_opaque(got) or _has_opaque(expected):
        return False
    wanted, given = _ordered(expected), _ordered(got)
    return bool(wanted == given) if tolerance is None else _near(wanted, given, tolerance)


def _has_opaque(tree: Tree) -> bool:
    if type(tree) is not list:
        return False
    return tree[0] in ("o", "h") if tree[0] not in _LISTED | _PAIRED else any(map(_has_opaque, _flat(tree)))


def _flat(tree: Tree) -> Iterator[Tree]:
    return (part for pair in tree[1] for part in pair) if tree[0] in _PAIRED else iter(tree[1])


# A tree as tuples that compare and sort: (0, number, tag), (1, tag) for NaN, (2, text) for other atoms, and
# (3, tag, parts) with the parts of sets and dicts sorted. Numbers sort by value, so that those within a tolerance of
# each other come at the same place. Only ever as much work as sorting: nothing is hashed.
_Ordered = tuple[Any, ...]


def _ordered(tree: Tree) -> _Ordered:
    if type(tree) is not list:
        return 2, json.dumps(tree)
    tag = tree[0]
    if tag in _PAIRED:
        pairs = [(_ordered(key), _ordered(value)) for key, value in tree[1]]
        return 3, tag, tuple(pairs if tag == "O" else sorted(pairs))
    if tag in _LISTED:
        parts = [_ordered(part) for part in tree[1]]
        return 3, tag, tuple(sorted(parts) if tag in "sz" else parts)
    if tag == "c":
        return 3, tag, (_ordered(["f", tree[1]]), _ordered(["f", tree[2]]))
    if tag in "if":
        value = int(tree[1], 16) if tag == "i" else float.fromhex(tree[1])
        return (0, value, tag) if value == value else (1, tag)
    if tag in "nR":
        tree = [tag, *_plainest(tag, tree[1:])]
    return 2, json.dumps(tree)


def _plainest(tag: str, parts: list[str]) -> tuple[str, ...]:
    """Decimals without their trailing zeros, and ranges by what is in them: 1.50 == 1.5, range(0) == range(2, 1)."""
    if tag == "n":
        sign, digits, exponent = decimal.Decimal(parts[0]).as_tuple()
        if not isinstance(exponent, int):
            return (parts[0],)
        text = "".join(map(str, digits))
        bare = text.rstrip("0")
        return (str(sign), bare, str(exponent + len(text) - len(bare))) if bare else ("0",)
    values = range(*(int(part, 16) for part in parts))
    if not values:
        return ()
    first, last = values[0], values[-1]
    return tuple(map(str, (first,) if first == last else (first, last, values.step)))


def _near(wanted: _Ordered, given: _Ordered, tolerance: float) -> bool:
    if wanted[0] != 3 or given[0] != 3:
        numbers = wanted[0] == given[0] == 0
        nans = wanted[0] == given[0] == 1
        return nans or (_close(wanted[1], given[1], tolerance) if numbers else wanted == given)
    (_, tag, parts), (_, other, others) = wanted, given
    if tag != other or len(parts) != len(others):
        return False
    if tag in _PAIRED:
        parts, others = ([part for pair in side for part in pair] for side in (parts, others))
    return all(_near(one, two, tolerance) for one, two in zip(parts, others, strict=True))


def _close(wanted: float, given: float, tolerance: float) -> bool:
    """Relative to what is wanted: a wrong answer can't widen the tolerance by being large."""
    if wanted == given:
        return True
    try:
        return abs(wanted - given) <= max(tolerance, tolerance * abs(wanted)) and not math.isinf(wanted)
    except OverflowError:  # an int beyond the floats
        return False


def shown(tree: Tree, limit: int = 300) -> str:
    """A checked tree as Python would write the value, cut to ``limit`` characters."""
    text = ""
    for part in _written(tree, limit):
        text += part
        if len(text) > limit:
            return f"{text[:limit]}…"
    return text


def _written(tree: Tree, limit: int) -> Iterator[str]:
    if type(tree) is not list:
        yield repr(tree[:limit] if type(tree) is str else tree)
        return
    tag, items = tree[0], tree[1]
    if tag not in _LISTED and tag not in _PAIRED:
        yield _atom_shown(tree, limit)
        return
    opened, closed = (f"{_NAMES[tag]}({{", "})") if tag in _NAMES else _BRACKETS.get(tag, "{}")
    if tag in "sz" and not items:
        opened, closed = ("set(" if tag == "s" else "frozenset("), ")"
    yield opened
    for at, item in enumerate(items):
        yield ", " if at else ""
        if tag in _PAIRED:
            yield from _written(item[0], limit)
            yield ": "
        yield from _written(item[1] if tag in _PAIRED else item, limit)
    yield ",)" if tag == "t" and len(items) == 1 else closed


def _atom_shown(tree: Tree, limit: int) -> str:
    tag, first = tree[0], tree[1]
    if tag == "i":
        return str(int(first, 16)) if len(first) <= min(limit, 3000) else f"<an int of {4 * len(first)} bits>"
    if tag == "f":
        return repr(float.fromhex(first))
    if tag == "c":
        return repr(complex(float.fromhex(first), float.fromhex(tree[2])))
    if tag in "bB":
        value = bytes.fromhex(first[: 2 * limit])
        return repr(value if tag == "b" else bytearray(value))
    if tag == "n":
        return f"Decimal({first[:limit]!r})"
    if tag == "r":
        over, under = (_atom_shown(["i", part], limit) for part in tree[1:])
        return f"Fraction({over}, {under})"
    if tag == "R":
        return repr(range(*(int(part, 16) for part in tree[1:])))
    if tag in _CLOCK_KINDS:
        return repr(_CLOCK_KINDS[tag].fromisoformat(first))
    if tag == "e":
        return repr(datetime.timedelta(*(int(part, 16) for part in tree[1:])))
    return f"<{first}: {tree[2]}>" if tag == "o" else f"<an object of class {tree[2]}>"


# --- in the process that runs the tests ----------------------------------------------------------------------------


def decode(tree: Tree, opaque: Callable[[Tree], object]) -> Any:
    """The value of a checked tree. Only in a sandbox: building it may take long.

    Raises:
        Unfit: a set or dict of what can't be in one.
    """
    if type(tree) is not list:
        return tree  # an int, too: arguments come from the trusted side and unchecked
    tag, *parts = tree
    if tag in _LISTED:
        return _made(_MAKE[tag], [decode(item, opaque) for item in parts[0]])
    if tag in _PAIRED:
        pairs = [(decode(key, opaque), decode(item, opaque)) for key, item in parts[0]]
        return _made(lambda pairs: _MAKE[tag](dict(pairs)), pairs)
    return _made(lambda texts: _MAKE[tag](*texts), parts) if tag in _MAKE else opaque(tree)


_MAKE: dict[str, Callable[..., Any]] = {
    "l": list, "t": tuple, "q": collections.deque, "s": set, "z": frozenset, "g": iter,
    "d": dict, "C": collections.Counter, "O": collections.OrderedDict,
    "D": lambda pairs: collections.defaultdict(None, pairs),
    "i": lambda text: int(text, 16), "f": float.fromhex, "n": decimal.Decimal,
    "c": lambda real, imag: complex(float.fromhex(real), float.fromhex(imag)),
    "b": bytes.fromhex, "B": bytearray.fromhex,
    "r": lambda over, under: fractions.Fraction(int(over, 16), int(under, 16)),
    "R": lambda *bounds: range(*(int(bound, 16) for bound in bounds)),
    **{tag: kind.fromisoformat for tag, kind in _CLOCK_KINDS.items()},
    "e": lambda *parts: datetime.timedelta(*(int(part, 16) for part in parts)),
}  # fmt: skip


def _made(make: Callable[[Any], Any], parts: Any) -> Any:
    try:
        return make(parts)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise Unfit(f"no plain value: {error}") from None
