"""Programs try to get out of the sandbox, to spoil it for the next program, and to outlive it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from posttrain.rewards.code.sandbox import (
    ENVIRONMENT,
    Ended,
    Sandbox,
    SandboxCrashed,
    SandboxPool,
    SandboxSettings,
    SandboxUnavailable,
    run_script,
)

ROOT = Path(__file__).parents[3]
SYSTEM_PYTHON = "/usr/bin/python3"
SMALL = {"memory_mb": 256, "disk_mb": 8, "processes": 8, "output_kb": 64}


def has_system_python() -> bool:
    if not Path(SYSTEM_PYTHON).exists():
        return False
    command = [SYSTEM_PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    return subprocess.run(command, check=False).returncode == 0


needs_system_python = pytest.mark.skipif(
    not has_system_python(), reason=f"needs {SYSTEM_PYTHON} of 3.11 or later, which every user can read"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    try:
        pool = SandboxPool(SandboxSettings(timeout_s=4, **SMALL), workers=1)
    except SandboxUnavailable as error:
        pytest.skip(f"this machine cannot isolate programs: {error}")
    yield pool
    pool.close()


@pytest.fixture
def sandbox(pool: SandboxPool) -> Iterator[Sandbox]:
    """The same sandbox for every test; afterwards nothing is left in it, and the next program runs."""
    sandbox = pool._idle[0]
    yield sandbox
    assert len(descendants(sandbox.process.pid)) == 1, "only the server is left"
    assert run(sandbox, "import os; print(input(), os.listdir())", given="next").output == b"next []\n"


def run(sandbox: Sandbox, source: str, given: str = "") -> Ended:
    return run_script(sandbox, source, given)


def descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *descendants(int(child))]
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_program_is_an_ordinary_program(sandbox: Sandbox) -> None:
    source = """
import atexit, sys, threading
from dataclasses import dataclass
@dataclass
class Point:
    x: int
def late():
    print(Point(int(input()) + 1), sys.stdin.read())
atexit.register(print, "bye")
print("naïve", end="\\n")
if __name__ == "__main__":
    threading.Thread(target=late).start()
    sys.exit()
"""
    ended = run(sandbox, source, given="1\nrest")
    assert ended == Ended(0, "naïve\nPoint(x=2) rest\nbye\n".encode(), "")


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("raise ValueError", 1),
        ("exit()", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('why')", 1),
        ("import os; os._exit(7)", 7),
        ("def broken(", 1),
        ("import ctypes; ctypes.string_at(0)", -11),
    ],
)
def test_the_exit_status_is_the_programs(sandbox: Sandbox, source: str, status: int) -> None:
    assert run(sandbox, source).status == status


def test_only_the_interpreter_can_be_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    secret.chmod(0o644)
    source = f"""
import os
paths = ({str(secret)!r}, {__file__!r}, "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/sys", "/host", "/dev/kmsg")
print([path for path in paths if os.path.exists(path)], os.getuid() == 0, sorted(os.environ))
"""
    environment = sorted({"HOME", "TMPDIR", *ENVIRONMENT})
    assert run(sandbox, source).output.decode() == f"[] False {environment}\n"


def test_nothing_outside_can_be_written(sandbox: Sandbox) -> None:
    target = f"/dev/shm/escaped-{os.getpid()}"
    source = f"""
import os
folders = ["/", "/dev", "/usr", "/usr/lib", os.path.dirname(os.__file__), {str(ROOT)!r}, "/root", "/home"]
for path in [*(os.path.join(folder, "escaped") for folder in folders), os.__file__]:
    try:
        open(path, "r+" if path == os.__file__ else "w")
    except OSError:
        continue
    print(path)
open({target!r}, "w").write("in the private folder")
"""
    assert run(sandbox, source) == Ended(0, b"", "")
    assert not Path(target).exists()
    assert not (ROOT / "escaped").exists()


def test_no_connection_reaches_a_listener(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0posttrain-{os.getpid()}")
        abstract.listen()
        listener.setblocking(False)
        abstract.setblocking(False)
        source = f"""
import socket
for family, address in (
    (socket.AF_INET, {listener.getsockname()!r}),
    (socket.AF_INET, ("127.0.0.2", {listener.getsockname()[1]})),
    (socket.AF_UNIX, "\\0posttrain-{os.getpid()}"),
):
    try:
        socket.socket(family).connect(address)
    except OSError:
        continue
    print("connected", address)
