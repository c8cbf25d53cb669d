"""The README: its Python runs, and every command and file that it names is there."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^(?:accelerate launch .* -m )?posttrain (\S+)(.*)$", TEXT, re.MULTILINE)


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path, tiny_model_folder: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(code.splitlines()) <= 14
    for name, first in (("train.jsonl", 1), ("test.jsonl", 7)):
        rows = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(first, first + 6)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = code.replace("Qwen/Qwen2.5-0.5B-Instruct", str(tiny_model_folder))
    small = (
        "steps=1, prompts_per_step=2, rollouts_per_prompt=2, sampling={'max_completion_tokens': 4}, max_empty_steps=9"
    )
    code = code.replace("steps=100", small).replace("trainer.train()", "print(trainer.train()._repr_html_())")
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout[done.stdout.index("<table>") :]
    assert "<th>1 steps</th>" in shown and "eval/accuracy" in shown
    page = re.search(r'<iframe srcdoc="([^"]*)"', shown)
    assert page is not None and unescape(page[1]).startswith("<!doctype html>")


def test_every_command_exists() -> None:
    done = subprocess.run([sys.executable, "-m", "posttrain", "--help"], capture_output=True, text=True, check=True)
    known = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert {name for name, _ in COMMANDS} <= known
    assert {name for name, _ in COMMANDS} >= {"train", "eval", "compare", "score", "serve", "init", "runs"}


def test_every_file_exists() -> None:
    in_commands = [word for _, rest in COMMANDS for word in rest.split("#")[0].split() if word.endswith(".yaml")]
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT)
    assert not [name for name in [*in_commands, *links] if not (ROOT / name).exists()]
