"""Programs that try to cheat the sandbox, and correct ones that are easily mistaken for such.

The task is ``add(a, b)``, called with (1, 2), (0, 0) and (3, 4); each row is a name, what the program tries, and its
source. ``HOSTILE`` must be rejected, ``CORRECT`` accepted, ``SCRATCH`` accepted where there is a scratch folder and
otherwise accepted or abstained on. ``STUCK`` must be rejected, and takes its whole time limit.
"""

# ruff: noqa: E501 - each program is one line
from __future__ import annotations

from typing import NamedTuple

__all__ = ["CORRECT", "EXACT", "HOSTILE", "SCRATCH", "STUCK", "TESTED", "Row", "Tested"]


class Row(NamedTuple):
    """A program for the task."""

    name: str
    tries: str
    source: str


class Tested(NamedTuple):
    """A program with tests of its own, and the verdicts that may come of it."""

    name: str
    tries: str
    source: str
    tests: str
    verdicts: tuple[str, ...]


_WRONG = "\ndef add(a, b):\n    return None\n"
_LIBC = "import ctypes, os, signal, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"

# --- resources ------------------------------------------------------------------------------------------------------

_RESOURCES = [
    Row("list bomb", "fill memory by objects", "x = []\nwhile True: x.append([0] * 100000)"),
    Row("string bomb", "double a string without end", "x = 'x'\nwhile True: x += x"),
    Row("bomb survived", "catch the MemoryError, then be wrong", "x = []\ntry:\n    while True: x.append(bytearray(1 << 24))\nexcept MemoryError: x = None" + _WRONG),
    Row("huge tuple", "one enormous allocation", "x = (None,) * (1 << 33)" + _WRONG),
    Row("shared memory", "anonymous shared pages, which no limit on the heap counts", "import mmap\nx = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 26); m.write(bytes(1 << 26)); x.append(m)"),
    Row("decompression bomb", "small input, large output", "import zlib\nd = zlib.compress(bytes(1 << 26), 9)\nx = [zlib.decompress(d) for _ in range(1000)]" + _WRONG),
    Row("recursion in C", "nest what a C function walks", "import json\nx = []\nfor _ in range(10**6): x = [x]\nimport sys; sys.setrecursionlimit(10**9)\nrepr(x); json.dumps(x)" + _WRONG),
    Row("parser bomb", "crash the compiler", "x = eval('(' * 100000 + ')' * 100000)" + _WRONG),
    Row("deep source", "crash the compiler of the program itself", "x = " + "-" * 50000 + "1" + _WRONG),
    Row("thread bomb", "threads with tiny stacks", "import threading, time\nthreading.stack_size(32768)\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n    except RuntimeError: pass"),
    Row("pipe buffers", "memory of the kernel, by pipes", "import os\np = []\ntry:\n    while True:\n        r, w = os.pipe(); os.set_blocking(w, False); p.append(os.write(w, bytes(1 << 20)))\nexcept OSError: pass" + _WRONG),
    Row("socket pairs", "memory of the kernel, by sockets", "import socket\np = []\ntry:\n    while True:\n        a, b = socket.socketpair(); a.setblocking(False); a.send(bytes(1 << 20)); p += [a, b]\nexcept OSError: pass" + _WRONG),
    Row("raw thread with its own files", "clone(CLONE_THREAD) without CLONE_FILES multiplies the limit on files", _LIBC + "x = ctypes.create_string_buffer(1 << 16)\nr = libc.syscall(56, 0x10900, ctypes.addressof(x) + 65000, None, None, None)\nif r == 0: libc.syscall(60, 0)" + _WRONG),
    Row("empty files", "inodes, which no quota of bytes counts", "import os\ntry:\n    for n in range(10**6): os.close(os.open(f'./f{n}', os.O_CREAT | os.O_WRONLY))\nexcept OSError: pass" + _WRONG),
    Row("files with long names", "memory by names", "import os\nfor n in range(150):\n    try: os.mkdir('n' * 240 + str(n))\n    except OSError: pass" + _WRONG),
    Row("deep folders", "leave folders that a recursive removal fails on", "import os\ntry:\n    for _ in range(1500): os.mkdir('d'); os.chdir('d')\nexcept OSError: pass" + _WRONG),
    Row("closed folder", "leave a folder that nobody may remove", "import os\nos.umask(0o777)\ntry:\n    os.mkdir('x', 0); os.mkdir('y'); os.umask(0); os.mkdir('z'); os.mkdir('z/a'); os.umask(0o777); os.mkdir('z/b')\nexcept OSError: pass" + _WRONG),
    Row("sparse file", "a file of great size and no content", "import os\ntry:\n    with open('s', 'wb') as f: f.truncate(1 << 40)\nexcept OSError: pass" + _WRONG),
    Row("flood of output", "fill the caller's memory by standard output", "import sys\nwhile True: sys.stdout.write('x' * 65536); sys.stderr.write('y' * 65536)"),
    Row("lines without end", "a result that never ends its line", "import os\nwhile True: os.write(3, b'[' * 65536)"),
    Row("flood of the link", "the same to the tests", "import os\nwhile True: os.write(4, b'{' * 65536)"),
    Row("huge int", "a number that takes long to print", "def add(a, b): return 7 ** 2000000"),
    Row("huge string", "a value over the limit", "def add(a, b): return 'x' * (1 << 24)"),
    Row("endless iterator", "a value that is never read out", "import itertools\ndef add(a, b): return itertools.chain.from_iterable(iter(lambda: [1], 2))"),
    Row("colliding set", "hashes that make building a set take forever", "def add(a, b): return {n * (2 ** 61 - 1) for n in range(200)} | {str}"),
    Row("deep value", "a value nested without end", "def add(a, b):\n    x = ()\n    for _ in range(100000): x = (x,)\n    return x"),
    Row("value in itself", "a value that contains itself", "def add(a, b):\n    x = []; x.append(x); return x"),
]  # fmt: skip

