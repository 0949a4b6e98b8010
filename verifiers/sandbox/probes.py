"""Whether a tier holds on this machine: programs that try to get out, and a look from outside at whether they did.

Each probe is a program of ours that does one kind of harm and says what it got away with; what leaves traces (a file
changed, a connection, a process) is looked for on the outside, too. One leak makes the tier unavailable. What held is
remembered for this boot, this code and this user.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from led_agent.verifiers.sandbox.inside.values import shown
from led_agent.verifiers.sandbox.pool import Call, Called, Program, Sandbox
from led_agent.verifiers.sandbox.process import Broken, Limits
from led_agent.verifiers.sandbox.tiers import Tier, missing

__all__ = ["PROBES", "Probe", "Report", "probe"]

_LIMITS = Limits(seconds=2.0, memory_mb=256)
_STUCK = Limits(seconds=0.3, memory_mb=256)


@dataclass(frozen=True)
class Probe:
    """One probe and what came of it: ``detail`` is what leaked, or why it could not be tried. ``unsure`` where another
    try may tell otherwise: it had no time, or was not tried."""

    name: str
    passed: bool
    detail: str = ""
    unsure: bool = False


@dataclass(frozen=True)
class Report:
    """A tier on this machine. ``reason`` says why it is not available; ``unsure`` where that may be the machine's being
    busy, and no wall that is missing."""

    tier: Tier
    available: bool
    reason: str
    probes: tuple[Probe, ...] = ()
    unsure: bool = False


# Every program defines probe(…) and returns a list of what it got away with. `attempt` is in front of each.
_ATTEMPT = """
import os
leaks = []
def attempt(what, action):
    try:
        said = action()
    except BaseException as error:
        if type(error) not in (OSError, PermissionError, FileNotFoundError, BlockingIOError, ProcessLookupError,
                               ValueError, MemoryError, ImportError, AttributeError, NotADirectoryError):
            leaks.append("%s: unforeseen %r" % (what, error))
    else:
        leaks.append("%s: %.80r" % (what, said))
