"""Checkpoints survive kills, full disks, damage and ranks that fail."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from posttrain.errors import CheckpointError
from posttrain.training.checkpoint import CheckpointStore, validate

KILLS = 12
FULL_DEVICE = Path("/dev/full")


def content(step: int) -> bytes:
    return f"weights of step {step}".encode() * 1000


def write_step(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "optimizer").mkdir()
        (folder / "model.safetensors").write_bytes(content(step))
        (folder / "optimizer" / "rank_0.bin").write_bytes(content(-step))

    return write


def saved(folder: Path, *steps: int, keep: int = 10) -> CheckpointStore:
    store = CheckpointStore(folder, keep)
    for step in steps:
        store.save(step, write_step(step))
    return store


def names(store: CheckpointStore) -> list[str]:
    return [path.name for path in store.paths()]


def test_round_trip(tmp_path: Path) -> None:
    refused: list[str] = []
    store = saved(tmp_path, 6, 12)
    path = store.resolve("auto", refused.append)
    assert path == tmp_path / "checkpoints" / "step_000012"
    assert (path / "model.safetensors").read_bytes() == content(12)
    assert (path / "optimizer" / "rank_0.bin").read_bytes() == content(-12)
    assert not refused


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path, keep=2).resolve("auto", pytest.fail) is None


def test_newest_by_number_not_by_name(tmp_path: Path) -> None:
    store = saved(tmp_path, 999_999, 1_000_000)
    assert store.latest_valid(pytest.fail) == store.folder / "step_1000000"


def truncate(checkpoint: Path) -> None:
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.truncate(100)


def alter(checkpoint: Path) -> None:
    with (checkpoint / "optimizer" / "rank_0.bin").open("r+b") as file:
        file.seek(5000)
        file.write(b"?")


def reformat(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text('{"format": 7, "files": {}}')


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "refused, model.safetensors has 100 bytes instead of"),
    (alter, "refused, optimizer/rank_0.bin was altered"),
    (lambda path: (path / "model.safetensors").unlink(), "refused, model.safetensors is missing"),
    (lambda path: (path / "manifest.json").unlink(), "refused, it has no manifest.json"),
    (lambda path: (path / "manifest.json").write_text('{"format": 2, "fi'), "its manifest.json cannot be read"),
    (lambda path: (path / "manifest.json").write_text('{"format": 2}'), "its manifest.json cannot be read"),
    (reformat, "has format 7 and this version reads format 2"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_is_refused_by_name_and_the_previous_used(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    store, refused = saved(tmp_path, 5, 10), list[str]()
    damage(store.folder / "step_000010")
    assert store.resolve("auto", refused.append) == store.folder / "step_000005"
    assert len(refused) == 1
    assert "step_000010" in refused[0]
    assert message in refused[0]
    with pytest.raises(CheckpointError, match="step_000010"):
        store.resolve(str(store.folder / "step_000010"), pytest.fail)


def test_all_damaged_does_not_start_over(tmp_path: Path) -> None:
    store, refused = saved(tmp_path, 5, 10), list[str]()
    for path in store.paths():
        truncate(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint here is valid.*--resume PATH"):
        store.resolve("auto", refused.append)
    assert [text.partition(": ")[0][-6:] for text in refused] == ["000010", "000005"]


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step_000003: no such checkpoint"):
        CheckpointStore(tmp_path, keep=1).resolve(str(tmp_path / "step_000003"), pytest.fail)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    store = saved(tmp_path, 5, 10)
    alter(store.folder / "step_000010")
    saved(tmp_path, 10)
    validate(store.folder / "step_000010")


def test_pruning(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(store) == ["step_000003", "step_000004"]
    assert names(saved(tmp_path, 5, keep=1)) == ["step_000005"]
    with pytest.raises(ValueError, match="keep"):
        CheckpointStore(tmp_path, keep=0)


def test_later_steps_of_an_abandoned_branch_go(tmp_path: Path) -> None:
    store = saved(tmp_path, 5, 10, 15, 20, keep=3)
    assert names(saved(tmp_path, 12, keep=3)) == ["step_000010", "step_000012"]
    assert store.latest_valid(pytest.fail) == store.folder / "step_000012"


def test_leftovers_of_killed_runs_go(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / ".step_000003.tmp"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    store = CheckpointStore(tmp_path, keep=2)
    assert store.resolve("auto", pytest.fail) is None
    store.save(4, write_step(4))
    assert [path.name for path in store.folder.iterdir()] == ["step_000004"]


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    store = saved(tmp_path, 3)
    manifest = json.loads((store.folder / "step_000003" / "manifest.json").read_text())
    assert manifest["step"] == 3
    assert set(manifest["files"]) == {"model.safetensors", "optimizer/rank_0.bin"}
    assert manifest["files"]["model.safetensors"]["bytes"] == len(content(3))


# ---- a disk that fills, a write that fails ------------------------------------------------------------------------


def write_until_full(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content(1))
    with FULL_DEVICE.open("wb") as file:
        file.write(bytes(100_000))


def assert_unharmed(store: CheckpointStore, step: int) -> None:
    assert [path.name for path in store.folder.iterdir()] == [f"step_{step:06d}"], "the half-written one is removed"
    assert store.latest_valid(pytest.fail) == store.folder / f"step_{step:06d}"


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no /dev/full")
def test_disk_full(tmp_path: Path) -> None:
    store = saved(tmp_path, 5)
    with pytest.raises(CheckpointError) as caught:
        store.save(10, write_until_full)
    message = str(caught.value)
    assert "step_000010: the disk is full" in message
    assert " were free, and step_000005 took 35.3 kB" in message
    assert "step_000005 is untouched; make room, then go on with --resume auto" in message
    assert_unharmed(store, 5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # torch leaves the file that failed open


@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_disk_full_as_the_libraries_report_it(small_disk: Path, library: str) -> None:
    """torch.save raises a RuntimeError about positions in a file, safetensors an error of its own."""
    import torch
    from safetensors.torch import save_file

    weights = {"weights": torch.zeros(40_000)}  # 160 kB: one checkpoint fits on 300 kB and two do not

    def write(folder: Path) -> None:
        if library == "torch":
            torch.save(weights, folder / "weights.pt")
        else:
            save_file(weights, folder / "weights.safetensors")

    store = CheckpointStore(small_disk, keep=2)
    store.save(5, write)
    with pytest.raises(CheckpointError, match=r"the disk is full: 1\d\d kB were free, and step_000005 took 16\d kB"):
        store.save(10, write)
    assert_unharmed(store, 5)


def test_another_failure_of_the_disk(tmp_path: Path) -> None:
    store = saved(tmp_path, 5)

    def write(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "model.safetensors"))

    with pytest.raises(CheckpointError, match=r"could not be written: .*Permission denied.*step_000005 is untouched"):
        store.save(10, write)
    assert_unharmed(store, 5)


def test_a_mistake_in_the_program_stays_what_it_is(tmp_path: Path) -> None:
    store = saved(tmp_path, 5)
    with pytest.raises(ZeroDivisionError):
        store.save(10, lambda _: print(1 // 0))
    assert_unharmed(store, 5)


# ---- several ranks ------------------------------------------------------------------------------------------------


class Ranks:
    """Two threads that answer ``any_rank`` together."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.flags = [False, False]
        self.errors: dict[int, Exception] = {}

    def any_rank(self, rank: int, flag: bool) -> bool:
        self.flags[rank] = flag
        self.barrier.wait()
        answer = any(self.flags)
        self.barrier.wait()
        return answer

    def save(self, store: CheckpointStore, step: int, writers: list[Callable[[Path], None]]) -> None:
        def run(rank: int) -> None:
            try:
                store.save(step, writers[rank], is_main=rank == 0, any_rank=lambda flag: self.any_rank(rank, flag))
            except Exception as error:
                self.errors[rank] = error

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), "a rank waits for one that failed"


