"""The plan as a person meets it."""

from pathlib import Path
from typing import Any

import pytest

from posttrain.capacity.hardware import Cluster, Device, parse_cluster
from posttrain.capacity.placement import fastest
from posttrain.capacity.tables import plan_sections, prompts_of
from posttrain.capacity.workload import POLICY, ModelShape, held_models, workload_of
from posttrain.cli.plan import plan
from posttrain.errors import JobError
from posttrain.job import load_job

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "recipes" / "oreal" / "quickstart.yaml"


def test_the_printed_plan_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    plan(QUICKSTART, ["trainer.prompts_per_step=64"], gpus="8xH100", nodes=4, prompt_tokens=8, scale=True)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for title in (
        "4 x 8 H100",
        "Placements",
        "A step, colocated on",
        "Memory of a GPU",
        "Batch settings",
        "GPUs: seconds",
    ):
        assert f"\n{title}" in f"\n{printed}"
    assert printed.count("*") >= 11  # the fastest of every row
    assert "\n  1,024 " in printed


@pytest.mark.parametrize("gpus", [None, "8xH100"])
def test_it_plans_for_gpus_or_for_this_machine(gpus: str | None) -> None:
    with pytest.raises(JobError, match="plan takes --gpus, for example 8xH100, or --probe"):
        plan(QUICKSTART, gpus=gpus, probe=gpus is not None)


def test_a_job_without_rollouts_of_prompts_is_refused() -> None:
    with pytest.raises(
        JobError, match=r"^method: plan reckons with rollouts of prompts, and agent_r samples otherwise"
    ):
        workload_of(load_job(ROOT / "recipes" / "agent_r" / "quickstart.yaml"), (8.0, 8), None)


def test_the_workload_is_the_jobs() -> None:
    job = load_job(QUICKSTART, ["model.gradient_checkpointing=true"])
    mean, longest = prompts_of(job)
    assert 0 < mean <= longest
    budget = job.trainer.sampling.max_completion_tokens
    work = workload_of(job, (mean, longest), None)
    assert (work.completion_tokens, work.longest) == (budget, longest + budget)
    assert workload_of(job, (mean, longest), 3.5).completion_tokens == 3.5
    assert workload_of(job, (mean, longest), 1e6).completion_tokens == budget
    assert work.tokens == job.trainer.prompts_per_step * job.trainer.rollouts_per_prompt * (mean + budget)
    assert list(work.models) == [POLICY, "reference model", "token reward model"]
    assert work.models["reference model"] == (work.parameters, 0)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.kl_coef=0", "trainer.token_weighting=none"], {POLICY: (100, 100)}),
        (
            ["trainer.kl_coef=0", "trainer.token_reward_model={sharing: lora_on_reference, lora_rank: 2}"],
            {POLICY: (100, 100), "token reward model": (120, 20)},
        ),
        (
            ["trainer.kl_coef=0.1", "trainer.token_reward_model={sharing: lora_on_reference, lora_rank: 2}"],
            {POLICY: (100, 100), "reference model": (100, 0), "token reward model": (20, 20)},
        ),
    ],
)
def test_the_models_that_a_trainer_holds(
    overrides: list[str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.capacity.workload.lora_parameters", lambda model, rank: 10 * rank)
    shape = ModelShape("m", 100, 100, 10, 64, 8)
    assert held_models(load_job(QUICKSTART, overrides), shape, None) == expected


def test_the_plan_shows_what_a_job_can_run(seven: Any) -> None:
    cluster = parse_cluster("8xH100", 1)
    shown = plan_sections(seven, cluster, fastest(seven, cluster))
    memory = dict(shown["Memory of a GPU"])
    assert (memory["weights"], memory["optimizer"]) == ("14 GB", f"{84 / 8:.3g} GB")
    (title,) = (title for title in shown if title.startswith("A step"))
    assert title == "A step, colocated on 8, ZeRO-1, tensor parallel 1"
    assert dict(shown["Batch settings"])["tokens_per_micro_batch"].startswith("8,192; at most ")


@pytest.mark.slow
def test_the_probe_reaches_what_it_then_plans_with(capsys: pytest.CaptureFixture[str]) -> None:
    """Rates of this machine are positive, and their plan is of one device."""
    from posttrain.capacity.probe import probe_device

    work = workload_of(load_job(QUICKSTART), (8.0, 8), None)
    device = probe_device(work)
    assert isinstance(device, Device)
    assert 1e7 < device.flops < 1e16 and 1e6 < device.bandwidth < 1e14 and device.memory > 1e9
    assert next(iter(fastest(work, Cluster(device)))) == "colocated"
