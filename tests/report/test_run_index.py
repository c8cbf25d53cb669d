"""The index of runs: what it says of each, and that no folder can break it."""

import base64
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from posttrain.report import run_index
from posttrain.report.run_index import write_index
from tests.report.test_page import HOSTILE, make_run, needs_browser, page_data, rendered


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in page_data(write_index(folder).read_text())["runs"]}


def unpacked(run: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(run["data"])))
    return data


def broken(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_a_row_says_what_came_of_a_run(tmp_path: Path) -> None:
    make_run(tmp_path / "deep" / "a b#", 4)
    (tmp_path / "deep" / "a b#" / "report.html").touch()
    os.utime(tmp_path / "deep" / "a b#" / "job.yaml", (1e9, 1e9))
    run = rows(tmp_path)["deep/a b#"]
    detail = unpacked(run)
    del run["data"]
    assert run == {
        "name": "deep/a b#",
        "started": 1e9,
        "report": "deep/a%20b%23/report.html",
        "method": "oreal",
        "model": "tiny",
        "task": "arithmetic",
        "steps": 4,
        "total": 4,
        "metric": "eval/accuracy",
        "first": 0.4125,
        "last": 0.8461,
        "state": "finished",
        "seconds": 7.0,
    }
    assert detail["curves"]["steps"] == [0, 1, 2, 3, 4]
    assert detail["curves"]["series"]["reward/mean"] == [None, 0.375, 0.5, 0.625, 0.75]
    settings = {"method": "oreal", "model.path": "tiny", "data.type": "arithmetic", "trainer.steps": "4"}
    assert detail["settings"] == settings


def test_a_run_is_finished_failed_running_or_stopped(tmp_path: Path) -> None:
    for name in ("done", "model", "failed", "running", "slow", "stopped"):
        folder = make_run(tmp_path / name, 3, total_steps=3 if name == "done" else 9)
        for file in ("job.yaml", "environment.json", "metrics.jsonl"):
            os.utime(folder / file, (0, 0))
    (tmp_path / "model" / "model").mkdir()
    (tmp_path / "failed.json").write_text('{"status": "failed", "seconds": 1.0}')
    (tmp_path / "stopped.json").write_text("[]")
    os.utime(tmp_path / "running" / "metrics.jsonl")
    long_ago = os.stat(tmp_path / "running" / "metrics.jsonl").st_mtime - 3000
    (tmp_path / "slow" / "metrics.jsonl").write_text('{"step": 1, "time/step": 1000.0}\n')
    os.utime(tmp_path / "slow" / "metrics.jsonl", (long_ago, long_ago))
    states = {name: run["state"] for name, run in rows(tmp_path).items()}
    assert states == {
        "done": "finished", "model": "finished", "failed": "failed",
        "running": "running", "slow": "running", "stopped": "stopped",
    }  # fmt: skip


def test_a_folder_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "good", 2)
    make_run(tmp_path / "good" / "warm_start", 2)
    broken(tmp_path / "b1", job_yaml="method: [oreal\n")
    broken(tmp_path / "b2", job_yaml="- a list\n")
    broken(tmp_path / "b3", metrics_jsonl='{"step": 1}\n<not json>\n{"step": 3}\n')
    broken(tmp_path / "b4", metrics_jsonl='{"step": 1, "reward/mean": "high"}\n')
    broken(tmp_path / "b5", metrics_jsonl="7\n")
    broken(tmp_path / "b6", job_yaml=b"\xff\xfe\xfa", metrics_jsonl="")
    broken(tmp_path / "b7", job_yaml="trainer: {steps: many}\n")
    broken(tmp_path / "b11", job_yaml="trainer: {steps: .inf}\n")
    broken(tmp_path / "b12", metrics_jsonl='{"step": 1e999}\n' + "[" * 100_000 + "\n")
    (tmp_path / "b8" / "job.yaml").mkdir(parents=True)
    (tmp_path / "b9" / "metrics.jsonl").mkdir(parents=True)
    (tmp_path / "b10" / "rollouts").mkdir(parents=True)
    (tmp_path / "other" / "things").mkdir(parents=True)
    found = rows(tmp_path)
    assert set(found) == {"good", *(f"b{number}" for number in range(1, 13))}
    assert {run["state"] for name, run in found.items() if name != "good"} == {"broken"}
    assert found["good"]["state"] == "finished"
    assert found["b1"]["reason"] == "job.yaml is not YAML: line 2: expected ',' or ']', but got '<stream end>'"
    assert found["b2"]["reason"].startswith("job.yaml is not a job")
    assert found["b3"]["reason"] == "metrics.jsonl has a line that is not JSON: <not json>"
    assert found["b7"]["reason"].startswith("job.yaml is not what a run writes: invalid literal for int()")
    assert found["b10"]["reason"] == found["b9"]["reason"] == "it has neither job.yaml nor metrics.jsonl"
    assert all("\n" not in run.get("reason", "") for run in found.values())


