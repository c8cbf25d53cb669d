"""One rank of a launch that goes on with runs, each from its newest checkpoint: run by ``test_reshard.py``.

``[accelerate launch --config_file FILE] reshard_runs.py FOLDER RUN...``
"""

import os
import sys
from pathlib import Path

import torch
from sharded_runs import JOB, RUNS

from posttrain.build import run_job
from posttrain.job import load_job
from posttrain.training.accelerator import leave_process_group

# a large epsilon keeps AdamW's first step from being the sign of the gradient, which rounding decides where it is small
SETTINGS = ["trainer.epsilon=1e-3", "trainer.keep_checkpoints=9", "trainer.steps=5"]


def main(place: str, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names:
        folder = Path(place) / name
        job = folder.with_suffix(f".{os.environ.get('RANK', 0)}.yaml")
        job.parent.mkdir(exist_ok=True)
        job.write_text(JOB)
        run_job(load_job(job, [*RUNS[name], *SETTINGS, f"run.folder={folder}"]), "auto")
    leave_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
