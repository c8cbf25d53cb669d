"""Worker processes: hangs, crashes, order, many threads, forks, and no orphans."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.errors import RewardFailure
from posttrain.rewards.workers.worker_pool import WorkerPool

HERE = Path(__file__).parents[1]
ROOT = HERE.parents[1]


@pytest.fixture(autouse=True)
def functions_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool("worker_functions:act", workers=2, timeout_s=1.0)
    yield pool
    pool.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(is_running, pids)):
            return True
        time.sleep(0.05)
    return False


def test_order_is_kept(pool: WorkerPool) -> None:
    items = [["sleep", 0.2], *(["double", number] for number in range(200))]
    results = pool.map(items)
    assert [result.value for result in results] == ["awake", *(2 * number for number in range(200))]


def test_nothing_starts_before_it_is_needed() -> None:
    pool = WorkerPool("worker_functions:act")
    assert pool.map([]) == []
    assert not pool._alive
    pool.close()


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (["hang", 9], "timeout", "no result after 1 s"),
        (["sleep", 30], "timeout", "no result after 1 s"),
        (["exit", 3], "crashed", "the worker process ended with exit status 3"),
        (["hang up", 5], "crashed", "the worker process ended with exit status 5"),
        (["lambda", 0], "crashed", "Can't pickle"),
        (["signal", 0], "crashed", "the worker process was ended by signal 9"),
        (["nonsense", 0], "crashed", "ValueError: no action 'nonsense'"),
        (["allocate", 1 << 20], "crashed", "MemoryError"),
    ],
)
def test_a_bad_item_costs_itself_only(pool: WorkerPool, bad: list[object], error: str, message: str) -> None:
    results = pool.map([["double", 1], bad, ["double", 2], ["double", 3]])
    assert [result.value for result in results] == [2, None, 4, 6]
    assert results[1].error == error
    assert message in results[1].message


def test_many_hangs_are_survived() -> None:
    pool = WorkerPool("worker_functions:act", workers=3, timeout_s=0.3)
    results = pool.map([["hang", 9] if number % 3 == 0 else ["double", number] for number in range(12)])
    assert [result.error for result in results] == ["timeout", None, None] * 4
    pool.close()


@pytest.mark.parametrize("bad", [["hang", 9], ["exit", 3], ["nonsense", 0]])
def test_what_follows_a_bad_item_in_its_batch_is_done_once(bad: list[object]) -> None:
    pool = WorkerPool("worker_functions:act", workers=1, timeout_s=0.5)
    items: list[list[object]] = [["double", number] for number in range(80)]
    for place in (0, 7, 8, 79):
        items[place] = bad
    results = pool.map(items)
    wanted = [None if place in (0, 7, 8, 79) else 2 * place for place in range(80)]
    assert [result.value for result in results] == wanted
    assert {results[place].error for place in (0, 7, 8, 79)} == {"timeout" if bad[0] == "hang" else "crashed"}
    pool.close()


def test_printing_and_reading_do_not_disturb(pool: WorkerPool) -> None:
    results = pool.map([["print", '{"value": 13}\n'], ["double", 4]])
    assert [result.value for result in results] == ["", 8]


def test_large_items(pool: WorkerPool) -> None:
    text = "é\n" * 300_000
    assert pool.map([["double", text]])[0].value == text * 2


def test_a_worker_that_was_killed_while_idle_costs_nothing(pool: WorkerPool) -> None:
    pid = pool.map([["pid", None]])[0].value
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone([pid], 5)
    assert pool.map([["double", 5]])[0].value == 10


def test_workers_are_kept_between_calls_and_end_with_close(pool: WorkerPool) -> None:
    first = {result.value for result in pool.map([["pid", None]] * 20)}
    second = {result.value for result in pool.map([["pid", None]] * 20)}
    assert second <= first and len(first) <= 2
    pool.close()
    assert not any(map(is_running, first))
    assert pool.map([["double", 6]])[0].value == 12


def test_from_several_threads(pool: WorkerPool) -> None:
    values: dict[int, list[int]] = {}

    def score(start: int) -> None:
        values[start] = [result.value for result in pool.map([["double", start + k] for k in range(50)])]

    threads = [threading.Thread(target=score, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {1000 * n: [2 * (1000 * n + k) for k in range(50)] for n in range(4)}


def test_workers_do_not_import_heavy_modules(pool: WorkerPool) -> None:
    heavy = ["torch", "transformers", "trl", "numpy", "pydantic"]
    assert pool.map([["modules", heavy]])[0].value == []
    judge = WorkerPool("posttrain.rewards.math.math_equivalence:judge", timeout_s=30)
    assert judge.map([{"gold": "1/2", "answer": "0.5", "tolerance": None}])[0].value == {"equal": True}
    judge.close()


def test_a_function_that_cannot_be_imported_is_named() -> None:
    pool = WorkerPool("worker_functions:missing")
    with pytest.raises(RewardFailure, match="worker_functions:missing cannot start: AttributeError"):
        pool.map([1])
    pool.close()


def test_a_forked_child_uses_workers_of_its_own(pool: WorkerPool) -> None:
    pid = pool.map([["pid", None]])[0].value
    script_ran, status = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = pool.map([["double", 21], ["pid", None]])
            ok = result[0].value == 42 and result[1].value != pid
            pool.close()
            os.write(status, b"1" if ok else b"0")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(status)
    assert os.read(script_ran, 1) == b"1"
    os.close(script_ran)
    assert pool.map([["pid", None]])[0].value == pid


PARENT = """
import sys, threading
from posttrain.rewards.workers.worker_pool import WorkerPool
pool = WorkerPool("worker_functions:act", workers=2, timeout_s=float(sys.argv[1]))
pids = {result.value for result in pool.map([["sleep", 0.3]] * 2 + [["pid", None]] * 20) if result.value != "awake"}
print(*[worker.process.pid for worker in pool._alive], flush=True)
if sys.argv[2] == "busy":
    pool.map([["hang", 9]] * 2)
elif sys.argv[2] == "idle":
    threading.Event().wait()
"""


@pytest.mark.parametrize(("state", "timeout_s"), [("idle", 60.0), ("busy", 1.5), ("ends", 60.0)])
def test_no_orphans(state: str, timeout_s: float) -> None:
    path = os.pathsep.join([str(HERE), str(ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(timeout_s), state],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if state != "ends":
        time.sleep(0.3)
        assert all(map(is_running, pids))
        parent.kill()
    parent.wait(timeout=30)
    parent.stdout.close()
    assert wait_until_gone(pids, 10)