STUCK = [
    Row("busy", "ignore every signal and compute", "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"),
    Row("power", "a C loop that holds the interpreter's lock", "x = 3 ** (10 ** 9)" + _WRONG),
    Row("regex", "backtrack without end", "import re\nre.match(r'(a|aa)+$', 'a' * 500 + 'b')" + _WRONG),
    Row("sleep", "wait", "import time\ndef add(a, b): time.sleep(1000); return a + b"),
    Row("deadlock", "wait for itself", "import threading\nl = threading.Lock(); l.acquire()\ndef add(a, b): l.acquire()"),
    Row("stop", "stop itself", "import os, signal\ndef add(a, b): os.kill(os.getpid(), signal.SIGSTOP)"),
    Row("leaderless", "end the main thread alone", _LIBC + "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\nlibc.syscall(60 if os.uname().machine == 'x86_64' else 93, 0)"),
    Row("swallow", "catch what would end it", "def add(a, b):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass"),
    Row("drip", "answer slowly", "import os, time\nwhile True: os.write(3, b' '); time.sleep(0.01)"),
]  # fmt: skip

# --- processes, signals, crashes ------------------------------------------------------------------------------------

_PROCESSES = [
    Row("fork", "leave a process", _LIBC + "import time\ntry:\n    if os.fork() == 0:\n        os.setsid(); time.sleep(60); os._exit(0)\nexcept OSError: pass" + _WRONG),
    Row("raw fork", "fork behind Python's back", _LIBC + "for n in (56, 57, 58, 435):\n    r = libc.syscall(n, 0, 0, 0, 0, 0) if n != 435 else libc.syscall(n, ctypes.create_string_buffer(88), 88)\n    if r == 0: libc.pause()" + _WRONG),
    Row("posix_spawn", "start a shell", "import os\ntry: os.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 60'], {})\nexcept OSError: pass" + _WRONG),
    Row("subprocess", "start Python", "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])" + _WRONG),
    Row("multiprocessing", "start processes by the library", "import multiprocessing\nmultiprocessing.Process(target=print).start()" + _WRONG),
    Row("memfd and exec", "run a program out of memory", "import os\nfd = os.memfd_create('x'); os.write(fd, b'#!/bin/sh\\n'); os.execve(fd, ['x'], {})" + _WRONG),
    Row("daemon threads", "go on writing after the last answer", "import os, threading\ndef go():\n    while True:\n        for fd in (3, 4):\n            try: os.write(fd, b'{\"value\":[\"i\",\"3\"]}\\n')\n            except OSError: pass\ndef add(a, b):\n    threading.Thread(target=go, daemon=True).start()"),
    Row("kill all", "signal everybody", "import os\nfor p in (-1, 0, 1, os.getppid(), -os.getppid()):\n    try: os.kill(p, 9)\n    except OSError: pass" + _WRONG),
    Row("other signals", "tgkill, tkill, rt_sigqueueinfo, pidfd_send_signal", _LIBC + "p = os.getppid()\nb = ctypes.create_string_buffer(128)\nlibc.syscall(234, p, p, 9); libc.syscall(200, p, 9); libc.syscall(129, p, 9, b); libc.syscall(297, p, p, 9, b)\nfd = libc.syscall(434, p, 0); libc.syscall(424, fd, 9, None, 0)" + _WRONG),
    Row("signal by files", "have the kernel signal the parent", "import fcntl, os\nr, w = os.pipe()\ntry:\n    fcntl.fcntl(r, 8, os.getppid()); fcntl.fcntl(r, 10, 9); fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nexcept OSError: pass\nos.write(w, b'x')" + _WRONG),
    Row("segfault", "read address 0", _LIBC + "def add(a, b): ctypes.string_at(0)"),
    Row("segfault at once", "read address 0 while it loads", _LIBC + "ctypes.string_at(0)"),
    Row("abort", "abort", "import os\ndef add(a, b): os.abort()"),
    Row("faulthandler", "crash with a report", "import faulthandler\nfaulthandler.enable()\nfaulthandler._sigsegv()"),
    Row("stack overflow in C", "sort calls sort", "import sys\nsys.setrecursionlimit(10**9)\nclass K:\n    def __lt__(self, o): return sorted([K(), K()])\ndef add(a, b): return sorted([K(), K()])"),
    Row("exit at once", "end with status 0", "import os\nos._exit(0)"),
    Row("exit in a call", "end with status 0 in the first call", "import os\ndef add(a, b): os._exit(0)"),
    Row("exit in the last call", "end after two right answers", "import os\ndef add(a, b):\n    if a == 3: os._exit(0)\n    return a + b"),
    Row("exit in a thread", "SystemExit elsewhere", "import threading, sys\nthreading.Thread(target=sys.exit).start()" + _WRONG),
    Row("keyboard", "KeyboardInterrupt", "def add(a, b): raise KeyboardInterrupt"),
    Row("kill itself", "end by a signal", "import os\ndef add(a, b): os.kill(os.getpid(), 9)"),
    Row("close all", "close every descriptor", "import os\nos.closerange(0, 100)" + _WRONG),
    Row("dup over", "put others in their places", "import os\nr, w = os.pipe()\nfor fd in range(5): os.dup2(r, fd)\nos.write(w, b'{\"loaded\":true}\\n')" + _WRONG),
]  # fmt: skip

