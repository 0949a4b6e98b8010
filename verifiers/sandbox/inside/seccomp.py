"""Which system calls a program under test may make: a short list of what computing in Python needs.

This file knows the kernel's filter language (seccomp-bpf) and call numbers, and nothing of programs or verdicts. What
is not on the list fails with EPERM: starting processes (``clone`` is for threads only) and programs, sockets, signals
to others, anonymous files, ptrace, io_uring, namespaces, and changes of mode, owner and time, which Landlock lets by.

Linux on x86-64 and arm64. Sources: the kernel's Documentation/userspace-api/seccomp_filter.rst and its tables of calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

__all__ = ["Filter", "SeccompError"]

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column below

# Call: (x86-64, arm64); None where the architecture has none.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "access": (21, None), "pipe": (22, None), "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216),
    "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101),
    "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "getpid": (39, 172), "sendto": (44, 206),
    "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209), "exit": (60, 93), "wait4": (61, 260), "uname": (63, 160), "fsync": (74, 82),
    "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46), "getdents": (78, None), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None),
    "creat": (85, None), "unlink": (87, None), "readlink": (89, None), "umask": (95, 166), "gettimeofday": (96, 169),
    "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174),
    "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173), "getpgrp": (111, None),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "getpgid": (121, 155),
    "getsid": (124, 156), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "statfs": (137, 43), "fstatfs": (138, 44), "getpriority": (140, 141),
    "gettid": (186, 178), "time": (201, None), "futex": (202, 98), "sched_getaffinity": (204, 123),
    "getdents64": (217, 61), "restart_syscall": (219, 128), "fadvise64": (221, 223), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94), "epoll_wait": (232, None),
    "epoll_ctl": (233, 21), "waitid": (247, 95), "openat": (257, 56), "mkdirat": (258, 34), "newfstatat": (262, 79),
    "unlinkat": (263, 35), "renameat": (264, 38), "readlinkat": (267, 78), "faccessat": (269, 48),
    "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99), "epoll_pwait": (281, 22),
    "fallocate": (285, 47), "eventfd2": (290, 19), "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59),
    "preadv": (295, 69), "pwritev": (296, 70), "getcpu": (309, 168), "renameat2": (316, 276), "getrandom": (318, 278),
    "membarrier": (324, 283), "copy_file_range": (326, 285), "statx": (332, 291), "rseq": (334, 293),
    "close_range": (436, 436), "faccessat2": (439, 439),
}  # fmt: skip
_IOCTL, _FCNTL, _CLONE, _CLONE3, _PRCTL = (16, 29), (72, 25), (56, 220), (435, 435), (157, 167)
_SOCKETPAIR, _PRLIMIT = (53, 199), (302, 261)
_KILL, _TGKILL = (62, 129), (234, 131)
_TIOC = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
# What every threading library asks of clone, and what it never does: a thread with a table of files of its own would
# multiply the limit on open files.
_CLONE_THREAD, _CLONE_FILES, _CLONE_NEW = 0x00010000, 0x00000400, 0x7E020000 | 0x00000080
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41
_SOCK_STREAM, _AF_UNIX = 1, 1

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JEQ, _JSET, _JGE, _AND, _RET = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_NR, _ARCH = 0, 4
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


class SeccompError(OSError):
    """The filter can't be had on this machine; the message says why."""


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


