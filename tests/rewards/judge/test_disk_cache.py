"""Replies outlive the process and are shared."""

import threading
from pathlib import Path

import pytest

from posttrain.errors import JobError
from posttrain.rewards.judge.disk_cache import DiskCache


def test_values_outlive_the_object(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "deep" / "cache.sqlite")
    cache.put({"a": "1", "b": "zwei\x00"})
    cache.put({"a": "changed"})
    assert DiskCache(cache.path).get(["b", "a", "c"]) == {"a": "1", "b": "zwei\x00"}
    assert cache.get([]) == {}


def test_threads_write_at_once(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache.sqlite")

    def write(thread: int) -> None:
        for row in range(20):
            cache.put({f"{thread}-{row}": str(row), "shared": "x"})

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache.get(f"{thread}-{row}" for thread in range(8) for row in range(20))) == 160


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but more than a hundred bytes long. " * 4)
    with pytest.raises(JobError, match=r"notes.txt.*cannot be used: file is not a database"):
        DiskCache(path)