# --- secrets and network: nothing may reach the listeners ------------------------------------------------------

_SECRETS = [
    Row("environment", "read it", "import os\nif os.environ: print(os.environ)\nfor p in ('self', '1', str(os.getppid())):\n    try: print(open(f'/proc/{p}/environ').read())\n    except OSError: pass" + _WRONG),
    Row("memory of others", "process_vm_readv and ptrace", _LIBC + "b = ctypes.create_string_buffer(64)\nv = (ctypes.c_size_t * 2)(ctypes.addressof(b), 64)\nlibc.process_vm_readv(os.getppid(), v, 1, v, 1, 0); libc.ptrace(16, os.getppid(), 0, 0)\ntry: open(f'/proc/{os.getppid()}/mem', 'rb')\nexcept OSError: pass" + _WRONG),
    Row("sockets of all families", "reach anybody", "import socket\nfor family in range(1, 46):\n    for kind in (1, 2, 3, 5):\n        try: s = socket.socket(family, kind)\n        except OSError: continue\n        raise SystemExit(f'family {family}')" + _WRONG),
    Row("name service", "send a question out", "import socket\nsocket.setdefaulttimeout(0.2)\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError: pass" + _WRONG),
    Row("kernel's back doors", "bpf, perf, userfaultfd, keyctl, io_uring, mounts, namespaces", _LIBC + "b = ctypes.create_string_buffer(256)\nfor n in (321, 298, 323, 248, 249, 250, 425, 165, 161, 272, 308, 155, 101, 175, 246, 319, 304, 303, 438, 310, 311, 428, 429, 430, 442):\n    if libc.syscall(n, b, b, b, 0, 0) >= 0: os.kill(os.getpid(), 9)" + _WRONG),
    Row("terminal", "push input to the terminal", "import fcntl, os\ntry:\n    for c in b'ls\\n': fcntl.ioctl(0, 0x5412, bytes([c]))\nexcept OSError: pass" + _WRONG),
    Row("links", "leave links to what is outside", "import os\nfor how in (os.symlink, os.link):\n    for name in ('tests.py', 'result.json'):\n        try: how('/etc/passwd', name); print(open(name).read())\n        except OSError: pass" + _WRONG),
    Row("descriptors", "use what was inherited", "import os\nfor fd in range(5, 256):\n    try: os.fstat(fd)\n    except OSError: continue\n    os.write(fd, b'x')" + _WRONG),
    Row("frames", "look for the answer in callers' variables", "import sys\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n        for k, v in list(f.f_locals.items()):\n            if k in ('expect', 'expected', 'want', 'nonce', 'tests'): return v\n        f = f.f_back"),
    Row("gc", "look for the answer among all objects", "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n        if type(o) is dict and ('expect' in o or 'nonce' in o or 'tests' in o): return a + b"),
    Row("trace", "watch the runner's frames", "import sys, threading\nseen = []\ndef t(frame, event, arg):\n    seen.append(dict(frame.f_locals)); return t\nsys.settrace(t); sys.setprofile(t)\ndef add(a, b): return next((v for s in seen for k, v in s.items() if k in ('expect', 'expected', 'want')), None)"),
]  # fmt: skip