class Filter:
    """The filter, made once; ``enter`` puts the calling process behind it, for good.

    Raises:
        SeccompError: an architecture whose call numbers are not listed here.
    """

    def __init__(self) -> None:
        machine = platform.machine()
        if machine not in _ARCHITECTURES:
            raise SeccompError(f"no list of system calls for {machine}; {' and '.join(_ARCHITECTURES)} have one")
        self._architecture, self._column = _ARCHITECTURES[machine]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._before, self._after = _packed(self._first()), _packed(_search(self._ranges()))

    def enter(self) -> None:
        """From now on this process may make the listed calls only. Needs ``no_new_privs``."""
        packed = self._before + _packed(self._own_signals(os.getpid())) + self._after
        buffer = ctypes.create_string_buffer(packed, len(packed))
        program = _Program(len(packed) // 8, ctypes.addressof(buffer))
        if self._libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
            number = ctypes.get_errno()
            raise SeccompError(number, f"the kernel takes no seccomp filter: {os.strerror(number)}")

    def _first(self) -> list[_Instruction]:
        code: list[_Instruction] = [
            (_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, self._architecture), (_RET, 0, 0, _KILL_PROCESS),
            (_LOAD, 0, 0, _NR),
        ]  # fmt: skip
        if self._column == 0:  # x32's calls
            code += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _KILL_PROCESS)]
        code += self._when(_IOCTL, 1, [(_JEQ, value) for value in _TIOC])
        # Leases, notifications and pipe sizes are nobody's business: the five commands of every day.
        code += self._when(_FCNTL, 1, [(_JEQ, value) for value in (0, 1, 2, 3, 4, 1030)])
        code += self._threads_only()
        code += self._when(_PRCTL, 0, [(_JEQ, value) for value in (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA)])
        code += self._when(_PRLIMIT, 2, [(_JEQ, 0)], high=True)  # to read a limit, not to set it
        code += self._stream_pair()
        clone3 = _CLONE3[self._column]  # its flags are out of a filter's sight; libc then takes clone
        return [*code, (_JEQ, 0, 1, clone3), (_RET, 0, 0, _ERRNO | errno.ENOSYS)]

    def _threads_only(self) -> list[_Instruction]:
        inner: list[_Instruction] = [
            *_load_argument(0), (_AND, 0, 0, _CLONE_THREAD | _CLONE_FILES | _CLONE_NEW),
            (_JEQ, 0, 1, _CLONE_THREAD | _CLONE_FILES), (_RET, 0, 0, _ALLOW), (_RET, 0, 0, _ERRNO | errno.EPERM),
        ]  # fmt: skip
        return [(_JEQ, 0, len(inner), _CLONE[self._column]), *inner]

    def _stream_pair(self) -> list[_Instruction]:
        """socketpair, which asyncio needs, for connected streams: over a datagram socket anybody can be reached."""
        inner: list[_Instruction] = [
            *_load_argument(0), (_JEQ, 1, 0, _AF_UNIX), (_RET, 0, 0, _ERRNO | errno.EPERM),
            *_load_argument(1), (_AND, 0, 0, 0xF), (_JEQ, 0, 1, _SOCK_STREAM), (_RET, 0, 0, _ALLOW),
            (_RET, 0, 0, _ERRNO | errno.EPERM),
        ]  # fmt: skip
        return [(_JEQ, 0, len(inner), _SOCKETPAIR[self._column]), *inner]

    def _own_signals(self, own: int) -> list[_Instruction]:
        return self._when(_KILL, 0, [(_JEQ, own)]) + self._when(_TGKILL, 0, [(_JEQ, own)])

    def _ranges(self) -> list[tuple[int, int]]:
        """The listed numbers as ranges, first and last."""
        ranges: list[tuple[int, int]] = []
        for number in sorted(row[self._column] or 0 for row in _ALLOWED.values() if row[self._column] is not None):
            joined = ranges and ranges[-1][1] == number - 1
            ranges[-1:] = [(ranges[-1][0], number)] if joined else [*ranges[-1:], (number, number)]
        return ranges

    def _when(
        self, call: tuple[int, int], argument: int, tests: list[tuple[int, int]], *, high: bool = False
    ) -> list[_Instruction]:
        """Allow a call when one test of an argument's low half holds (with ``high``: and its high half is 0)."""
        inner: list[_Instruction] = []
        if high:
            inner += [*_load_argument(argument, high=True), (_JEQ, 1, 0, 0), (_RET, 0, 0, _ERRNO | errno.EPERM)]
        inner += _load_argument(argument)
        for code, value in tests:
            inner += [(code, 0, 1, value), (_RET, 0, 0, _ALLOW)]
        inner.append((_RET, 0, 0, _ERRNO | errno.EPERM))
        return [(_JEQ, 0, len(inner), call[self._column]), *inner]


def _search(ranges: list[tuple[int, int]]) -> list[_Instruction]:
    """Allow what is in one of the ranges and nothing else. A search by halves: the kernel runs through the filter once
    for each call there is, whenever a process enters it, and a list would cost as much as the fork."""
    if len(ranges) == 1:
        first, last = ranges[0]
        return [(_JGE, 0, 1, first), (_JGE, 0, 1, last + 1), (_RET, 0, 0, _ERRNO | errno.EPERM), (_RET, 0, 0, _ALLOW)]
    middle = len(ranges) // 2
    below = _search(ranges[:middle])
    return [(_JGE, len(below), 0, ranges[middle][0]), *below, *_search(ranges[middle:])]


def _packed(code: list[_Instruction]) -> bytes:
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _load_argument(index: int, *, high: bool = False) -> list[_Instruction]:
    return [(_LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))]  # both architectures are little-endian
