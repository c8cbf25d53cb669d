"""From a checked job to a run: its folder, its model, its reward, its trainer."""

import hashlib
import logging
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import posttrain
from posttrain.config_file import parse_yaml
from posttrain.data.tiny_model import TinyModelConfig
from posttrain.errors import JobError
from posttrain.job import SAMPLE_NOTHING, Job, trainer_class
from posttrain.rewards.reward import Reward
from posttrain.tasks.attempts import AttemptsTask
from posttrain.tasks.environment import EnvironmentTask
from posttrain.tasks.task import Task
from posttrain.trainers.sft_config import SFTConfig
from posttrain.training.run_folder import claim_run_folder, differences


def run_job(job: Job[Any], resume: str | None = None) -> Any:
    """Run ``job`` to its end and return the trainer's summary. ``resume`` is "auto" or the path of a checkpoint.

    Raises:
        UserError: something that the job names cannot be used.
        Interrupted: SIGTERM arrived, and the run was saved.
    """
    for tracker in job.run.trackers:
        if find_spec(tracker) is None:
            raise JobError(f"run.trackers: {tracker} is not installed: pip install {tracker}, or leave it out")
    quiet_libraries()
    if job.run.threads is not None:  # on a CPU, a run repeats bit for bit only with as many as before
        import torch

        torch.set_num_threads(job.run.threads)
    folder = Path(job.run.folder)
    check_ranks_agree(job)
    if is_first_rank():
        claim_run_folder(folder, job.to_yaml(), resume is not None)
    trainer = build_trainer(job, starting_model(job))
    return trainer.train(resume)


def check_ranks_agree(job: Job[Any]) -> None:
    """Every rank must run the same code and the same job, which may lie on the disks of several machines.

    Raises:
        JobError: two ranks differ; the message says in what.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return
    from posttrain.training.accelerator import gather_lists, make_accelerator

    accelerator = make_accelerator([], job.run.folder, max_grad_norm=1.0)
    ranks = gather_lists(accelerator, [(job.to_yaml(), code_hash())])
    (first_job, first_code), *others = ranks
    for rank, (other_job, other_code) in enumerate(others, start=1):
        if other_code != first_code:
            raise JobError(f"rank {rank} runs other code of posttrain than rank 0: install the same on every machine")
        if other_job != first_job:
            changes = list(differences(parse_yaml(first_job), parse_yaml(other_job))) or ["run.folder differs"]
            raise JobError(
                f"rank {rank} has another job than rank 0: {'; '.join(changes[:5])} ('there' is rank 0, 'here' rank "
                f"{rank}). Start every machine with the same job file and overrides"
            )


def code_hash() -> str:
    """SHA-256 over the names and contents of the package's Python files."""
    package, digest = Path(posttrain.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def is_first_rank() -> bool:
    """Whether this process is the launch's first, or its only one; known before torch is."""
    return os.environ.get("RANK", "0") == "0"


def build_trainer(job: Job[Any], model: str | Path) -> Any:
    """The trainer of ``job``, starting from ``model``."""
    task = job.data.build()
    components: dict[str, Any] = {}
    if job.method == "sft":
        components = {"grader": job.reward.build() if job.reward else task.reward(), "engine": job.engine}
    elif job.method not in SAMPLE_NOTHING:
        engine = task.engine(job.engine) if isinstance(task, EnvironmentTask | AttemptsTask) else job.engine
        components = {"reward": build_reward(job, task), "grader": task.reward(), "engine": engine}
    return trainer_class(job.method)(
        model,
        job.trainer,
        train_dataset=task.train_examples(),
        eval_dataset=task.eval_examples(),
        model_config=job.model,
        run=job.run,
        **components,
    )


def starting_model(job: Job[Any]) -> str | Path:
    """Where training starts from: the named model, a tiny one made in the run folder, or either after its warm start.

    A warm start is an ``sft`` job of its own in ``run.warm_start_folder``, or in a folder inside the run's.
    """
    if job.warm_start is not None:
        folder = Path(job.run.warm_start_folder or Path(job.run.folder) / "warm_start")
        run_job(warm_start_job(job, folder), resume="auto")
        return folder / "model"
    if job.model.tiny is None:
        return str(job.model.path)
    from posttrain.training.accelerator import make_accelerator

    with make_accelerator([], job.run.folder, max_grad_norm=1.0).main_process_first():
        return created_once(Path(job.run.folder) / "model-start", job.model.tiny)


def warm_start_job(job: Job[Any], folder: Path) -> Job[SFTConfig]:
    """The supervised job that makes the starting model of ``job``."""
    assert job.warm_start is not None
    run = job.run.model_copy(update={"folder": str(folder), "warm_start_folder": None})
    return Job[SFTConfig](
        method="sft", model=job.model, data=job.warm_start_data or job.data, trainer=job.warm_start, run=run
    )


def created_once(folder: Path, config: TinyModelConfig) -> Path:
    """``folder``, with the tiny model of ``config`` if it was not there."""
    from posttrain.data.tiny_model import create_tiny_model

    if not folder.is_dir():
        unfinished = folder.with_suffix(".unfinished")
        create_tiny_model(unfinished, config)
        unfinished.rename(folder)
    return folder


def build_reward(job: Job[Any], task: Task) -> Reward:
    """The job's reward, or the task's own.

    Raises:
        JobError: there is neither.
    """
    if job.reward is not None:
        reward: Reward = job.reward.build()
        return reward
    own = task.reward()
    if own is None:
        raise JobError("reward: data of this type has no judgement of its own; say how completions are judged")
    return own


def quiet_libraries() -> None:
    """Leave the terminal to the run: libraries show no bars of their own and log errors only."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of DeepSpeed's calls
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns when it has to find that out