def test_a_run_that_has_not_logged_yet_is_no_broken_one(tmp_path: Path) -> None:
    broken(tmp_path / "just-begun", job_yaml="method: grpo\ntrainer: {steps: 5}\nmodel: text\n")
    broken(tmp_path / "from-python", metrics_jsonl="")
    broken(tmp_path / "odd", job_yaml="a: .nan\nb: {c: 2026-11-28, 1: [.inf]}\nd: {}\n")
    found = rows(tmp_path)
    assert [(run["state"], run["steps"]) for run in found.values()] == [("running", 0)] * 3
    assert unpacked(found["odd"])["settings"] == {"a": "NaN", "b.c": "2026-11-28", "b.1": "[Infinity]", "d": "{}"}
    assert "metric" not in found["just-begun"] and found["just-begun"]["total"] == 5


def test_many_runs_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        make_run(tmp_path / name, 400, groups=0)
    found = rows(tmp_path)
    assert len(unpacked(found["a"])["curves"]["steps"]) <= 150
    monkeypatch.setattr(run_index, "DETAIL_BYTES", 2 * len(found["a"]["data"]) + 100)
    assert sorted(run["data"] is None for run in rows(tmp_path).values()) == [False, False, True]


def test_hostile_runs_stay_text(tmp_path: Path) -> None:
    hostile = HOSTILE.replace("/", "∕")
    make_run(tmp_path / hostile, 2)
    settings = {"method": HOSTILE, "model": {"path": HOSTILE}, "trainer": {"steps": 2, HOSTILE: HOSTILE}}
    (tmp_path / hostile / "job.yaml").write_text(json.dumps(settings))
    broken(tmp_path / "bad", job_yaml="- 1", metrics_jsonl=f"{HOSTILE}\n")
    page = write_index(tmp_path).read_text()
    assert page.count("</script>") == 2 and "<img" not in page
    assert hostile in rows(tmp_path)
    assert set(re.findall(r"https?://[^\s'\")]+", page)) == {"http://www.w3.org/2000/svg"}


@needs_browser
def test_the_browser_shows_table_curves_and_differences(tmp_path: Path) -> None:
    make_run(tmp_path / "one", 3)
    make_run(tmp_path / HOSTILE.replace("/", "∕"), 5)
    broken(tmp_path / "bad", job_yaml="- 1")
    (tmp_path / "one" / "report.html").touch()
    page, _, scripts = rendered(write_index(tmp_path)).partition("<script")
    assert "<img" not in page + scripts and "<title>broken" not in page
    assert "3 of 3 runs" in page and '<a href="one/report.html">one</a>' in page
    assert 'class="reason">job.yaml is not a job' in page and page.count('type="checkbox"') == 3
    assert page.count('class="curve"') == 2 and ">eval/accuracy</h3>" in page
    body = page.split('class="runs settings"')[1].split("<tbody>")[1].split("</tbody>")[0]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)<", body)
    assert cells[0] == "trainer.steps" and sorted(cells[1:]) == ["3", "5"]
