"""One rank of a launch that trains with every method, and again from a checkpoint: run by ``test_sharded_runs.py``.

``accelerate launch --config_file FILE sharded_runs.py FOLDER RUN...``
"""

import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from posttrain.build import run_job
from posttrain.job import load_job
from posttrain.training.accelerator import leave_process_group

STEPS = 2
JOB = """
method: grpo
model:
  tiny: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, key_value_heads: 1, max_length: 64}
data: {type: arithmetic, max_operand: 9, train_size: 40, eval_size: 2}
reward: {type: "parity_reward:ParityReward"}
trainer:
  steps: 2
  prompts_per_step: 3
  rollouts_per_prompt: 6
  tokens_per_micro_batch: 128
  learning_rate: 1e-2
  eval_rollouts: 1
  save_every: 1
  sampling: {max_completion_tokens: 6}
run: {seed: 3, threads: 1}
"""
OREAL = [
    "method=oreal",
    "trainer.policy_freeze_steps=0",
    "trainer.truncated_is_wrong=false",
    "trainer.kl_coef=0.1",
    "trainer.positive_threshold=0.0",
    "trainer.negative_threshold=0.0",
    "trainer.token_reward_model.learning_rate=1e-2",
]
SUPERVISED = "{steps: 2, batch_size: 4, save_every: 1}"
RUNS = {
    "grpo": ["trainer.kl_coef=0.1", "trainer.updates_per_step=2"],
    "grpo-lora": ["trainer.kl_coef=0.1", "model.lora={rank: 4}"],
    "grpo-warm-start": [f"warm_start={SUPERVISED}"],
    "oreal": OREAL,
    "oreal-lora": [*OREAL, "model.lora={rank: 4}"],
    "raft": ["method=raft", "trainer.kl_rank_coef=0.1"],
    "bleuberi": ["method=bleuberi", "data={type: rewriting, train_size: 40, eval_size: 2}"],
    "prefix_rft": ["method=prefix_rft"],
    "urpo": [
        "method=urpo",
        "data={type: addition_referee, problems: {max_operand: 9, train_size: 40, eval_size: 2}}",
        "trainer.prompts_per_step=6",
        "trainer.referee_template=compact",
        "trainer.referee_max_completion_tokens=6",
    ],
    "sft": ["method=sft", "reward=null", f"trainer={SUPERVISED}"],
}


def run(folder: Path, name: str, resume: str | None = None) -> None:
    job = folder.with_suffix(f".{os.environ['RANK']}.yaml")
    job.write_text(JOB)
    run_job(load_job(job, [*RUNS[name], f"run.folder={folder}"]), resume)


def main(place: str, *names: str) -> None:
    torch.set_num_threads(1)
    for name in names:
        whole, resumed = Path(place) / name, Path(place) / f"{name}-resumed"
        run(whole, name)
        if PartialState().is_main_process:
            shutil.copytree(whole, resumed)
            shutil.rmtree(resumed / "checkpoints" / f"step_{STEPS:06d}")
            shutil.rmtree(resumed / "model")
        PartialState().wait_for_everyone()
        run(resumed, name, "auto")
    leave_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