# --- forged verdicts ------------------------------------------------------------------------------------------------

_FORGED = [
    Row("lines before", "right values before the runner's own lines", "import os\nfor fd in (3, 4):\n    try: os.write(fd, b'{\"loaded\":true,\"names\":[\"add\"]}\\n{\"value\":[\"i\",\"3\"]}\\n{\"value\":[\"i\",\"0\"]}\\n{\"value\":[\"i\",\"7\"]}\\n')\n    except OSError: pass" + _WRONG),
    Row("lines after", "right values, and then more", "import os\ndef add(a, b):\n    if a == 3:\n        for fd in (3, 4):\n            try: os.write(fd, b'{\"value\":[\"i\",\"7\"]}\\n' * 3)\n            except OSError: pass\n    return a + b if a != 3 else None"),
    Row("a line too many", "right answers, and a line that nobody asked for", "import os\ndef add(a, b):\n    for fd in (3, 4):\n        try: os.write(fd, b'{\"value\":[\"i\",\"%x\"]}\\n' % (a + b))\n        except OSError: pass\n    return a + b"),
    Row("verdict", "the tests' own line", "import os\nfor fd in (1, 2, 3, 4):\n    try: os.write(fd, b'{\"nonce\":\"\",\"asserts\":3,\"total\":3,\"passed\":3,\"first\":null,\"calls\":3}\\n')\n    except OSError: pass" + _WRONG),
    Row("odd replies", "replies of other kinds", "import os\nfor line in (b'{\"callable\":true}', b'{\"args\":[],\"value\":null}', b'null', b'[]', b'NaN', b'{\"value\":[\"h\",\"ffffffff\",\"int\"]}', b'\\xff\\xfe'):\n    for fd in (3, 4):\n        try: os.write(fd, line + b'\\n')\n        except OSError: pass" + _WRONG),
    Row("close the link", "close the link and go on", "import os\ndef add(a, b):\n    for fd in (3, 4):\n        try: os.close(fd)\n        except OSError: pass\n    return a + b"),
    Row("float for int", "3.0 is 3", "def add(a, b): return float(a + b) + (0.5 if a == 3 else 0)"),
    Row("int's subclass", "equal to everything", "class Y(int):\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n    __hash__ = lambda s: 0\n    __sub__ = __rsub__ = lambda s, o: 0\ndef add(a, b): return Y(0)"),
    Row("object", "equal to everything and true, whatever it is asked", "class Y:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n    def __bool__(s): return True\n    def __len__(s): return 3\n    def __contains__(s, o): return True\n    __class__ = int\n    __hash__ = lambda s: 0\ndef add(a, b): return Y()"),
    Row("metaclass", "a type that claims to be int", "class M(type):\n    __eq__ = lambda c, o: True\n    __hash__ = lambda c: hash(int)\n    __instancecheck__ = __subclasscheck__ = lambda c, o: True\nclass Y(metaclass=M):\n    __eq__ = lambda s, o: True\n    __hash__ = None\n    def __format__(s, f): return 'zz'\ndef add(a, b): return Y()"),
    Row("class for function", "the answer is an object of class add", "class add:\n    def __init__(s, a, b): pass\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0\n    __hash__ = None"),
    Row("str's subclass", "a text that is equal to all", "class S(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\ndef add(a, b): return S('3')"),
    Row("builtins", "patch what a comparison would use", "import builtins, json, math, operator\nfor m, n in ((builtins, 'isinstance'), (builtins, 'all'), (builtins, 'len'), (operator, 'eq'), (math, 'isclose')): setattr(m, n, lambda *a, **k: True)\njson.dumps = lambda *a, **k: '{\"value\":true}'" + _WRONG),
    Row("inside", "patch the runner's modules", "import sys\nfor name in list(sys.modules):\n    if name.startswith('inside'):\n        m = sys.modules[name]\n        for k in ('encode', 'same', 'check', 'dumps', 'decode'):\n            if hasattr(m, k): setattr(m, k, lambda *a, **k: b'{\"value\":true}\\n')" + _WRONG),
    Row("os.write", "patch the way out", "import os\nos.write = lambda fd, b: len(b)\nos._exit = lambda n: None" + _WRONG),
    Row("AssertionError", "raise what a runner might take for its own", "def add(a, b): raise AssertionError"),
    Row("SkipTest", "ask to be skipped", "import unittest\ndef add(a, b): raise unittest.SkipTest('x')"),
    Row("StopIteration", "end the runner's loop", "def add(a, b): raise StopIteration"),
    Row("GeneratorExit", "end the runner's generator", "def add(a, b): raise GeneratorExit"),
    Row("hostile exception", "an exception that can't be shown", "class E(BaseException):\n    def __str__(s): raise E\n    __repr__ = __str__\ndef add(a, b): raise E"),
    Row("surrogates", "a message that is no text", "def add(a, b): raise ValueError('\\ud800' * 10)"),
    Row("surrogates at once", "the same while it loads", "raise ValueError('\\ud800')"),
    Row("surrogate value", "a value that is no text", "def add(a, b): return ['\\udfff', float('nan'), -0.0, float('inf'), 1 << 5000]"),
    Row("generator", "an iterator for a value", "def add(a, b): yield a + b"),
    Row("function", "a function for a value", "def add(a, b): return lambda: a + b"),
    Row("coroutine", "a coroutine for a value", "async def add(a, b): return a + b"),
    Row("atexit", "exit handlers", "import atexit, os\natexit.register(os._exit, 0)" + _WRONG),
    Row("left files", "leave modules for the next run", "for n in ('json', 'solution', 'sitecustomize', 'tests', 'bisect', 'inside', 'colorsys'):\n    try: open(n + '.py', 'w').write('raise SystemExit')\n    except OSError: pass" + _WRONG),
    Row("hash and gc hooks", "callbacks of the interpreter", "import gc, sys, os\ngc.callbacks.append(lambda *a: os._exit(0)); sys.addaudithook(lambda *a: None); gc.collect()" + _WRONG),
    Row("no such function", "define nothing", "x = 1"),
    Row("no Python", "no program", "def add(a, b) return a + b"),
]  # fmt: skip

