"""``posttrain plan``: which GPUs a job needs, and how long a step takes there."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    job: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes to it.")] = None,
    gpus: Annotated[str | None, typer.Option(metavar="8xH100", help="GPUs of a machine.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Of a prompt; else its data is read.")] = None,
    completion_tokens: Annotated[int | None, typer.Option(min=1, help="Of a completion; else its budget.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Measure this machine for some seconds, plan for it.")] = False,
    scale: Annotated[bool, typer.Option("--scale", help="Also 1 to 1,024 of these GPUs.")] = False,
) -> None:
    """Say how a job fits on GPUs and what a step takes there, by a model; train nothing."""
    from posttrain.build import quiet_libraries
    from posttrain.capacity.hardware import Cluster, parse_cluster
    from posttrain.capacity.placement import fastest
    from posttrain.capacity.probe import probe_device
    from posttrain.capacity.tables import plan_sections, prompts_of, scale_lines
    from posttrain.capacity.workload import workload_of
    from posttrain.errors import JobError
    from posttrain.job import load_job
    from posttrain.planning import print_sections

    quiet_libraries()
    if probe == (gpus is not None):
        raise JobError("plan takes --gpus, for example 8xH100, or --probe, which plans for one device of this machine")
    cluster = None if gpus is None else parse_cluster(gpus, nodes)
    loaded = load_job(job, overrides or [])
    work = workload_of(
        loaded, (prompt_tokens, prompt_tokens) if prompt_tokens else prompts_of(loaded), completion_tokens
    )
    cluster = cluster or Cluster(probe_device(work))
    shown = plan_sections(work, cluster, fastest(work, cluster))
    if scale:
        shown["GPUs: seconds of a step colocated, split, overlapped"] = list(scale_lines(work, cluster))
    print_sections(shown, [], "Times are those of a model. Nothing was trained or written.")
