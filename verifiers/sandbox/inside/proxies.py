"""The program under test as tests see it: proxies that send arguments and rebuild plain values from replies.

Nothing of the program runs on this side, and what it sends may be anything. This file knows the link and the values
that cross it, and nothing of how tests are written.
"""

from __future__ import annotations

import builtins
import collections
import os
import select
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from .candidate import LINK
from .values import LONGEST, Tree, Unfit, check, decode, dumps, encode, loads

__all__ = [
    "Gone",
    "Handle",
    "Link",
    "Missing",
    "Opaque",
    "ProgramError",
    "Proxy",
    "SolutionModule",
    "Stop",
    "Stub",
    "Unsupported",
]

_SHOWN = 300  # characters of a value in a message

# What a program may raise in here. Not StopIteration, which ends the test's own loops early, nor a SystemExit.
_RAISED = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, StopIteration | StopAsyncIteration | Warning)
    and not issubclass(kind, UnicodeError | BaseExceptionGroup)  # they take more than a message
}


class Stop(BaseException):
    """The tests can't go on. The first is kept: a bare ``except`` in the tests does not make it unsaid."""

    first: ClassVar[Stop | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        Stop.first = Stop.first or self


class Unsupported(Stop):
    """The tests do with the program what can't be done from another process; the message says what."""


class Gone(Stop):
    """The program ended, or broke the protocol, in the middle of the tests."""


class Missing(Stop):
    """The program has no function or class of that name."""


class ProgramError(Exception):
    """The program raised something that has no name in here."""


class Link:
    """Question and answer with the program's process, which may write anything."""

    def __init__(self) -> None:
        self.calls = 0
        self.exceptions: dict[str, type[Exception]] = {}  # of the program
        self._unread = bytearray()
        self._poll = select.poll()
        self._poll.register(LINK, select.POLLIN)

    def hello(self) -> dict[str, Any]:
        said = self._read()
        for row in rows if type(rows := said.get("exceptions")) is list else []:
            if type(row) is list and row and all(type(name) is str for name in row):
                self.exceptions[row[0]] = type(row[0], (_base(row[1:]),), {})
        return said

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = self._called(["call", name], name, args, kwargs)
        if isinstance(value, Handle):
            value._led_made = value._led_tree[2] == name.rpartition(".")[2]
        return value

    def method(self, number: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._called(["method", number, name], name, args, kwargs)

    def attribute(self, owner: int | str, name: str) -> Any:
        said = self._ask(["attribute", owner, name])
        if not said.get("callable"):
            return self._value(said)
        if isinstance(owner, str):
            return Proxy(self, f"{owner}.{name}")
        return lambda *args, **kwargs: self.method(owner, name, args, kwargs)

    def _called(self, what: list[Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls += 1
        try:
            given = [[_sent(part) for part in args], [[key, _sent(part)] for key, part in kwargs.items()]]
        except Unfit as unfit:
            raise Unsupported(f"the tests pass {unfit} to {name}") from None
        said = self._ask([*what, *given])
        value = self._value(said)
        if value is None and type(said.get("args")) is list:
            self._change(args, said["args"])
        return value

    def _change(self, args: tuple[Any, ...], changed: list[Tree]) -> None:
        """Do to the test's own lists and dicts what the program did to its copies."""
        for mine, tree in zip(args, changed, strict=False):
            if tree is None:
                continue
            now = self._decoded(tree)
            if type(now) is not type(mine):
                raise Gone("broke the protocol")
            if isinstance(mine, list | bytearray):
                mine[:] = now
            elif isinstance(mine, dict | set | collections.deque):
                mine.clear()
                (mine.extend if isinstance(mine, collections.deque) else mine.update)(now)

    def _value(self, said: dict[str, Any]) -> Any:
        if "value" in said:
            return self._decoded(said["value"])
        raised = said.get("raised")
        if type(raised) is list and len(raised) >= 2 and all(type(part) is str for part in raised):
            name, message, *lineage = raised
            kind = _RAISED.get(name) or self.exceptions.get(name)
            raise (
                kind(message)
                if kind
                else type("ProgramError", (ProgramError, _base(lineage)), {})(f"{name}: {message}")
            )
        if type(said.get("missing")) is str:
            raise Missing(said["missing"])
        if type(said.get("unfit")) is str:
            return Opaque("unfit", said["unfit"][:_SHOWN])
        raise Gone("broke the protocol")

    def _decoded(self, tree: Tree) -> Any:
        try:
            return decode(check(tree), lambda part: Handle(self, part) if part[0] == "h" else Opaque(*part[1:]))
        except Unfit:
            raise Gone("broke the protocol") from None

    def nothing_unasked(self) -> None:
        """Refuse what it wrote before it was asked: then every answer would be the next question's.

        Raises:
            Gone: it did.
        """
        if self._unread or (self._poll.poll(0) and self._more()):
            raise Gone("broke the protocol: it answered before it was asked")

    def _ask(self, question: Tree) -> dict[str, Any]:
        self.nothing_unasked()
        try:
            left = memoryview(dumps(question))
            while left:
                left = left[os.write(LINK, left) :]
        except OSError:
            raise Gone("ended before the tests did") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > LONGEST:
                raise Gone(f"returned a value of more than {LONGEST} bytes")
            if not self._more():
                raise Gone("ended before the tests did")
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        try:
            said = loads(line)
        except Unfit:
            said = None
        if type(said) is not dict:
            raise Gone("broke the protocol")
        return said

    def _more(self) -> bool:
        """Wait for more; False where its end is closed."""
        try:
            part = os.read(LINK, 1 << 16)
        except OSError:
            part = b""
        self._unread += part
        return bool(part)


class Stub(Link):
    """No program at all: each function returns None, or what is equal to everything; good tests fail on both."""

    def __init__(self, kind: str) -> None:
        self.calls = 0
        self.exceptions = {}
        # An object that is equal to everything over there is one that is equal to nothing over here.
        self._answer = None if kind == "none" else Opaque("Equal", "<equal to everything>")

    def hello(self) -> dict[str, Any]:
        return {"loaded": True, "names": []}

    def attribute(self, owner: int | str, name: str) -> Any:
        return Proxy(self, f"{owner}.{name}")

    def nothing_unasked(self) -> None:
        pass

    def _ask(self, question: Tree) -> dict[str, Any]:
        return {}

    def _value(self, said: dict[str, Any]) -> Any:
        return self._answer


def _sent(value: object) -> Tree:
    def opaque(value: object) -> Tree:
        if isinstance(value, Handle):
            return value._led_tree
        raise Unfit("a function of the program's" if isinstance(value, Proxy) else f"a {type(value).__name__}")

    return encode(value, opaque)


def _base(lineage: list[str]) -> type[Exception]:
    """The nearest of Python's own exceptions that a program's exception says it derives from."""
    return next((_RAISED[name] for name in lineage if name in _RAISED), Exception)


class Proxy:
    """A function or class of the program."""

    def __init__(self, link: Link, name: str) -> None:
        self._led_link, self._led_name = link, name
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._led_link.call(self._led_name, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._led_link.attribute(self._led_name, name)

    def __instancecheck__(self, instance: object) -> bool:
        raise Unsupported(f"the tests ask for instances of {self._led_name}")

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


class Opaque:
    """A value that is not plain. It is equal to nothing, whatever the program's own ``__eq__`` says."""

    def __init__(self, name: str, seen: str) -> None:
        self._name, self._seen = name, seen

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self._seen


class Handle:
    """An object that stays in the program's process; its methods and attributes are asked for over there.

    No operator that says yes or no is: ``==``, ``<`` or ``in`` of the program's own would pass any test. Nor is any
    that would tell the program a value of the tests, as in ``abs(f(x) - 2.5) < 1e-6``: it could answer 0 to each.
    """

    def __init__(self, link: Link, tree: Tree) -> None:
        self._led_link, self._led_tree = link, tree
        self._led_number = int(tree[1], 16)
        self._led_made = False  # whether tests made it themselves, by calling the class

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._led_link.attribute(self._led_number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_led_"):
            raise Unsupported(f"the tests set the attribute {name} of an object of the program's")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Handle) and other is not self:
            raise Unsupported("the tests compare two objects of the program's own classes")
        return self is other

    def _led_ordered(self, other: object) -> bool:
        raise Unsupported("the tests order objects of the program's own classes")

    __lt__ = __le__ = __gt__ = __ge__ = _led_ordered
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self._led_link.method(self._led_number, "__iter__", (), {}))

    def __repr__(self) -> str:
        return f"<an object of class {self._led_tree[2]}>"


def _between_objects(name: str, sign: str) -> Callable[..., Any]:
    def forward(self: Handle, other: Any) -> Any:
        if not isinstance(other, Handle):
            told = f"the tests compute {sign} of an object of the program's and a value of their own"
            if self._led_made:
                raise Unsupported(told)
            raise TypeError(told)  # a function returned it, where a plain value was wanted
        return self._led_link.method(self._led_number, name, (other,), {})

    return forward


def _forwarding(name: str) -> Callable[..., Any]:
    def forward(self: Handle, *args: Any) -> Any:
        return self._led_link.method(self._led_number, name, args, {})

    return forward


for _name in (
    "call",
    "len",
    "getitem",
    "setitem",
    "delitem",
    "str",
    "int",
    "float",
    "abs",
    "neg",
    "next",
    "enter",
    "exit",
):
    setattr(Handle, f"__{_name}__", _forwarding(f"__{_name}__"))
for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Handle, f"__{_name}__", _between_objects(f"__{_name}__", _name))


class SolutionModule(types.ModuleType):
    """What ``from solution import add`` finds."""

    def __init__(self, name: str, link: Link) -> None:
        super().__init__(name)
        self.__dict__["_led_link"] = link

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        link = self.__dict__["_led_link"]
        return link.exceptions.get(name) or Proxy(link, name)