for family in (socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    try:
        socket.socket(family, socket.SOCK_STREAM if family == socket.AF_VSOCK else socket.SOCK_RAW)
    except OSError:
        continue
    print("opened", family)
"""
        assert run(sandbox, source) == Ended(0, b"", "")
        for server in (listener, abstract):
            with pytest.raises(BlockingIOError):
                server.accept()


def test_no_privileges_can_be_gained(sandbox: Sandbox) -> None:
    source = """
import ctypes, os
libc = ctypes.CDLL(None)
print(libc.unshare(0x10000000), libc.unshare(0x20000), libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b""))
print(libc.memfd_create(b"memory", 0), libc.shmget(1, 1 << 20, 0o1777), libc.ptrace(0, 0, 0, 0))
CLONE_NEWUSER, SIGCHLD = 0x10000000, 17
pid = libc.syscall(56 if os.uname().machine == "x86_64" else 220, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
print(pid)
for action in (lambda: os.setuid(0), lambda: os.chroot("/tmp"), lambda: os.mknod("/tmp/disk", 0o60600, 0x100)):
    try:
        action()
    except OSError:
        continue
    print("gained")
"""
    assert run(sandbox, source).output == b"-1 -1 -1\n-1 -1 -1\n-1\n"


def test_a_fork_bomb_is_bounded_and_goes_with_the_program(sandbox: Sandbox) -> None:
    source = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    started = time.monotonic()
    assert run(sandbox, source) == Ended(-9, b"", "timed_out")
    assert time.monotonic() - started < 10
    assert len(descendants(sandbox.process.pid)) == 1
    assert run(sandbox, "print('next')") == Ended(0, b"next\n", "")
    count = """
import os
children = 0
try:
    while os.fork():
        children += 1
    import time
    time.sleep(60)
except BlockingIOError:
    print(children)
"""
    ended = run(sandbox, count)
    assert ended.stopped == ""
    assert 1 <= int(ended.output) <= SMALL["processes"] + 2


def test_memory_is_bounded(sandbox: Sandbox) -> None:
    source = """
try:
    block = bytearray(1 << 30)
except MemoryError:
    print("large")
blocks = []
try:
    while True:
        blocks.append(bytearray(1 << 20))
except MemoryError:
    del blocks
    print("small")
"""
    assert run(sandbox, source).output == b"large\nsmall\n"


def test_the_disk_is_bounded(sandbox: Sandbox) -> None:
    source = """
import os
block, written = bytes(1 << 20), 0
try:
    for number in range(1000):
        with open(f"/tmp/{number}", "wb") as file:
            written += file.write(block)
except OSError as error:
    print(error.errno, written >> 20)
try:
    os.unlink("/tmp/0")
    for number in range(100_000):
        open(f"/tmp/empty-{number}", "w").close()
except OSError as error:
    print(error.errno)
"""
    ended = run(sandbox, source)
    assert ended.output == b"28 8\n28\n"


def test_endless_output_is_cut(sandbox: Sandbox) -> None:
    started = time.monotonic()
    ended = run(sandbox, "import os\nwhile True:\n    os.write(1, b'x' * 65536)")
    assert ended.stopped == "output_too_long"
    assert len(ended.output) == SMALL["output_kb"] << 10
    assert time.monotonic() - started < 4
    caught = "while True:\n    try:\n        print('x' * 1000)\n    except BaseException:\n        pass"
    assert run(sandbox, caught).stopped == "output_too_long"


def test_nothing_outlives_the_deadline() -> None:
    sandbox = Sandbox(SandboxSettings(timeout_s=1, **SMALL))
    source = """
import os, signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
while True:
    try:
        time.sleep(1000)
    except BaseException:
        pass
"""
    started = time.monotonic()
    ended = run(sandbox, source)
    assert (ended.status, ended.stopped) == (-9, "timed_out")
    assert 1 <= time.monotonic() - started < 5
    assert len(descendants(sandbox.process.pid)) == 1
    sandbox.close()


def test_a_daemon_ends_with_its_program(sandbox: Sandbox) -> None:
    source = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
print("done")
"""
    assert run(sandbox, source) == Ended(0, b"done\n", "")


def test_nobody_else_can_be_killed(sandbox: Sandbox) -> None:
    server = sandbox.process.pid
    source = f"""
import os, signal
for target in (os.getppid(), {os.getpid()}, {server}, {descendants(server)[0]}, 2, 3, 4, 5, 6, 7, -1):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            if target:
                os.kill(target, number)
        except OSError:
            pass
print("alive", os.getppid())
"""
    assert run(sandbox, source) == Ended(0, b"alive 0\n", "")
    assert sandbox.process.poll() is None


def test_a_program_leaves_nothing_to_the_next(sandbox: Sandbox) -> None:
    spoil = """
import builtins, json, os, sys
os.environ["SPOILT"] = "1"
builtins.len = json.dumps = sys.modules["math"] = None
sys.path.clear()
open("/tmp/left", "w").write("here")
os.umask(0o777)
os.nice(1)
"""
    look = """
import json, math, os
print(len("abc"), json.dumps(1), math.sqrt(4), os.environ.get("SPOILT"), os.listdir("/tmp"), os.umask(0o22), os.nice(0))
"""
    before = run(sandbox, look)
    assert run(sandbox, spoil).status == 0
    assert run(sandbox, look) == before


def test_del_that_raises_is_no_failure(sandbox: Sandbox) -> None:
    source = """
class Loud:
    def __del__(self):
        raise SystemExit(9)
loud = Loud()
del loud
keep = Loud()
print("done")
"""
    assert run(sandbox, source) == Ended(0, b"done\n", "")


def test_the_server_ends_with_its_owner() -> None:
    source = (
        "from posttrain.rewards.code.sandbox import *; import time\n"
        "sandbox = Sandbox(SandboxSettings()); print(sandbox.process.pid, flush=True)\n"
        "run_script(sandbox, 'while True: pass', '')\n"
    )
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        assert wait_until(lambda: len(descendants(server)) >= 2), "the program has started"
        pids = [server, *descendants(server)]
        owner.kill()
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_a_server_that_dies_is_replaced() -> None:
    pool = SandboxPool(SandboxSettings(timeout_s=5), workers=1)
    first = pool._idle[0]
    os.kill(descendants(first.process.pid)[0], 9)
    results = pool.map(lambda sandbox, number: run(sandbox, f"print({number})"), [1, 2])
    assert isinstance(results[0], SandboxCrashed)
    assert results[1] == Ended(0, b"2\n", "")
    pool.close()


def test_a_closed_pool_starts_again_and_leaves_no_process() -> None:
    pool = SandboxPool(SandboxSettings(), workers=2)
    pids = [pool._idle[0].process.pid, *descendants(pool._idle[0].process.pid)]
    pool.close()
    assert wait_until(lambda: not any(map(is_running, pids)))
    results = pool.map(lambda sandbox, number: run(sandbox, f"print({number})").output, range(20))
    assert results == [f"{number}\n".encode() for number in range(20)]
    pool.close()


def test_where_namespaces_are_refused_it_says_why() -> None:
    source = (
        "from posttrain.rewards.code.sandbox import *\n"
        "try:\n    SandboxPool(SandboxSettings(), 1)\n"
        "except SandboxUnavailable as error:\n    print(error)\n"
    )
    command = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", command, sys.executable, source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        pytest.skip(f"unshare or the setting cannot be used here: {ran.stderr}")
    assert "unshare: " in ran.stdout
    assert "isolation: rlimits_only" in ran.stdout


def test_an_interpreter_that_is_not_there_or_hidden(tmp_path: Path) -> None:
    if str(tmp_path).startswith("/tmp/"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
        with pytest.raises(SandboxUnavailable, match="a /tmp of their own"):
            SandboxPool(SandboxSettings(python=f"{tmp_path}/bin/python"), workers=1)
    with pytest.raises(SandboxUnavailable, match="/no/python"):
        SandboxPool(SandboxSettings(python="/no/python"), workers=1)


def test_the_self_test_notices_what_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.rewards.code.sandbox.ESCAPE", "print('read a file outside')\nprint('done')\n")
    with pytest.raises(SandboxUnavailable, match="read a file outside"):
        SandboxPool(SandboxSettings(), workers=1)


@needs_system_python
@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run without privileges already")
@pytest.mark.parametrize("isolation", ["namespaces", "rlimits_only"])
def test_a_user_without_privileges_has_a_sandbox(isolation: str) -> None:
    source = (
        "from posttrain.rewards.code.sandbox import *\n"
        f"pool = SandboxPool(SandboxSettings(isolation={isolation!r}), 1)\n"
        "print(pool.map(lambda sandbox, item: run_script(sandbox, item, ''), ['import os; print(os.getuid())']))\n"
    )
    if not os.access(ROOT, os.R_OK | os.X_OK) or not all(parent.stat().st_mode & 1 for parent in (ROOT, *ROOT.parents)):
        pytest.skip("other users cannot read this repository")
    ran = subprocess.run(
        [SYSTEM_PYTHON, "-c", source], cwd=ROOT, user=1234, group=1234, extra_groups=[], capture_output=True, text=True
    )
    assert ran.stdout == "[Ended(status=0, output=b'1234\\n', stopped='')]\n", ran.stderr


@needs_system_python
def test_rlimits_only_keeps_the_limits_and_reaps() -> None:
    settings = SandboxSettings(isolation="rlimits_only", python=SYSTEM_PYTHON, timeout_s=2, **SMALL)
    pool = SandboxPool(settings, workers=1)
    sandbox = pool._idle[0]
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\nprint(os.getcwd())"
    ended = run(sandbox, daemon)
    folder = Path(ended.output.decode().strip())
    assert (ended.status, ended.stopped) == (0, "")
    assert descendants(sandbox.process.pid) == []
    assert folder.name.startswith("posttrain-")
    assert not folder.exists()
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    assert run(sandbox, bomb).stopped == "timed_out"
    assert descendants(sandbox.process.pid) == []
    limits = (
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('memory')\nimport os\nprint(os.getuid() == 0)"
    )
    assert run(sandbox, limits).output == b"memory\nFalse\n"
    pool.close()
