"""The run page: what it says, what it holds, how large it gets, and that no text can break it."""

import json
import math
import random
import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from posttrain.report.page import write_report
from posttrain.training.run_log import RunLog, read_rollouts

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!-- <script> & \u2028 '\"` ${1+1}"


def make_rollout(tokens: list[str], kept: bool, rng: random.Random, reward: float | None = 1.0) -> dict[str, Any]:
    return {
        "text": "".join(tokens),
        "tokens": tokens,
        "weights": [round(rng.gauss(0, 1), 6) for _ in tokens] if kept else [],
        "origin": [2] + [1] * (len(tokens) - 1),
        "logprobs": [round(-rng.expovariate(2), 6) for _ in tokens],
        "reward": reward,
        "reward_parts": {"math_answer": 1.0},
        "error": None if reward is not None else "timeout",
        "error_message": "" if reward is not None else "took 5 s",
        "finish_reason": "stop",
        "objective": "clone" if kept else None,
        "kept": kept,
    }


def make_group(step: int, number: int, length: int, rng: random.Random, rollouts: int = 8) -> dict[str, Any]:
    def tokens() -> list[str]:
        return [f" {rng.randrange(50_000):x}" for _ in range(length)]

    return {
        "step": step,
        "example_id": f"row-{number}",
        "prompt": f"question {number}",
        "answer": "4",
        "rollouts": [make_rollout(tokens(), number % 2 == 0, rng) for _ in range(rollouts)],
    }


