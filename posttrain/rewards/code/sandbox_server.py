"""The fork server of ``Sandbox``: warm, isolated, and a fresh process with a fresh private folder for every program.

Started as ``python -m posttrain.rewards.code.sandbox_server SOCKET_FD SETTINGS``; standard library only. A request is a
list of (role, file descriptors), the descriptors alongside; the answer comes when the first of them has ended and the
others are killed. The server reads nothing of what the descriptors hold, so that a program, which is a copy of it,
cannot find the tests in its memory.

Under ``namespaces`` the server is process 1 of its own user, mount, network, process, IPC and host name namespaces.
Its root shows the interpreter, read-only. Each program is process 1 of namespaces within those (mount, process, IPC),
without capabilities and behind a system call filter: its end is the end of everything it has started.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.rewards.code.sandbox_programs import PROGRAMS

# Imported before the first fork, because programs import them.
WARM = (
    "array bisect cmath collections copy dataclasses datetime decimal fractions functools hashlib heapq io itertools "
    "math operator random re statistics string typing"
)
# The system's libraries; the interpreter's own folders are added.
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
NOBODY = 65534
# A user namespace within would give a program capabilities (and tmpfs without a limit); the first three keep memory
# that no resource limit counts; sockets other than UNIX and IPv4 reach past a network namespace (VSOCK).
DENIED = (
    "memfd_create memfd_secret shmget msgget mq_open add_key keyctl request_key ptrace process_vm_readv "
    "process_vm_writev pidfd_getfd unshare setns mount umount2 pivot_root chroot move_mount open_tree fsopen "
    "mount_setattr bpf perf_event_open userfaultfd io_uring_setup open_by_handle_at personality quotactl swapon reboot "
    "init_module finit_module delete_module kexec_load"
)

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE, MNT_DETACH = -100, 0x8000, 2
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 24, 36, 38
SCMP_ACT_ALLOW, SCMP_ACT_ERRNO, SCMP_CMP_GT, EPERM = 0x7FFF0000, 0x00050000, 6, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int | bytes | None) -> None:
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if getattr(_libc, name)(*values) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class SystemCallFilter:
    """``DENIED`` and sockets of other families, through libseccomp. Raises OSError where the library is missing."""

    def __init__(self) -> None:
        self.library = library = ctypes.CDLL("libseccomp.so.2")
        library.seccomp_init.restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(SCMP_ACT_ALLOW)))
        for name in DENIED.split():
            self._deny(name, 0, None)
        self._deny("socket", 1, struct.pack("=IIQQ", 0, SCMP_CMP_GT, socket.AF_INET, 0))

    def number(self, name: str) -> int:
        """The system call's number on this machine; negative where it has none."""
        return int(self.library.seccomp_syscall_resolve_name(name.encode()))

    def _deny(self, name: str, conditions: int, condition: bytes | None) -> None:
        action = ctypes.c_uint32(SCMP_ACT_ERRNO | EPERM)
        self.library.seccomp_rule_add_array(self.context, action, self.number(name), conditions, condition)

    def load(self) -> None:
        """Bind this process and its children to it."""
        if self.library.seccomp_load(self.context) != 0:
            raise OSError("seccomp_load failed")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def _set_attributes(calls: SystemCallFilter, path: str, attributes: int, recursive: bool = True) -> None:
    flags = AT_RECURSIVE if recursive else 0
    setting = struct.pack("QQQQ", attributes, 0, 0, 0)
    _call("syscall", calls.number("mount_setattr"), AT_FDCWD, path.encode(), flags, setting, len(setting))


