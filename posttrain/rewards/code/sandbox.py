"""Runs untrusted Python programs. This is the side outside the sandbox, with the clock, the tests' secret and the
verdict; ``sandbox_server`` is the side within."""

import json
import math
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import posttrain
from posttrain.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Stopped = Literal["", "timed_out", "output_too_long"]

START_LIMIT_S = 60.0
# How long the end of a killed program may take.
KILL_LIMIT_S = 10.0
# In place of a descriptor: what ``Sandbox.run`` reads.
OUTPUT = -1
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}

# Imports a module that the server has not (is the interpreter readable?), and prints every escape that succeeds.
ESCAPE = """
import ctypes, os, sched, socket
def attempt(name, action):
    try:
        action()
    except OSError:
        return
    print(name)
def make_user_namespace():
    if ctypes.CDLL(None).unshare(0x10000000) != 0:
        raise OSError
if ISOLATED:
    attempt("read a file outside", lambda: open(CANARY).read())
    attempt("write a file outside", lambda: open(CANARY, "r+"))
    attempt("write to the interpreter", lambda: open(os.__file__, "r+"))
    attempt("connect to a listener on loopback", lambda: socket.create_connection(("127.0.0.1", PORT), 1))
    attempt("open a socket to the machine's host", lambda: socket.socket(40, socket.SOCK_STREAM))
    attempt("make a user namespace", make_user_namespace)
    if os.getpid() != 1:
        print("see other processes")
if os.getuid() == 0:
    print("be root")
print("done")
"""


class SandboxUnavailable(UserError):
    """Programs cannot be isolated on this machine; the message says why, and what to do."""


class SandboxCrashed(Exception):
    """The sandbox failed, not the program in it."""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """What a program may do: keys of ``CodeReward``, free of pydantic for interpreters without it. Processor time is
    limited to a second more than ``timeout_s``. ``python``: 3.11 or later; "" is that of this virtual environment."""

    isolation: Literal["namespaces", "rlimits_only"] = "namespaces"
    timeout_s: float = 10.0
    memory_mb: int = 512
    disk_mb: int = 64
    processes: int = 16
    output_kb: int = 1024
    python: str = ""


@dataclass(slots=True)
class Ended:
    """Exit status (negative: a signal), what was written to ``OUTPUT``, and why the program was killed, if it was."""

    status: int
    output: bytes
    stopped: Stopped