def write_slowly(folder: Path) -> None:
    time.sleep(0.2)
    (folder / "rank_1.bin").write_bytes(content(1))


def test_the_manifest_waits_for_the_slowest_rank(tmp_path: Path) -> None:
    store, ranks = CheckpointStore(tmp_path, keep=2), Ranks()
    ranks.save(store, 7, [write_step(7), write_slowly])
    assert not ranks.errors
    path = store.latest_valid(pytest.fail)
    assert path is not None
    assert set(json.loads((path / "manifest.json").read_text())["files"]) >= {"rank_1.bin", "model.safetensors"}


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("failing", [0, 1])
def test_one_failing_rank_fails_all_and_none_hangs(tmp_path: Path, failing: int) -> None:
    store, ranks = saved(tmp_path, 5), Ranks()
    writers = [write_step(10), write_slowly]
    writers[failing] = write_until_full
    ranks.save(store, 10, writers)
    assert "the disk is full" in str(ranks.errors[failing])
    assert "another process could not write its part" in str(ranks.errors[1 - failing])
    assert_unharmed(store, 5)


# ---- kill -9 ------------------------------------------------------------------------------------------------------

WRITER = """
    import sys
    from pathlib import Path
    from posttrain.training.checkpoint import CheckpointStore

    store = CheckpointStore(sys.argv[1], keep=2)
    last = store.resolve("auto", lambda text: sys.exit(f"refused: {text}"))
    step = int((last / "part_0").read_text().split()[0]) if last else 0
    print("resumed", step, flush=True)

    def write(folder):
        for part in range(20):
            (folder / f"part_{part}").write_text(f"{step} {part} " * 2000)

    while True:
        step += 1
        store.save(step, write)
        print("saved", step, flush=True)
"""


def test_kill_at_random_moments(tmp_path: Path) -> None:
    """Every run goes on from what the killed one last saved; nothing half-written is ever taken for a checkpoint."""
    rng, store = random.Random(0), CheckpointStore(tmp_path, keep=2)
    finished, interrupted = 0, 0
    for kill in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline().split()
            assert first == ["resumed", first[-1]]
            assert int(first[-1]) >= finished, f"kill {kill} lost a checkpoint that had been saved"
            lines = [writer.stdout.readline() for _ in range(rng.randint(0, 2))]
            time.sleep(rng.uniform(0, 0.1))
            writer.kill()
            lines += writer.stdout.read().splitlines()
        finished = max([finished, int(first[-1]), *(int(line.split()[1]) for line in lines)])
        interrupted += any(store.folder.glob(".step_*"))
        newest = store.latest_valid(pytest.fail)
        if newest is not None:
            step = newest.name.removeprefix("step_").lstrip("0")
            assert int(step) >= finished
            assert all((newest / f"part_{part}").read_text() == f"{step} {part} " * 2000 for part in range(20))
    assert finished >= KILLS / 2, "the writers must have got somewhere"
    assert interrupted >= KILLS / 3, "kills must have hit checkpoints that were being written"