def _enter_root(calls: SystemCallFilter) -> None:
    """Make the interpreter, some devices and an empty /tmp all that there is."""
    folders = {path for path in (sys.prefix, sys.base_prefix, *LIBRARIES) if os.path.exists(path)}
    shown = sorted(path for path in folders if not any(path.startswith(f"{other}/") for other in folders))
    if hidden := [path for path in shown if path.startswith("/tmp/")]:
        raise OSError(f"programs have a /tmp of their own, and would not find the interpreter's {hidden[0]}")
    real = {path: os.path.realpath(path) for path in (*shown, *DEVICES)}
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/host")
    os.makedirs("/tmp/jail/tmp")
    _call("syscall", calls.number("pivot_root"), b"/tmp", b"/tmp/host")
    for path, source in real.items():
        target = f"/jail{path}"
        if os.path.isdir(f"/host{source}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "x").close()
        _mount(f"/host{source}", target, "", MS_BIND | MS_REC)
        _set_attributes(calls, target, ATTR_RDONLY | ATTR_NOSUID | (0 if path in DEVICES else ATTR_NODEV))
    os.symlink("/tmp", "/jail/dev/shm")
    _call("umount2", b"/host", MNT_DETACH)
    _set_attributes(calls, "/", ATTR_RDONLY, recursive=False)
    # From within a changed root the kernel lets nobody make a user namespace.
    os.chroot("/jail")


class Server:
    """``serve`` answers requests until the other end of ``control`` is closed, and then ends every process."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self.control = control
        self.settings = settings
        self.isolated = settings["isolation"] == "namespaces"
        self.filter: SystemCallFilter | None = None
        try:
            self.filter = SystemCallFilter()
        except OSError as error:
            if self.isolated:
                raise OSError(f"{error} (Debian and Ubuntu: apt install libseccomp2)") from error

    def enter(self) -> None:
        """Isolate this process. Under ``namespaces`` it goes on in a child; the caller's own process waits and ends."""
        os.umask(0o022)
        # Should memory run out all the same, the kernel ends programs before anything else.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        if not self.isolated:
            _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            return
        assert self.filter is not None
        _call("unshare", NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS)
        self.control.send(b'{"state": "unshared"}')
        self.control.recv(1)  # our user is mapped now
        if pid := os.fork():
            self.control.close()
            os.waitpid(pid, 0)
            os._exit(0)
        socket.sethostname("sandbox")
        _enter_root(self.filter)

    def serve(self) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.control, 1 << 12, 16)
            if not message:
                return
            if not descriptors:
                continue  # asked to cancel a run that had just ended
            try:
                reply: dict[str, Any] = {"status": self._run(json.loads(message), descriptors)}
            except OSError as error:
                reply = {"error": str(error)}
            self.control.send(json.dumps(reply).encode())

    def _run(self, programs: list[tuple[str, list[int]]], descriptors: list[int]) -> int:
        """The wait status of the first program, which ends itself or is killed on request."""
        spawn = self._spawn_isolated if self.isolated else self._spawn
        pids: list[int] = []
        folders = [] if self.isolated else [tempfile.mkdtemp(prefix="posttrain-") for _ in programs]
        try:
            for number, (role, indices) in enumerate(programs):
                taken = [descriptors[index] for index in indices]
                pids.append(spawn(role, taken, "/tmp" if self.isolated else folders[number]))
            for descriptor in descriptors:
                os.close(descriptor)
            ended = os.pidfd_open(pids[0])
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.register(self.control, select.POLLIN)
            poll.poll()
            os.close(ended)
        finally:
            status = self._end(pids)
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        return status

    def _end(self, pids: Sequence[int]) -> int:
        """Kill what still runs of the programs; the status of the first."""
        statuses: dict[int, int] = {}
        if self.isolated:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                # Returns when every process of its namespace is gone.
                statuses[pid] = os.waitpid(pid, 0)[1]
        while not self.isolated:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            statuses[pid] = status
            time.sleep(0 if pid else 0.001)
        return statuses[pids[0]] if pids else 0

    def _spawn_isolated(self, role: str, descriptors: list[int], folder: str) -> int:
        """A program as process 1 of new namespaces. Its parent ends at once, which makes it a child of the server."""
        reader, writer = os.pipe()
        parent = os.fork()
        if parent == 0:
            try:
                _call("unshare", NEWPID | NEWNS | NEWIPC)
                pid = os.fork()
            except OSError as error:
                os.write(writer, str(error).encode())
                os._exit(1)
            if pid:
                os.write(writer, str(pid).encode())
                os._exit(0)
            disk = f"size={self.settings['disk_mb']}m,nr_inodes=16384,mode=1777"
            self._become(
                role, descriptors, folder, lambda: _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, disk)
            )
        os.close(writer)
        os.waitpid(parent, 0)
        answer = os.read(reader, 1000).decode()
        os.close(reader)
        if not answer.isdigit():
            raise OSError(answer or "a process could not be started")
        return int(answer)

    def _spawn(self, role: str, descriptors: list[int], folder: str) -> int:
        pid = os.fork()
        if pid == 0:
            if os.geteuid() == 0:
                os.chown(folder, NOBODY, NOBODY)
            self._become(role, descriptors, folder, os.setsid)
        return pid

    def _become(self, role: str, descriptors: list[int], folder: str, prepare: Callable[[], None]) -> None:
        """Turn this process into the program, and end with it."""
        status = 1
        try:
            prepare()
            os.chdir(folder)
            os.environ.update(HOME=folder, TMPDIR=folder)
            for target, descriptor in enumerate([os.dup(descriptor) for descriptor in descriptors]):
                os.dup2(descriptor, target)
            os.closerange(len(descriptors), 1 << 12)
            self._limit()
            self._drop_privileges()
            PROGRAMS[role]()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        try:
            # What the interpreter does at its end, but for its own memory.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
        except BaseException:
            status = status or 1
        os._exit(status & 0xFF)

    def _limit(self) -> None:
        limits = {
            "AS": self.settings["memory_mb"] << 20,
            "CPU": self.settings["cpu_s"],
            "FSIZE": self.settings["disk_mb"] << 20,
            "NPROC": self.settings["processes"] + (2 if self.isolated else _processes_of_user()),
            "NOFILE": 64,
            "CORE": 0,
            "MSGQUEUE": 0,
            "MEMLOCK": 0,
        }
        for name, wanted in limits.items():
            kind = getattr(resource, f"RLIMIT_{name}", None)
            if kind is not None:
                hard = resource.getrlimit(kind)[1]
                limit = wanted if hard < 0 else min(wanted, hard)
                resource.setrlimit(kind, (limit, limit))

    def _drop_privileges(self) -> None:
        if os.geteuid() == 0 or self.isolated:
            for capability in range(64):
                if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
                    break  # the kernel has no more
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        _call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
        if self.filter is not None:
            self.filter.load()


def _processes_of_user() -> int:
    """How many tasks the programs' user has already: without a user namespace the limit counts them too."""
    user = NOBODY if os.geteuid() == 0 else os.getuid()
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == user:
                count += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            continue  # it has ended
    return count


def main(arguments: list[str]) -> None:
    """Say ``ready``, or the error, and serve."""
    control = socket.socket(fileno=int(arguments[0]))
    try:
        server = Server(control, json.loads(arguments[1]))
        server.enter()
        sys.path[:] = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
        for module in WARM.split():
            importlib.import_module(module)
    except Exception as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return
    del os.environ["PYTHONPATH"]
    gc.freeze()
    control.send(b'{"state": "ready"}')
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
