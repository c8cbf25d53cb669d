"""Stands in for ``posttrain train JOB run.folder=FOLDER --resume auto``.

It logs a curve that depends on the job, or misbehaves as told by ``trainer.max_error_fraction``, a number that the stub
has no other use for:
0.1 gain 0.5; 0.2 gain 0.3; 0.5 fail; 0.6 wait to be stopped; 0.7 log no accuracy; 0.8 stop one step early.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from posttrain.config_file import parse_yaml


def main() -> None:
    job = parse_yaml(Path(sys.argv[1]).read_text())
    folder, seed = Path(json.loads(sys.argv[2].removeprefix("run.folder="))), job["run"]["seed"]
    with (folder / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[2:]) + "\n")
    (folder / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    if job["method"] == "sft":
        (folder / "warm").touch()
        return
    if not (Path(job["run"]["warm_start_folder"]) / "warm").exists():
        sys.exit("error: the warm start has not ended")
    behaviour, steps = job["trainer"]["max_error_fraction"], job["trainer"]["steps"]
    if behaviour == 0.5 and not (folder / "mended").exists():
        sys.exit("error: the reward broke its contract")
    if behaviour == 0.6 and not (folder / "mended").exists():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        (folder / "waiting").touch()
        time.sleep(60)
    gain = 0.3 if behaviour == 0.2 else 0.5
    lines = [
        {
            "step": step,
            "batch/rollouts": 10.0,
            "batch/environment_steps": 70.0,
            "eval/accuracy": 0.2 + 0.01 * seed + gain * step / steps,
        }
        for step in range(steps + (behaviour != 0.8))
    ]
    if behaviour == 0.7:
        lines = [{"step": line["step"], "eval/accuracy_greedy": 0.0} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


main()
