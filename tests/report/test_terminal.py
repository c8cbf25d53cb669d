"""What a run says in a terminal, and where there is none."""

import io
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.report import terminal
from posttrain.report.terminal import TrainingDisplay, TrainingSummary, print_next_steps

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def summary_of(folder: Path, steps: int = 60, **values: dict[str, float]) -> TrainingSummary:
    return TrainingSummary(steps, 221.0, folder / "model", folder / "report.html", **values)


def in_terminal(display: TrainingDisplay, width: int) -> TrainingDisplay:
    from rich.console import Console

    display.console = Console(file=display.console.file, width=width, force_terminal=True, highlight=False)
    return display


def metrics(step: int) -> dict[str, float]:
    return {"reward/mean": 0.1 + step / 100, "speed/generated_tokens_per_second": 1234.5, "time/step": 2.0}


def test_without_a_terminal_the_lines_are_plain_and_few() -> None:
    stream = io.StringIO()
    with TrainingDisplay(500, "oreal", stream=stream) as display:
        display.update(0, {"eval/accuracy": 0.4})
        for step in range(1, 500):
            display.update(step, metrics(step))
        display.update(500, metrics(500) | {"eval/accuracy": 0.8})
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["oreal", "0/500", "accuracy", "0.400"]
    assert lines[-1].split() == ["oreal", "500/500", "reward", "5.100", "accuracy", "0.800", "1234", "tok/s"]
    assert len(lines) == 2 and max(map(len, lines)) <= 80 and "\x1b" not in stream.getvalue()


def test_a_line_comes_when_ten_seconds_have_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: clock[0])
    with TrainingDisplay(100, "grpo", stream=stream) as display:
        for step in range(1, 13):
            clock[0] = 4.0 * step
            display.update(step, metrics(step))
    steps = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert steps == ["1/100", "4/100", "7/100", "10/100", "12/100"]


def test_without_a_reward_the_line_shows_the_loss() -> None:
    stream = io.StringIO()
    with TrainingDisplay(1, "sft", stream=stream) as display:
        display.update(1, {"policy/loss": 1.25, "speed/trained_tokens_per_second": 1145.0})
    assert stream.getvalue().split() == ["sft", "1/1", "loss", "1.250", "1145", "tok/s"]


def test_time_left_follows_the_pace_and_counts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: clock[0])
    display = TrainingDisplay(100, "grpo", stream=io.StringIO())
    assert math.isnan(display.seconds_left())
    display.update(1, {"time/step": 3.0})
    assert display.seconds_left() == 99 * 3.0
    clock[0] = 5.0
    display.update(2, {"time/step": 3.0})
    assert display.seconds_left() == 98 * 4.0
    clock[0] = 7.0
    assert display.seconds_left() == 98 * 4.0 - 2.0


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_line_never_wraps(width: int) -> None:
    display = in_terminal(TrainingDisplay(50_000, "prefix_rft", stream=io.StringIO()), width)
    wide = {"reward/mean": -123456.0, "eval/accuracy": 0.5, "speed/generated_tokens_per_second": 123456.0}
    display.update(12_345, wide | {"time/step": 100.0})
    line = display.line().plain
    assert len(line) <= min(width, 80)
    if width >= 80:
        assert "12345/50000" in line and "accuracy 0.500" in line and "123k tok/s" in line and "left" in line


def test_the_live_line_is_redrawn_in_place() -> None:
    stream = io.StringIO()
    with in_terminal(TrainingDisplay(10, "oreal", stream=stream), 80) as display:
        for step in range(1, 11):
            display.update(step, metrics(step))
    shown = ESCAPES.sub("", stream.getvalue())
    assert "10/10  reward 0.200" in shown
    assert shown.count("\n") <= 2
    assert max(len(line) for line in re.split(r"[\r\n]", shown)) <= 80


def test_the_summary_says_what_improved_and_what_to_type(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = TrainingDisplay(60, "oreal", stream=stream)
    display.summary(summary_of(tmp_path, first={"eval/accuracy": 0.412}, last={"eval/accuracy": 0.846}))
    text = stream.getvalue()
    assert "oreal: 60 steps in 3:41" in text
    assert "0.412 → 0.846 (+0.434) on held-out prompts" in text
    assert "report.html" in text


def test_what_to_type_next(tmp_path: Path) -> None:
    finished = summary_of(tmp_path)
    bare, with_job = io.StringIO(), io.StringIO()
    print_next_steps(finished, bare)
    assert "report.html" in bare.getvalue() and "trainer.steps" not in bare.getvalue()
    (tmp_path / "job.yaml").write_text("method: oreal\n")
    print_next_steps(finished, with_job)
    assert "trainer.steps=120" in with_job.getvalue()


def test_without_an_evaluation_the_summary_compares_rewards(tmp_path: Path) -> None:
    stream = io.StringIO()
    display = TrainingDisplay(40, "grpo", stream=stream)
    for step in range(1, 41):
        display.update(step, {"reward/mean": step / 40})
    display.summary(summary_of(tmp_path, steps=40))
    assert "0.062 → 0.963 (+0.900), mean of 4 steps from 1 and at the end" in stream.getvalue()


def test_other_ranks_say_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    with TrainingDisplay(2, "oreal", enabled=False, stream=stream) as display:
        display.update(1, metrics(1))
        display.warn("not seen")
    display.summary(summary_of(tmp_path))
    assert stream.getvalue() == ""


def test_messages_are_not_markup() -> None:
    stream = io.StringIO()
    display = TrainingDisplay(2, "oreal", stream=stream)
    display.warn("checkpoint [bold]step-3[/nope] was refused")
    assert stream.getvalue() == "warning: checkpoint [bold]step-3[/nope] was refused\n"


def test_importing_the_display_imports_no_rich() -> None:
    code = "import sys, posttrain.report.terminal; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
