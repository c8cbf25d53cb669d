"""Run folders: whose they are, and what is said to somebody else."""

from pathlib import Path

import pytest

from posttrain.errors import JobError
from posttrain.training.run_folder import claim_run_folder

JOB = "method: oreal\ntrainer: {learning_rate: 1e-6, steps: 5}\nrun: {folder: a, seed: 1}\n"


def test_a_new_or_empty_folder_gets_the_job(tmp_path: Path) -> None:
    (tmp_path / "deep" / "run").mkdir(parents=True)
    (tmp_path / "deep" / "run" / "job.tmp").write_text("meth")
    claim_run_folder(tmp_path / "deep" / "run", JOB, resume=False)
    claim_run_folder(tmp_path / "deep" / "run", JOB, resume=False)
    assert (tmp_path / "deep" / "run" / "job.yaml").read_text() == JOB


def test_the_same_job_goes_on_even_if_the_folder_was_moved(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, JOB, resume=False)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    claim_run_folder(tmp_path, JOB.replace("folder: a", "folder: b").replace("1e-6", "0.000001"), resume=True)


def test_the_same_job_is_not_started_over_a_run(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, JOB, resume=False)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(JobError, match=r"holds a run of this job\. Go on with it \(--resume auto\)"):
        claim_run_folder(tmp_path, JOB, resume=False)


def test_another_job_is_refused_with_what_differs_and_the_choices(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, JOB, resume=False)
    with pytest.raises(JobError) as caught:
        claim_run_folder(tmp_path, JOB.replace("1e-6", "2e-6").replace(", seed: 1", ""), resume=True)
    message = str(caught.value)
    assert "trainer.learning_rate is 1e-06 there and 2e-06 here; run.seed is 1 there and not set here." in message
    assert f"posttrain train {tmp_path}/job.yaml --resume auto" in message


def test_many_differences_are_counted(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, "\n".join(f"k{i}: 1" for i in range(8)), resume=False)
    with pytest.raises(JobError, match=r"k4 is 1 there and 2 here; and 3 more\."):
        claim_run_folder(tmp_path, "\n".join(f"k{i}: 2" for i in range(8)), resume=False)


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(JobError, match="holds files that are no run of posttrain"):
        claim_run_folder(tmp_path, JOB, resume=False)
    with pytest.raises(JobError, match="holds files that are no run of posttrain"):
        claim_run_folder(tmp_path / "thesis.txt", JOB, resume=False)