"""
_PROGRAMS: dict[str, str] = {
    "read files": '''
def probe(canary, parent):
    for path in (canary + "/secret.txt", "/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc",
                 "/proc/%d/environ" % parent, "/proc/1/environ", "/proc/self/maps", "/var/log/dpkg.log"):
        attempt("read " + path, lambda: open(path, "rb").read(80))
    for path in (canary, "/etc", "/root", "/home", "/proc"):
        attempt("list " + path, lambda: os.listdir(path))
    return leaks
''',
    "write files": '''
def probe(canary, parent):
    secret = canary + "/secret.txt"
    attempt("overwrite", lambda: open(secret, "w"))
    attempt("append", lambda: open(secret, "a"))
    attempt("truncate", lambda: os.truncate(secret, 0))
    attempt("unlink", lambda: os.unlink(secret))
    attempt("rename", lambda: os.rename(secret, secret + "2"))
    attempt("link", lambda: os.link(secret, canary + "/link"))
    attempt("symlink", lambda: os.symlink(secret, canary + "/link"))
    attempt("mkdir", lambda: os.mkdir(canary + "/folder"))
    attempt("chmod", lambda: os.chmod(secret, 0))
    attempt("chown", lambda: os.chown(secret, 1, 1))
    attempt("utime", lambda: os.utime(secret, (0, 0)))
    attempt("xattr", lambda: os.setxattr(secret, "user.led", b"1"))
    for folder in ("/", "/etc", "/var/tmp", "/dev/shm", "/run", os.path.dirname(os.__file__), "/proc/self"):
        path = folder + "/led_probe_%d" % os.getpid()
        attempt("create in " + folder, lambda: (open(path, "x").close(), os.unlink(path)))
    return leaks
''',
    "connect": '''
def probe(canary, parent, tcp, udp, name):
    import socket
    def connect(family, kind, address):
        with socket.socket(family, kind) as s:
            s.settimeout(0.5); s.connect(address); s.send(b"led"); return address
    attempt("tcp", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", tcp)))
    attempt("udp", lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", udp)))
    attempt("abstract", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + name))
    attempt("path", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, canary + "/socket"))
    attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
    def datagrams():
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        a.sendto(b"led", "\\0" + name + "d"); return "sent"
    attempt("datagram pair", datagrams)
    return leaks
''',
    "start processes": '''
def probe(canary, parent):
    def fork():
        pid = os.fork()
        if pid == 0:
            os.setsid(); import time; time.sleep(60); os._exit(0)
        return pid
    attempt("fork", fork)
    attempt("forkpty", lambda: os.forkpty() if hasattr(os, "forkpty") else 1 / 0)
    attempt("spawn", lambda: os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {}))
    import subprocess
    attempt("run", lambda: subprocess.run(["/bin/sh", "-c", "echo led"], capture_output=True).stdout)
    return leaks
''',
    "become another program": '''
def probe(canary, parent):
    import sys
    attempt("exec sh", lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"]))
    attempt("exec python", lambda: os.execv(sys.executable or "/usr/bin/python3", ["python3", "-c", "pass"]))
    return leaks
''',
    "signal others": '''
def probe(canary, parent):
    for target in (os.getppid(), parent, -1, 0, 1):
        attempt("signal %d" % target, lambda: os.kill(target, 0))
    return leaks
''',
    "trace others": '''
def probe(canary, parent):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *arguments):
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
        return name
    for target in (os.getppid(), parent):
        attempt("ptrace %d" % target, lambda: call("ptrace", 16, target, None, None))
    attempt("unshare", lambda: call("unshare", 0x10000000))
    attempt("mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
    attempt("chroot", lambda: os.chroot("/tmp"))
    attempt("setuid", lambda: os.setuid(12345))
    attempt("bpf", lambda: call("syscall", 321, 0, None, 0))
    attempt("io_uring", lambda: call("syscall", 425, 1, ctypes.create_string_buffer(120)))
    return leaks
''',
    "memory": '''
def probe(canary, parent):
    import mmap, resource
    attempt("memfd", lambda: os.memfd_create("x"))
    attempt("shared", lambda: mmap.mmap(-1, 512 << 20))
    attempt("private", lambda: len(bytearray(512 << 20)))
    attempt("raise the limit", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
    attempt("more files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)))
    return leaks
''',
    "fill the disk": '''
def probe(canary, parent):
    written = 0
    for at, folder in enumerate((".", "/tmp", "/var/tmp", "/dev/shm", "/", "/run")):
        for number in range(64):
            try:
                with open("%s/fill_%d_%d" % (folder, at, number), "wb") as file:
                    for _ in range(16):
                        written += file.write(bytes(1 << 16))
            except OSError:
                break
    if written > 17 << 20:
        leaks.append("wrote %d bytes" % written)
    return leaks
''',
    "open files": '''
def probe(canary, parent):
    for fd in range(5, 1024):
        attempt("descriptor %d" % fd, lambda: os.fstat(fd))
    kept = []
    try:
        while len(kept) < 1000:
            kept.append(os.dup(1))
    except OSError:
        pass
    if len(kept) > 100:
        leaks.append("opened %d files" % len(kept))
    for fd in kept:
        os.close(fd)
    if os.environ:
        leaks.append("environment %r" % dict(os.environ))
    return leaks
''',
}  # fmt: skip
_WORKING = """
def probe(canary, parent):
    import json, tempfile, threading, asyncio, decimal, random
    out = []
    thread = threading.Thread(target=lambda: out.append(1)); thread.start(); thread.join()
    with tempfile.TemporaryFile() as file:
        file.write(b"led"); file.seek(0); out.append(file.read())
    async def nothing():
        await asyncio.sleep(0); return 2
    out.append(asyncio.run(nothing()))
    return [] if out == [1, b"led", 2] else [repr(out)]
"""
_ENDLESS = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    try:
        while True: pass
    except BaseException:
        pass
"""
_HARMFUL = ("fill the disk",)  # a tier that is found out already leaves no 384 MiB of files on the machine
PROBES = ("work at all", *_PROGRAMS, "end when told", "tests apart")


def probe(tier: Tier, *, cached: bool = True) -> Report:
    """Try a tier on this machine; ``cached`` takes what held before in this boot."""
    lacking = missing(tier)
    if lacking is not None:
        return Report(tier, False, lacking)
    file = _cache_file(tier)
    if cached and file is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(file.read_text())
            return Report(tier, True, "", tuple(Probe(**row) for row in kept["probes"]))
    report = _tried(tier)
    if report.available and file is not None:
        with contextlib.suppress(OSError):  # without a cache folder it is tried each time
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({"probes": [asdict(one) for one in report.probes]}))
            temporary.replace(file)
    return report


def _tried(tier: Tier) -> Report:
    sandbox = Sandbox(tier, size=1)
    found: list[Probe] = []
    try:
        with _canary() as canary:
            found.append(_ran(sandbox, "work at all", _WORKING, canary))
            for name, source in _PROGRAMS.items():
                if name in _HARMFUL and not all(one.passed for one in found):
                    told = "not tried: a wall is missing, and it would do harm"
                    found.append(Probe(name, False, told, unsure=True))
                elif found[0].passed:
                    found.append(_ran(sandbox, name, source, canary))
        if found[0].passed:
            found += [_ended(sandbox), _apart(sandbox)]
    except Broken as error:
        return Report(tier, False, str(error), tuple(found), unsure=all(one.passed or one.unsure for one in found))
    finally:
        sandbox.close()
    failed = [one for one in found if not one.passed]
    reason = "; ".join(f"{one.name}: {one.detail}" for one in failed)[:2000]
    unsure = bool(failed) and all(one.unsure for one in failed)
    return Report(tier, not failed, reason, tuple(found), unsure)