class Sandbox:
    """One warm server, which runs one program at a time. It ends when this object, or this process, does.

    Raises:
        SandboxUnavailable: it could not isolate itself.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        if sys.platform != "linux":
            raise SandboxUnavailable("Programs can be isolated on Linux only.")
        self.settings = settings
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = self._start(theirs.fileno())
        except OSError as error:
            self._control.close()
            raise self._unavailable(error) from error
        try:
            self._control.settimeout(START_LIMIT_S)
            if self._receive()["state"] == "unshared":
                self._map_users()
                self._control.send(b"mapped")
                self._receive()
            self._control.setblocking(True)
        except (OSError, SandboxCrashed) as error:
            self.close()
            raise self._unavailable(error) from error

    @property
    def python(self) -> str:
        return self.settings.python or os.path.realpath(sys.executable)

    def _start(self, control: int) -> "subprocess.Popen[bytes]":
        values = asdict(self.settings) | {"cpu_s": math.ceil(self.settings.timeout_s) + 1}
        module = ["-P", "-s", "-X", "utf8", "-m", "posttrain.rewards.code.sandbox_server"]
        return subprocess.Popen(
            [self.python, *module, str(control), json.dumps(values)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[control],
            env={**ENVIRONMENT, "PYTHONPATH": str(Path(posttrain.__file__).parents[1])},
            start_new_session=True,
        )

    def _unavailable(self, error: Exception) -> SandboxUnavailable:
        return SandboxUnavailable(
            f"The code sandbox cannot start with {self.python} and isolation: {self.settings.isolation}: {error}. "
            "Namespaces need Linux 5.12 with libseccomp.so.2 and user namespaces (sysctl user.max_user_namespaces "
            "above 0, kernel.apparmor_restrict_unprivileged_userns 0; a container that allows unshare and mount). "
            "isolation: rlimits_only does without, and protects nothing: for code that you trust."
        )

    def _map_users(self) -> None:
        """In the server's user namespace there is this user; or, for root, root and the user nobody."""
        folder = Path(f"/proc/{self.process.pid}")
        others = [65534] if os.geteuid() == 0 else []
        if not others:
            (folder / "setgroups").write_text("deny")
        for kind, own in (("gid", os.getegid()), ("uid", os.geteuid())):
            (folder / f"{kind}_map").write_text("".join(f"{number} {number} 1\n" for number in [own, *others]))

    def run(self, programs: Sequence[tuple[str, Sequence[int]]], output_limit: int) -> Ended:
        """Run programs (role, and descriptors from 0 on, which this closes) until the first has ended, or time or
        output are spent; then all are gone.

        Raises:
            SandboxCrashed: the server failed, and this object is of no more use.
        """
        reader, writer = os.pipe()
        placed = [(role, [writer if number == OUTPUT else number for number in numbers]) for role, numbers in programs]
        descriptors = sorted({number for _, numbers in placed for number in numbers})
        message = [(role, [descriptors.index(number) for number in numbers]) for role, numbers in placed]
        try:
            try:
                socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            return self._supervise(reader, output_limit)
        except OSError as error:
            raise SandboxCrashed(str(error)) from error
        finally:
            os.close(reader)

    def _supervise(self, reader: int, output_limit: int) -> Ended:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(reader, select.POLLIN)
        output = bytearray()
        stopped: Stopped = ""
        deadline = time.monotonic() + self.settings.timeout_s
        while True:
            events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if reader in events:
                data = os.read(reader, 1 << 16)
                output += data
                if not data or len(output) > output_limit:
                    poll.unregister(reader)
            elif events:  # the reply, after the last of the output
                break
            late = time.monotonic() >= deadline
            if late and stopped:
                raise SandboxCrashed("a program did not end when it was killed")
            if not stopped and (late or len(output) > output_limit):
                stopped = "timed_out" if late else "output_too_long"
                self._control.send(b"cancel")
                deadline = time.monotonic() + KILL_LIMIT_S
        return Ended(os.waitstatus_to_exitcode(self._receive()["status"]), bytes(output[:output_limit]), stopped)

    def _receive(self) -> dict[str, Any]:
        message = self._control.recv(1 << 12)
        if not message:
            raise SandboxCrashed("its process ended")
        reply: dict[str, Any] = json.loads(message)
        if "error" in reply:
            raise SandboxCrashed(reply["error"])
        return reply

    def close(self) -> None:
        """End the server, and with it what it runs."""
        self._control.close()
        try:
            self.process.wait(KILL_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def memory_file(content: str) -> int:
    """A descriptor of a file in memory, to be read from its start."""
    descriptor = os.memfd_create("input")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content.encode(errors="replace"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def run_script(sandbox: Sandbox, source: str, given: str, errors: int | None = None) -> Ended:
    """Run a program with ``given`` as its standard input; standard output is read."""
    null = os.open(os.devnull, os.O_RDWR) if errors is None else errors
    job = memory_file(json.dumps({"code": source}))
    return sandbox.run([("script", [memory_file(given), OUTPUT, null, job])], sandbox.settings.output_kb << 10)


@dataclass(slots=True)
class Checked:
    """How many tests passed, the ``problem`` of the first that did not, and ``invalid``: why a test cannot be run."""

    passed: int
    timed_out: bool = False
    problem: str = ""
    invalid: str = ""


def run_tests(sandbox: Sandbox, program: dict[str, Any], tests: Sequence[str], entry_point: str) -> Checked:
    """Run ``tests`` against the functions of ``program`` (see ``sandbox_programs.serve_functions``)."""
    secret = secrets.token_hex(16)
    checks = {"stub": program["stub"], "tests": tests, "entry_point": entry_point, "secret": secret}
    null = os.open(os.devnull, os.O_RDWR)
    calls, answers = (end.detach() for end in socket.socketpair())
    checker = ("checker", [null, null, null, memory_file(json.dumps(checks)), calls, OUTPUT])
    functions = ("functions", [null, null, null, memory_file(json.dumps(program)), answers])
    ended = sandbox.run([checker, functions], 1 << 20)
    lines = ended.output.decode(errors="replace").splitlines()
    invalid = [line[len(secret) :].strip() for line in lines if line.startswith(f"{secret} ")]
    problems = [line for line in lines if not line.startswith(secret)]
    return Checked(lines.count(secret), ended.stopped == "timed_out", "".join(problems[:1]), "".join(invalid[:1]))


class SandboxPool:
    """``workers`` sandboxes, safe to use from several threads. The first is made, and tried, at once.

    Raises:
        SandboxUnavailable: what the namespaces should prevent is possible, or a program does not run at all.
    """

    def __init__(self, settings: SandboxSettings, workers: int) -> None:
        self.settings = settings
        self.workers = workers
        self._executor: ThreadPoolExecutor | None = None
        self._forget()
        sandbox = Sandbox(settings)
        self._idle.append(sandbox)
        _try_to_escape(sandbox)

    def map(self, function: Callable[[Sandbox, Item], Result], items: Sequence[Item]) -> list[Result | SandboxCrashed]:
        """``function`` of each item and a sandbox, in order; the exception where the sandbox failed."""
        if self._process != os.getpid():
            self._forget()
        with self._lock:
            self._executor = executor = self._executor or ThreadPoolExecutor(self.workers, "sandbox")
        return list(executor.map(lambda item: self._run(function, item), items))

    def _run(self, function: Callable[[Sandbox, Item], Result], item: Item) -> Result | SandboxCrashed:
        with self._lock:
            sandbox = self._idle.pop() if self._idle else None
        sandbox = sandbox or Sandbox(self.settings)
        try:
            result = function(sandbox, item)
        except SandboxCrashed as error:
            sandbox.close()
            return error
        with self._lock:
            self._idle.append(sandbox)
        return result

    def _forget(self) -> None:
        """A forked child has neither the threads nor a right to the sandboxes of its parent."""
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._executor = None
        self._idle: list[Sandbox] = []

    def close(self) -> None:
        """End the sandboxes, after what they run; they start again when they are needed."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
        while self._idle:
            self._idle.pop().close()


def _try_to_escape(sandbox: Sandbox) -> None:
    settings = sandbox.settings
    with tempfile.NamedTemporaryFile() as canary, socket.create_server(("127.0.0.1", 0)) as listener:
        os.chmod(canary.name, 0o666)
        names = {
            "ISOLATED": settings.isolation == "namespaces",
            "CANARY": canary.name,
            "PORT": listener.getsockname()[1],
        }
        assignments = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        ended = run_script(sandbox, assignments + ESCAPE, "", errors=OUTPUT)
    lines = ended.output.decode(errors="replace").split("\n")
    if lines != ["done", ""]:
        sandbox.close()
        did = "; ".join(filter(None, lines)) or f"nothing (exit status {ended.status})"
        raise SandboxUnavailable(
            f"The code sandbox does not hold on this machine: a program that tries to escape from isolation: "
            f"{settings.isolation} should print only 'done', and printed: {did[-600:]}. "
            "isolation: rlimits_only runs programs with limits and without isolation, for code that you trust; "
            "python: names another interpreter."
        )
