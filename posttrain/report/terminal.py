"""What a person sees in the terminal: one live line while a run trains, and what came of it at the end."""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from posttrain.report.formats import count, duration, number

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

WIDTH = 80
SECONDS_BETWEEN_LINES = 10.0
ACCURACY, REWARD = "eval/accuracy", "reward/mean"
LOSSES = ("policy/loss", "reward_model/loss")
SPEEDS = ("speed/generated_tokens_per_second", "speed/trained_tokens_per_second")


@dataclass(slots=True)
class TrainingSummary:
    """What a finished run leaves: first and last evaluation, and where things are."""

    steps: int
    seconds: float
    model_folder: Path
    report: Path
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """What a notebook shows: the evaluations side by side, and the run page below."""
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{self.first.get(name, math.nan):.3f}</td><td>{value:.3f}</td></tr>"
            for name, value in self.last.items()
        )
        page = escape(self.report.read_text(encoding="utf-8")) if self.report.is_file() else ""
        return (
            f"<table><tr><th>{self.steps} steps</th><th>before</th><th>after</th></tr>{rows}</table>"
            f'<iframe srcdoc="{page}" width="100%" height="700" style="border:0"></iframe>'
        )


class TrainingDisplay:
    """The progress of one run: a line that is redrawn in a terminal, plain lines now and then where there is none.

    Plain lines come at the first step, with every evaluation, at the end, and in between at most every ten seconds.
    No line is longer than 80 characters, except for a long path.

    Args:
        total_steps: where the run ends.
        method: its name.
        enabled: False on all ranks but one.
        stream: where to write; None: standard output.
    """

    def __init__(self, total_steps: int, method: str, enabled: bool = True, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self.total_steps = total_steps
        self.method = method
        self.console = Console(file=stream or sys.stdout, quiet=not enabled, highlight=False, soft_wrap=True)
        self.step = 0
        self.latest: dict[str, float] = {}
        self.rewards: list[tuple[int, float]] = []
        self._live: Live | None = None
        self._intervals: deque[float] = deque(maxlen=20)
        self._updated: float | None = None
        self._printed_step = -1
        self._printed_at = -math.inf

    def __enter__(self) -> "TrainingDisplay":
        if self.console.is_terminal and not self.console.quiet:
            from rich.live import Live

            self._live = Live(console=self.console, get_renderable=self.line, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self.step > 0 and self._printed_step != self.step:
            self._print_line()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of ``step``; what it does not measure keeps its last value."""
        now = time.perf_counter()
        if step > 0:
            self._intervals.append(
                now - self._updated if self._updated is not None else metrics.get("time/step", math.nan)
            )
            self._updated = now
        self.step = step
        self.latest |= metrics
        if math.isfinite(reward := metrics.get(REWARD, math.nan)):
            self.rewards.append((step, reward))
        due = now - self._printed_at >= SECONDS_BETWEEN_LINES or step == self.total_steps or ACCURACY in metrics
        if self._live is None and due:
            self._print_line()

    def note(self, message: str) -> None:
        """Say something in passing."""
        self.console.print(message, style="dim", markup=False)

    def warn(self, message: str) -> None:
        """Say something that the user should look at."""
        self.console.print(f"warning: {message}", style="yellow", markup=False)

    def summary(self, summary: TrainingSummary) -> None:
        """What improved, and where the model and the run page are."""
        self.console.print(f"\n{self.method}: {summary.steps} steps in {duration(summary.seconds)}", style="bold")
        rows = [
            *self._improvement(summary),
            ("model", _short(summary.model_folder)),
            ("run page", _short(summary.report)),
        ]
        for name, value in rows:
            self.console.print(f"  {name:<9} {value}", markup=False)

    def line(self) -> "Text":
        """The live line, at most as wide as the terminal and never wider than 80 characters."""
        from rich.text import Text

        fields = [field for field in self._fields() if field]
        width = min(self.console.width, WIDTH)
        room = width - len("  ".join([self.method, *fields])) - 2
        parts = [(f"{self.method}  ", "bold")] if room >= -2 else []
        if room >= 8:
            bar = min(room, 30)
            filled = round(bar * self.step / max(1, self.total_steps))
            parts += [("━" * filled, "cyan"), ("━" * (bar - filled) + "  ", "bright_black")]
        for place, told in enumerate(fields):
            parts.append(("  " * (place > 0) + told, "dim" if told.endswith(("tok/s", "left")) else ""))
        text = Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
        text.truncate(width, overflow="ellipsis")
        return text

    def _print_line(self) -> None:
        text = "  ".join(field.rjust(width) for field, width in zip(self._fields(), (0, 12, 15, 11, 12), strict=True))
        self.console.print(f"{self.method} {text.rstrip()}", markup=False)
        self._printed_step, self._printed_at = self.step, time.perf_counter()

    def _fields(self) -> list[str]:
        digits = len(str(self.total_steps))
        speed = next((self.latest[name] for name in SPEEDS if name in self.latest), math.nan)
        loss = next((name for name in LOSSES if name in self.latest), LOSSES[0])
        outcome = ("reward", REWARD) if REWARD in self.latest else ("loss", loss)
        left = self.seconds_left()
        return [
            f"{self.step:>{digits}}/{self.total_steps}",
            f"{outcome[0]} {number(self.latest[outcome[1]])}" if outcome[1] in self.latest else "",
            f"accuracy {number(self.latest[ACCURACY])}" if ACCURACY in self.latest else "",
            f"{count(speed)} tok/s" if math.isfinite(speed) else "",
            f"{duration(left)} left" if math.isfinite(left) and self.step < self.total_steps else "",
        ]

    def seconds_left(self) -> float:
        """From the pace of the last 20 steps, evaluations and checkpoints included; NaN before the first step."""
        known = [seconds for seconds in self._intervals if math.isfinite(seconds)]
        if not known or self._updated is None:
            return math.nan
        since = time.perf_counter() - self._updated
        return max(0.0, sum(known) / len(known) * (self.total_steps - self.step) - since)

    def _improvement(self, summary: TrainingSummary) -> list[tuple[str, str]]:
        if ACCURACY in summary.first and ACCURACY in summary.last:
            first, last = summary.first[ACCURACY], summary.last[ACCURACY]
            return [("accuracy", f"{_change(first, last)} on held-out prompts")]
        if len(self.rewards) < 2:
            return []
        some = max(1, len(self.rewards) // 10)
        first, last = (sum(r for _, r in part) / some for part in (self.rewards[:some], self.rewards[-some:]))
        return [("reward", f"{_change(first, last)}, mean of {some} steps from {self.rewards[0][0]} and at the end")]


def _change(first: float, last: float) -> str:
    return f"{number(first)} → {number(last)} ({last - first:+.3f})"


def _short(path: Path) -> str:
    """Relative to the working directory if that is shorter."""
    relative = os.path.relpath(path)
    return min(relative, str(path), key=len)


def print_next_steps(summary: TrainingSummary, stream: TextIO | None = None) -> None:
    """What to type next, for a run whose folder holds its job."""
    from rich.console import Console

    console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
    folder = _short(summary.report.parent)
    console.print("\nnext", style="bold")
    console.print(f"  open {_short(summary.report)} in a browser: curves, samples, timings", markup=False)
    if (summary.report.parent / "job.yaml").is_file():
        console.print("  train longer:", markup=False)
        console.print(f"  posttrain train {folder}/job.yaml \\", style="cyan", markup=False)
        console.print(f"    trainer.steps={2 * summary.steps} run.folder={folder}-longer", style="cyan", markup=False)
