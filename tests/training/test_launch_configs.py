"""The launch configs: accelerate reads each, and what a CPU can run starts two ranks that see each other."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType, is_port_in_use

from posttrain.errors import JobError
from posttrain.training.accelerator import make_accelerator

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "accelerate"
STAGES = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3-offload": 3, "multi-node-static": 3, "multi-node-rendezvous": 3}
FILES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "kubernetes")
QUICKSTART = ROOT / "recipes" / "oreal" / "quickstart.yaml"
RANKS = """
import torch
from posttrain.training.accelerator import gather_lists, leave_process_group, make_accelerator, zero_stage

accelerator = make_accelerator([], ".", 1.0)
ranks = gather_lists(accelerator, [accelerator.process_index])
if accelerator.is_main_process:
    print("ranks", ranks, torch.distributed.get_backend(), zero_stage(accelerator), accelerator.mixed_precision)
leave_process_group()
"""


def launch(config: str, *arguments: str, **environment: str) -> list[str]:
    file = str(CONFIGS / f"{config}.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    finished = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout.splitlines()


def test_there_is_a_config_for_each_way() -> None:
    assert {*FILES} == {*STAGES, "cpu-2", "ddp", "fsdp2"}


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    kind = {"fsdp2": DistributedType.FSDP}.get(name, DistributedType.MULTI_GPU)
    assert config.distributed_type == (DistributedType.DEEPSPEED if name in STAGES else kind)
    machines = 2 if name.startswith("multi-node") else 1
    assert (config.num_machines, config.num_processes) == (machines, 16 if machines == 2 else 2)
    if name in STAGES:
        assert config.deepspeed_config["zero_stage"] == STAGES[name]
        assert config.deepspeed_config["gradient_accumulation_steps"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu-2", "ddp", "zero2", "zero3"])
def test_two_ranks_on_a_cpu_see_each_other(name: str, tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    lines = launch(name, "--main_process_port", "0", str(tmp_path / "ranks.py"))
    assert f"ranks [0, 1] gloo {STAGES.get(name)} no" in lines


@pytest.mark.slow
def test_a_dry_run_knows_the_launch() -> None:
    arguments = ["--main_process_port", "0", "-m", "posttrain", "train", str(QUICKSTART), "--dry-run"]
    text = "\n".join(launch("zero1", *arguments))
    assert text.count("The job is sound.") == 1
    assert re.search(r"^ +ranks +2 *$", text, re.MULTILINE)


@pytest.mark.slow
def test_machines_meet_by_themselves(tmp_path: Path) -> None:
    """Two launchers of one process each, as on two machines.

    The second starts when the first listens: here each of them could be the host, and accelerate has machine 0 refuse
    a port that is taken.
    """
    (tmp_path / "ranks.py").write_text(RANKS)
    file = str(CONFIGS / "multi-node-rendezvous.yaml")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "--rdzv_backend", "c10d"]
    meeting = ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    logs = [tmp_path / f"machine{rank}.log" for rank in range(2)]
    machines: list[subprocess.Popen[bytes]] = []

    def wait_for(sign: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not sign() and time.monotonic() < deadline:
            assert not any(machine.poll() for machine in machines), [log.read_text() for log in logs]
            time.sleep(0.5)
        assert sign(), [log.read_text() for log in logs]

    try:
        for rank, log in enumerate(logs):
            with log.open("w") as out:
                arguments = [*command, *meeting, "--machine_rank", str(rank), str(tmp_path / "ranks.py")]
                machines.append(subprocess.Popen(arguments, env=env, stdout=out, stderr=subprocess.STDOUT))
            wait_for(lambda: is_port_in_use(port))
        wait_for(lambda: any("ranks [0, 1] gloo 3 no" in log.read_text() for log in logs if log.exists()))
    finally:  # a launcher may wait minutes for one that has left before it
        for machine in machines:
            machine.terminate()
        for machine in machines:
            machine.wait(60)


def test_fsdp_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(JobError, match=r"FSDP needs GPUs.*zero3\.yaml"):
        make_accelerator([], str(tmp_path), 1.0)


def test_ranks_that_do_not_see_each_other_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_accelerator([], str(tmp_path), 1.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(JobError, match=r"started 2 processes, but this one sees 1"):
        make_accelerator([], str(tmp_path), 1.0)


def test_schedulers_only_launch() -> None:
    """The SLURM script and the Kubernetes manifest start ``posttrain train`` through accelerate, with a config here."""
    manifest = list(yaml.safe_load_all((CONFIGS / "kubernetes.yaml").read_text()))
    pods = manifest[1]["spec"]
    container = pods["template"]["spec"]["containers"][0]
    assert pods["completions"] == pods["parallelism"] == 2
    slurm = (CONFIGS / "slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", str(CONFIGS / "slurm.sh")], check=False).returncode == 0
    for command in (container["args"][0], slurm.replace("\\\n", " ")):
        words = command[command.index("accelerate launch") :].split()
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
        assert words[words.index("-m") + 1 : words.index("-m") + 3] == ["posttrain", "train"]
        assert words[-2:] == ["--resume", "auto"]
