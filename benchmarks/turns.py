"""Processes that take turns: each works one round when it is told to, and waits without using the CPU meanwhile.

So two sides that cannot live in one process (two engines, two launches) share a busy machine's moods all the same.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "round: "


class Side:
    """A process that runs ``command`` and answers each ``round`` with one report. Ends with its ``with`` block."""

    def __init__(self, command: list[str], log: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "HF_HUB_OFFLINE": "1"}
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def round(self) -> dict[str, Any]:
        """Let the process work one round.

        Raises:
            RuntimeError: the process ended; the message has the end of its log.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        if self.process.poll() is None:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                if line.startswith(MARK):
                    report: dict[str, Any] = json.loads(line.removeprefix(MARK))
                    return report
        raise RuntimeError(f"{self.process.args} ended early:\n{self.log.read_text()[-2000:]}")

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # the end of the rounds
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def rounds_asked_for() -> Iterator[None]:
    """In the process of a ``Side``: one item for each round."""
    for _ in iter(sys.stdin.readline, ""):
        yield


def report(**values: Any) -> None:
    """In the process of a ``Side``: answer the round."""
    print(MARK + json.dumps(values), flush=True)