@dataclass
class _Canary:
    """What must not be seen, touched or reached from inside."""

    folder: Path
    sockets: list[socket.socket]
    arguments: dict[str, list[Any]]

    def traces(self) -> list[str]:
        """What shows on the outside that somebody got out."""
        found = []
        if sorted(path.name for path in self.folder.iterdir()) != ["secret.txt", "socket"]:
            found.append("the canary's folder has changed")
        secret = self.folder / "secret.txt"
        if not secret.is_file() or secret.read_text() != _SECRET or secret.stat().st_mode & 0o777 != 0o644:
            found.append("the canary has changed")
        for one in self.sockets:
            with contextlib.suppress(BlockingIOError):
                if one.type == socket.SOCK_STREAM:
                    one.accept()[0].close()
                else:
                    one.recv(10)
                found.append(f"something reached {one.getsockname()!r}")
        return found


_SECRET = "led canary"


@contextlib.contextmanager
def _canary() -> Iterator[_Canary]:
    with tempfile.TemporaryDirectory(prefix="led-canary-") as folder, contextlib.ExitStack() as stack:
        path = Path(folder)
        (path / "secret.txt").write_text(_SECRET)
        (path / "secret.txt").chmod(0o644)
        path.chmod(0o755)
        name = path.name
        kinds: list[tuple[int, int, Any]] = [
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, str(path / "socket")),
        ]
        if sys.platform == "linux":
            kinds += [
                (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}"),
                (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{name}d"),
            ]
        sockets = []
        for family, kind, address in kinds:
            one = stack.enter_context(socket.socket(family, kind))
            one.bind(address)
            if kind == socket.SOCK_STREAM:
                one.listen()
            one.setblocking(False)
            sockets.append(one)
        ports = [one.getsockname()[1] for one in sockets[:2]]
        yield _Canary(path, sockets, {"connect": [*ports, name]})


def _ran(sandbox: Sandbox, name: str, source: str, canary: _Canary) -> Probe:
    arguments = [str(canary.folder), os.getpid(), *canary.arguments.get(name, [])]
    called = sandbox.calls(Program((_ATTEMPT + source,)), "probe", [Call.of(arguments, {})], _LIMITS)
    traces = canary.traces()
    leaks = _said(called) + traces
    return Probe(name, not leaks, "; ".join(leaks)[:1000], unsure=_starved(called) and not traces)


def _starved(called: Called) -> bool:
    """Whether it reached its time limit before it had said anything."""
    return called.outcome.why == "timeout" and not called.replies


def _said(called: Called) -> list[str]:
    """What a probe got away with. No answer at all is a leak, too: it became something else."""
    if len(called.replies) != 1 or called.malformed:
        return [called.failed or f"it gave no answer ({called.outcome.why})"]
    kind, tree = called.replies[0]
    if kind != "value" or not isinstance(tree, list) or tree[0] != "l":
        return [f"it {kind} {tree!r}"[:300]]
    return [shown(leak) for leak in tree[1]]


def _ended(sandbox: Sandbox) -> Probe:
    """A program that holds on to life is gone at its limit, and the next one runs."""
    why = sandbox.calls(Program((_ENDLESS,)), "probe", [Call()], _STUCK).outcome.why
    after = sandbox.calls(Program(("def probe(): return []",)), "probe", [Call()], _LIMITS)
    leaks = ([] if why == "timeout" else [f"it {why}"]) + _said(after)
    return Probe("end when told", not leaks, "; ".join(leaks), unsure=why == "timeout" and _starved(after))


def _apart(sandbox: Sandbox) -> Probe:
    """Tests in a process of their own accept what is right and nothing else."""
    tests = "assert add(1, 2) == 3"
    asked = {"entry": "add", "prelude": "", "partial": False}
    ran = [sandbox.tests(Program((f"def add(a, b): return a {sign} b",)), tests, _LIMITS, **asked) for sign in "+-"]
    good, bad = (one.said for one in ran)
    late = any("timeout" in (one.tests.why, one.program.why if one.program else "") for one in ran)
    held = good is not None and good["first"] is None and good["passed"] == 1 and bad is not None and bad["passed"] == 0
    return Probe("tests apart", held, "" if held else f"right: {good}; wrong: {bad}"[:300], unsure=late and not held)


def _cache_file(tier: Tier) -> Path | None:
    """Where it is remembered; the name changes with the boot, the code, the interpreter and the user."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    code = hashlib.blake2b(b"".join(path.read_bytes() for path in sources), digest_size=8).hexdigest()
    namespaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt")]  # noqa: PTH115 - no path
    parts = [boot, tier, code, sys.executable, sys.version, str(os.geteuid()), *namespaces]
    key = hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
    return user_cache_path("led_agent") / "sandbox" / f"{tier}-{key}.json"
