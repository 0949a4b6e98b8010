"""Which files a program under test may touch: Landlock, the kernel's sandbox for everyone, root or not.

This file knows Landlock's three system calls. It does not know which folders are worth reading: that is the caller's.
It does not limit how much is written, nor what ``stat`` tells, nor (before ABI 4 and 6) ports and abstract sockets;
the seccomp filter closes the rest.

Source: the kernel's Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterable
from pathlib import Path

__all__ = ["LandlockError", "Ruleset", "abi"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on all architectures
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE_FILE, _REMOVE_DIR, _REMOVE_FILE = 1 << 1, 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _REFER, _TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14
_RIGHTS = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15, 4: 1 << 15}  # by ABI: this many bits, less one, are known
_LATEST_RIGHTS = 1 << 16
_NETWORK, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals


class LandlockError(OSError):
    """The kernel has no Landlock, or refuses it; the message says which."""


_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """The kernel's Landlock version; 0 where it has none."""
    found = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(0, int(found))


class Ruleset:
    """Folders and files that may be read and, below ``scratch``, written; everything else may not be opened. Of
    folders in ``listable``, and all below, the files' names may be read.

    Made once; ``enter`` binds the calling process, and what it starts, for good.

    Raises:
        LandlockError: no Landlock here.
    """

    def __init__(self, readable: Iterable[str], listable: Iterable[str], scratch: str | None) -> None:
        version = abi()
        if version < 1:
            raise LandlockError("this kernel has no Landlock (it is in Linux 5.13 and later, where it is switched on)")
        self._known = _RIGHTS.get(version, _LATEST_RIGHTS) - 1
        handled = struct.pack("QQQ", self._known, _NETWORK if version >= 4 else 0, _SCOPES if version >= 6 else 0)
        size = 8 if version < 4 else 16 if version < 6 else 24
        made = _call(_CREATE, handled[:size], ctypes.c_size_t(size), ctypes.c_uint32(0))
        self._fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 100)  # out of the way of a run's own descriptors
        os.close(made)
        for folder in readable:
            self._allow(folder, _READ_FILE | _READ_DIR)
        for folder in listable:
            self._allow(folder, _READ_DIR)
        if scratch is not None:
            written = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
            self._allow(scratch, _READ_FILE | _READ_DIR | written)

    def enter(self) -> None:
        """Bind this process. Needs ``no_new_privs``."""
        _call(_RESTRICT, ctypes.c_int(self._fd), ctypes.c_uint32(0))

    def _allow(self, path: str, rights: int) -> None:
        if not Path(path).exists():
            return
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not Path(path).is_dir():
                rights &= _READ_FILE | _WRITE_FILE
            rule = struct.pack("=Qi", rights & self._known, fd)
            _call(_ADD, ctypes.c_int(self._fd), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
        finally:
            os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise LandlockError(code, f"Landlock is refused: {os.strerror(code)}")
    return result
