"""What the set-up says on a machine that cannot hold it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_machine.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_a_fitting_machine_passes_in_silence() -> None:
    result = run("0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("0", "3.10"), "posttrain needs Python 3.11 to 3.14, and this is Python 3.10"),
        (("0", "3.15"), "posttrain's libraries stop at Python 3.14, and this is 3.15"),
        (("1e9",), "Installing needs 1e+09 GiB of free disk space, and only "),
    ],
)
def test_a_machine_that_will_not_do_gets_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