def make_run(folder: Path, steps: int, total_steps: int | None = None, groups: int = 2) -> Path:
    """A small run, as a trainer leaves it."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    job = "method: oreal\nmodel: {path: tiny}\ndata: {type: arithmetic}\n"
    (folder / "job.yaml").write_text(f"{job}trainer: {{steps: {total_steps or steps}}}\n")
    with closing(RunLog(folder)) as log:
        log.write_environment()
        log.log_metrics(0, {"eval/accuracy": 0.4125})
        for step in range(1, steps + 1):
            if groups:
                log.log_rollouts(step, [make_group(step, number, 12, rng) for number in range(groups)])
            log.log_metrics(step, step_metrics(step, steps))
    return folder


def step_metrics(step: int, steps: int) -> dict[str, float]:
    metrics = {
        "reward/mean": 0.25 + 0.5 * step / steps,
        "reward/std_in_group": 0.2,
        "reward/part/math_answer": step / steps,
        "completion/length_mean": 100.0,
        "batch/rollouts": 64.0,
        "policy/entropy": 1 / step,
        "policy/kl": step * 1e-4,
        "time/generate": 1.0,
        "time/update": 0.5,
        "time/step": 1.75,
        "speed/generated_tokens_per_second": 6400.0,
        "oreal/token_model_loss": 0.7 - 0.1 * step / steps,
    }
    return metrics | ({"eval/accuracy": 0.8461} if step == steps else {})


def page_data(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def visible_text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)))


def rendered(file: Path) -> str:
    """The page's elements after its script ran in a browser."""
    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    profile = f"--user-data-dir={file.parent / 'profile'}"
    command = [CHROMIUM, *flags, profile, file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page is not rendered")


def test_the_page_says_what_came_of_the_run(tmp_path: Path) -> None:
    file = write_report(make_run(tmp_path / "run", 20))
    assert file == tmp_path / "run" / "report.html"
    text = visible_text(file.read_text())
    assert "OREAL run" in text and "finished" in text and "model tiny · data arithmetic" in text
    assert "0.412 → 0.846" in text and "+0.434" in text
    assert "0.287 → 0.738" in text  # means of the first and the last two steps
    assert "128k 6400/s (median)" in text  # 20 steps of 64 rollouts of 100 tokens
    assert "35 s" in text and "1.75 s a step" in text
    assert "method: oreal" in text and "cpu cores" in text


def test_curves_and_samples_are_those_of_the_log(tmp_path: Path) -> None:
    data = page_data(write_report(make_run(tmp_path, 5)).read_text())
    assert data["steps"] == [0, 1, 2, 3, 4, 5]
    assert data["series"]["reward/mean"] == [None, 0.35, 0.45, 0.55, 0.65, 0.75]
    assert data["series"]["oreal/token_model_loss"][1] == 0.68
    assert [step["step"] for step in data["samples"]] == [1, 2, 3, 4, 5]
    assert [group["example_id"] for group in data["samples"][0]["groups"]] == ["row-0", "row-1"]
    assert data["samples"][0]["groups"][0]["rewards"] == [1.0] * 8


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    make_run(tmp_path, 500, groups=0)
    rng = random.Random(1)
    with closing(RunLog(tmp_path, resume_step=500)) as log:
        log.log_rollouts(1, [make_group(1, number, 150, rng) for number in range(64)])
    first = tmp_path / "rollouts" / "step_000001.jsonl.zst"
    for step in range(2, 501):
        shutil.copy(first, tmp_path / "rollouts" / f"step_{step:06d}.jsonl.zst")
    page = write_report(tmp_path)
    samples = page_data(page.read_text())["samples"]
    assert page.stat().st_size < 5_000_000
    assert len(samples) == 24 and (samples[0]["step"], samples[-1]["step"]) == (1, 500)
    assert all(step["groups"] and step["groups_in_step"] == 64 for step in samples)


def test_a_very_long_run_is_thinned_to_means(tmp_path: Path) -> None:
    make_run(tmp_path, 2500, groups=0)
    data = page_data(write_report(tmp_path).read_text())
    assert data["steps_per_point"] == 3 and len(data["steps"]) == 834 and data["steps"][-1] == 2500
    assert data["series"]["policy/kl"][1] == pytest.approx(4e-4)  # steps 3, 4, 5
    assert data["series"]["eval/accuracy"][-1] == 0.8461


def test_one_long_completion_is_cut_in_the_middle(tmp_path: Path) -> None:
    make_run(tmp_path, 1, groups=0)
    with closing(RunLog(tmp_path, resume_step=1)) as log:
        log.log_rollouts(1, [make_group(1, 0, 40_000, random.Random(0), rollouts=2)])
    page = write_report(tmp_path)
    assert page.stat().st_size < 200_000 and len(page_data(page.read_text())["samples"][0]["groups"]) == 1


def test_no_text_can_leave_its_place(tmp_path: Path) -> None:
    make_run(tmp_path, 2)
    record = read_rollouts(tmp_path, 2)[0]
    record["example_id"] = record["prompt"] = record["answer"] = HOSTILE
    record["rollouts"][0] |= {"tokens": list(HOSTILE), "text": HOSTILE, "error": "crashed", "error_message": HOSTILE}
    with closing(RunLog(tmp_path, resume_step=2)) as log:
        log.log_rollouts(2, [record])
        log.log_metrics(3, {f"oreal/{HOSTILE}": 1.0})
    (tmp_path / "job.yaml").write_text(json.dumps({"method": HOSTILE, "trainer": {"steps": 3}}))
    page = write_report(tmp_path).read_text()
    assert page.count("</script>") == 2 and "<img" not in page
    assert page_data(page)["samples"][-1]["groups"][0]["example_id"] == HOSTILE
    if CHROMIUM:
        document = rendered(tmp_path / "report.html")
        assert "<img" not in document and "<title>broken" not in document
        assert 'class="token"' in document


@needs_browser
def test_the_script_draws_curves_and_samples(tmp_path: Path) -> None:
    document = rendered(write_report(make_run(tmp_path, 20)))
    titles = re.findall(r"<h3>([^<]+)</h3>", document)
    assert {"Reward", "Reward parts", "Entropy", "KL to the reference", "Time by phase", "Token model loss"} <= {
        *titles
    }
    assert document.count('class="curve"') >= 6 and document.count('class="area"') == 3
    assert document.count("<article") == 16 and document.count('class="token"') == 16 * 12


@needs_browser
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_script_draws_a_run_that_has_hardly_begun(tmp_path: Path, steps: int) -> None:
    document = rendered(write_report(make_run(tmp_path, steps, total_steps=100)))
    assert "NaN" not in re.sub(r"<script.*?</script>", "", document, flags=re.DOTALL)
    assert f"unfinished: step {steps} of 100" in document


def test_a_run_without_steps_rollouts_job_or_environment_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    text = visible_text(write_report(tmp_path).read_text())
    assert "0 steps" in text and "started from Python" in text


def test_an_interrupted_run_says_where_it_stands(tmp_path: Path) -> None:
    make_run(tmp_path, 7, total_steps=20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "rewa')
    text = visible_text(write_report(tmp_path).read_text())
    assert "unfinished: step 7 of 20" in text


def test_metrics_that_are_missing_or_not_finite_are_told(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path)) as log:
        log.log_metrics(1, {"policy/loss": math.nan})
        log.log_metrics(2, {"policy/loss": 0.5, "sft/token_accuracy": 0.9})
        log.log_metrics(3, {})
    data = page_data(write_report(tmp_path).read_text())
    assert data["series"] == {"policy/loss": [None, 0.5, None], "sft/token_accuracy": [None, 0.9, None]}
    assert data["not_finite"] == {"policy/loss": [1]}
    assert data["samples"] == []


def test_the_page_asks_for_nothing_outside(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path, 2)).read_text()
    addresses = set(re.findall(r"https?://[^\s'\")]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page and not re.search(r"<(script|img|iframe)[^>]* src=|<link[^>]*stylesheet", page)
