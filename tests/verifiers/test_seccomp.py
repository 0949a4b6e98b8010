"""The seccomp filter, run by a small interpreter of its language: which calls pass, and which don't."""

from __future__ import annotations

import errno
import struct

import pytest

from led_agent.verifiers.sandbox.inside import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
OWN = 4321
LISTED = seccomp._ALLOWED
SPECIAL = {"ioctl": 16, "fcntl": 72, "clone": 56, "prctl": 157, "prlimit64": 302, "kill": 62, "tgkill": 234}


def code() -> list[tuple[int, int, int, int]]:
    made = seccomp.Filter()
    packed = made._before + seccomp._packed(made._own_signals(OWN)) + made._after
    return list(struct.iter_unpack("HBBI", packed))


def decide(number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would answer: the interpreter of the few instructions that the filter is made of."""
    arch = architecture if architecture is not None else seccomp.Filter()._architecture
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, arch, 0, *[value % 2**64 for value in padded])
    at, accumulator, program = 0, 0, code()
    while True:
        what, then, otherwise, constant = program[at]
        at += 1
        if what == 0x06:
            return constant
        if what == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif what == 0x54:
            accumulator &= constant
        else:
            met = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}
            at += then if met[what] else otherwise


@pytest.mark.parametrize("column", [0, 1], ids=["x86-64", "arm64"])
def test_the_listed_calls_and_no_others_pass(column: int) -> None:
    made = seccomp.Filter()
    made._column = column
    listed = {numbers[column] for numbers in LISTED.values()} - {None}
    program = seccomp._search(made._ranges())
    assert all(max(then, otherwise) < 256 for _, then, otherwise, _ in program)  # what a jump can hold

    def passes(number: int) -> bool:
        at = 0
        while program[at][0] != 0x06:
            _, then, otherwise, constant = program[at]
            at += 1 + (then if number >= constant else otherwise)
        return program[at][3] == ALLOW

    assert {number for number in range(1000) if passes(number)} == listed


def test_calls_that_depend_on_their_arguments() -> None:
    made = seccomp.Filter()
    if made._column != 0:
        pytest.skip("the numbers below are x86-64's")
    denied = ERRNO | errno.EPERM
    assert decide(SPECIAL["kill"], OWN, 9) == ALLOW
    for target in (1, 0, -1, OWN + 1, 2**32 - OWN):
        assert decide(SPECIAL["kill"], target, 0) == denied
    assert decide(SPECIAL["tgkill"], OWN, OWN, 6) == ALLOW
    assert decide(SPECIAL["tgkill"], 1, 1, 6) == denied
    threads, files, user = 0x10000, 0x400, 0x10000000
    assert decide(SPECIAL["clone"], threads | files | 0x100) == ALLOW
    for flags in (0, 17, threads, files, threads | files | user):
        assert decide(SPECIAL["clone"], flags) == denied
    assert decide(435) == ERRNO | errno.ENOSYS  # clone3: libc then takes clone
    assert decide(SPECIAL["prlimit64"], 0, 9, 0, 1 << 40) == ALLOW  # reads
    assert decide(SPECIAL["prlimit64"], 0, 9, 1 << 40) == denied  # sets, by an address whose low half is 0
    assert decide(SPECIAL["ioctl"], 0, 0x5401) == ALLOW
    assert decide(SPECIAL["ioctl"], 0, 0x5412) == denied  # TIOCSTI
    assert decide(53, 1, 1 | 0x80000) == ALLOW  # a pair of streams, closed on exec
    assert decide(53, 1, 2) == denied


def test_another_architecture_is_ended() -> None:
    made = seccomp.Filter()
    assert decide(0, architecture=made._architecture ^ 1) == KILL
    if made._column == 0:
        assert decide(0x40000000) == KILL  # x32