HOSTILE = _RESOURCES + _PROCESSES + _SECRETS + _FORGED

# With calls only: to an assert, False == 0, as Python says.
EXACT = [Row("bool for int", "False is 0", "def add(a, b): return {3: 3, 0: False, 7: 7}[a + b]")]

# --- with tests of their own ----------------------------------------------------------------------------------------

TESTED = [
    Tested("difference", "answer 0 to every difference", "class Y:\n    def __sub__(s, o): return 0\n    __rsub__ = __sub__\ndef half(x): return Y()", "assert abs(half(3) - 1.5) < 1e-6\nassert abs(1.0 - half(2)) < 1e-6", ("rejected",)),
    Tested("difference by class", "the same by a class", "class half:\n    def __init__(s, x): pass\n    def __sub__(s, o): return 0", "assert abs(half(3) - 1.5) < 1e-6", ("rejected", "abstained")),
    Tested("bare except", "end in a call whose exception the tests swallow", "import os\ndef f(x):\n    if x < 0: os._exit(0)\n    return x", "assert f(1) == 1\ntry:\n    f(-1)\n    raise SystemError\nexcept:\n    pass", ("rejected",)),
    Tested("shadow", "redefine names that the tests use", "def sorted(x): return [1, 2, 3]\nset = len = sorted\ndef f(x): return []", "assert sorted(f([3, 2, 1])) == [1, 2, 3]\nassert len(f([])) == 0", ("rejected",)),
    Tested("arguments", "empty the tests' own lists", "def f(x, y):\n    x.clear(); y.clear()", "want = [1]\nx = [1]\nassert f(x, want) == want", ("rejected",)),
    Tested("partial", "end half-way", "import os\ndef f(x):\n    if x > 1: os._exit(0)\n    return x", "assert f(1) == 1\nassert f(2) == 2", ("rejected",)),
    Tested("length", "an object of the right length", "class L:\n    __len__ = lambda s: 2\n    __eq__ = lambda s, o: True\n    __iter__ = lambda s: iter([9, 9])\ndef f(x): return L()", "assert f(1) == [1, 1]", ("rejected",)),
    Tested("membership", "a value that is in everything", "class L:\n    __eq__ = lambda s, o: True\n    __hash__ = lambda s: 1\ndef f(x): return L()", "assert f(1) in [1, 2]\nassert f(1) in {1: 1}", ("rejected",)),
    Tested("string", "a string that starts with anything", "class S(str):\n    startswith = lambda s, x: True\n    __eq__ = lambda s, o: True\ndef f(x): return S('')", "assert f('a') == 'aa'\nassert f('a').startswith('a')", ("rejected",)),
    Tested("solution module", "patch the module that tests import", "import sys, types\nm = types.ModuleType('solution'); m.f = lambda x: 2; sys.modules['solution'] = m\ndef f(x): return 1", "from solution import f\nassert f(1) == 2", ("rejected",)),
    Tested("class", "a class, as it should be", "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)", "s = Stack()\ns.push(1); s.push('a')\nassert len(s) == 2\nassert s.pop() == 'a' and s.items == [1]", ("accepted",)),
    Tested("in place", "a list changed in place, as it should be", "def f(x): x.sort()", "x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]", ("accepted",)),
    Tested("sum of objects", "operators between objects, as they should be", "class V:\n    def __init__(s, x): s.x = x\n    def __add__(s, o): return V(s.x + o.x)", "assert (V(1) + V(2)).x == 3", ("accepted",)),
    Tested("raises", "an exception that is asked for", "def f(x): raise ValueError('no \\u00e4')", "import pytest\nwith pytest.raises(ValueError, match='ä'): f(1)\nassert True", ("accepted",)),
]  # fmt: skip

