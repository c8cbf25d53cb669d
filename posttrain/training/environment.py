"""What a run ran on: versions, hardware, git revision, command line."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import posttrain

PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "deepspeed", "vllm", "numpy")


def describe_environment() -> dict[str, Any]:
    """A description that JSON can hold; packages that are not installed are left out."""
    return {
        "command": shlex.join(sys.argv),
        "posttrain": posttrain.__version__,
        "git_revision": git_revision(Path(posttrain.__file__).parent),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed_version(name))},
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "accelerators": accelerator_names(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }


def git_revision(folder: Path) -> str | None:
    """The commit that is checked out around ``folder``, ending in ``-dirty`` if files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def installed_version(package: str) -> str | None:
    """None: the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memory_gib() -> float:
    """Of this machine."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def accelerator_names() -> list[str]:
    """One for each GPU that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