# --- correct --------------------------------------------------------------------------------------------------------

CORRECT = [
    Row("plain", "nothing", "def add(a, b): return a + b"),
    Row("threads", "threads and queues", "from concurrent.futures import ThreadPoolExecutor\ndef add(a, b):\n    with ThreadPoolExecutor(8) as p: return sum(p.map(int, [a, b]))"),
    Row("asyncio", "an event loop", "import asyncio\nasync def go(a, b):\n    await asyncio.sleep(0.001)\n    return sum(await asyncio.gather(asyncio.to_thread(int, a), asyncio.to_thread(int, b)))\ndef add(a, b): return asyncio.run(go(a, b))"),
    Row("deep recursion", "5000 frames", "import sys\nsys.setrecursionlimit(20000)\ndef add(a, b, n=5000): return a + b if n == 0 else add(a, b, n - 1)"),
    Row("prints", "much output", "def add(a, b):\n    print('x' * 200000)\n    return a + b"),
    Row("imports", "the standard library", "import argparse, bisect, collections.abc, contextlib, csv, decimal, enum, fractions, functools, hashlib, heapq, html, inspect, io, itertools, json, logging, math, operator, pickle, pprint, queue, random, re, secrets, statistics, string, struct, textwrap, time, typing, unicodedata, urllib.parse, uuid, warnings, zoneinfo\nlogging.warning('x'); warnings.warn('y')\ndef add(a, b): return int(decimal.Decimal(a) + decimal.Decimal(b)) + 0 * len(secrets.token_hex(4) + str(uuid.uuid4()) + hashlib.sha256(b'x').hexdigest())"),
    Row("class Solution", "a method of a class", "class Solution:\n    def add(self, a: int, b: int) -> int: return a + b"),
    Row("main guard", "a guarded main", "def add(a, b): return a + b\nif __name__ == '__main__': raise SystemExit(add(1, 2))"),
    Row("keywords", "*args and **kwargs", "def add(*args, **kwargs): return sum(args) + sum(kwargs.values())"),
    Row("lambda and partial", "no def at all", "import functools, operator\nadd = functools.partial(operator.add)"),
    Row("future and dataclass", "annotations that are never evaluated", "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass(order=True, frozen=True)\nclass P:\n    a: int\n    b: Nowhere\ndef add(a, b): p = P(a, b); return p.a + p.b"),
    Row("state", "global state across calls", "import functools\ncalls = []\n@functools.cache\ndef add(a, b): calls.append(1); return a + b if len(calls) < 9 else None"),
    Row("pickle", "an own class pickled and read back", "import pickle\nclass P:\n    def __init__(s, a): s.a = a\ndef add(a, b): return pickle.loads(pickle.dumps(P(a))).a + b"),
    Row("catches", "every exception caught", "def add(a, b):\n    try: return a / 0\n    except Exception: pass\n    finally: a += 0\n    try: raise KeyboardInterrupt\n    except BaseException: return a + b"),
    Row("doctest and unicode", "text of all kinds", "def add(a, b):\n    '''>>> add(1, 2)\n    3\n    '''\n    é = '😀' * 3\n    return a + b + len(é) - 3"),
    Row("big ints", "large numbers on the way", "def add(a, b): return (a * 10 ** 3000 + b * 10 ** 3000) // 10 ** 3000"),
    Row("memory", "100 MiB for a moment", "def add(a, b): x = bytearray(100 << 20); return a + b + x[5]"),
]  # fmt: skip

SCRATCH = [
    Row("temporary file", "tempfile", "import tempfile\ndef add(a, b):\n    with tempfile.TemporaryFile('w+') as f: f.write(str(a + b)); f.seek(0); return int(f.read())"),
    Row("named file", "NamedTemporaryFile", "import tempfile\ndef add(a, b):\n    with tempfile.NamedTemporaryFile('w+') as f: f.write(str(a + b)); f.flush(); return int(open(f.name).read())"),
    Row("open", "a file in the working folder, left there", "def add(a, b):\n    with open('x.txt', 'w') as f: f.write(str(a + b))\n    return int(open('x.txt').read())"),
    Row("folder", "a temporary folder", "import os, tempfile\ndef add(a, b):\n    with tempfile.TemporaryDirectory() as d:\n        open(os.path.join(d, 'x'), 'w').close(); return a + b"),
]  # fmt: skip
