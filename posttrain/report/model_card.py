"""A model card from a run folder: method, data, rewards, evaluation, and the job that made the model."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader

from posttrain.config_file import parse_yaml
from posttrain.errors import JobError
from posttrain.report.formats import number
from posttrain.training.run_folder import JOB_FILE
from posttrain.training.run_log import read_metrics

PAPERS = {
    "agent_r": "2501.11425", "bleuberi": "2505.11080", "grpo": "2402.03300", "oreal": "2502.06781",
    "prefix_rft": "2507.01679", "raft": "2304.06767", "spear": "2509.22601", "urpo": "2507.17515",
}  # fmt: skip
CARD_FILE, MODEL_FOLDER = "README.md", "model"


def model_card(run: Path, repository: str) -> str:
    """The text of the card of a finished run's model.

    Raises:
        JobError: ``run`` is no run folder, or its run has not written a model.
    """
    if not (run / JOB_FILE).is_file():
        raise JobError(f"{run} is not a run folder: it has no {JOB_FILE}")
    if not (run / MODEL_FOLDER / "config.json").is_file():
        raise JobError(f"{run} has no finished model: {run / MODEL_FOLDER} is written when training ends")
    job_yaml = (run / JOB_FILE).read_text(encoding="utf-8")
    job: dict[str, Any] = parse_yaml(job_yaml)
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    metrics = read_metrics(run)
    templates = Environment(loader=PackageLoader("posttrain.report", "."), keep_trailing_newline=True)
    text = templates.get_template("model_card.md.jinja").render(
        card_data=_card_data(job).to_yaml(),
        name=repository.rpartition("/")[2],
        repository=repository,
        paper=PAPERS.get(job["method"]),
        steps=int(max((line["step"] for line in metrics), default=0)),
        base=job["model"]["path"],
        data=_named(job["data"]),
        reward=_named(job["reward"]) if job.get("reward") else "the task's own",
        evaluation=_evaluation(metrics),
        hardware=", ".join(environment["accelerators"]) or f"{environment['cpu_cores']} CPU cores",
        job=job,
        job_yaml=job_yaml,
        environment=environment,
    )
    return str(ModelCard(text))  # which checks the metadata


def write_model_folder(run: Path, repository: str, folder: Path) -> Path:
    """Copy the run's model and its card to ``folder``, as they are uploaded.

    Raises:
        JobError: there is nothing to upload, or ``folder`` is there already.
    """
    text = model_card(run, repository)
    if folder.exists():
        raise JobError(f"{folder} is there already, and nothing of it was changed; name another folder")
    shutil.copytree(run / MODEL_FOLDER, folder)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return folder


def _card_data(job: dict[str, Any]) -> ModelCardData:
    base, data = job["model"]["path"], job["data"].get("path")
    return ModelCardData(
        base_model=base if base and _is_hub_id(base) else None,
        datasets=data if data and _is_hub_id(data) else None,
        library_name="transformers",
        pipeline_tag=None if job["method"] == "reward_model" else "text-generation",
        tags=["posttrain", job["method"]],
    )


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "~", "/")) and not Path(name).suffix.startswith(".js")


def _named(section: dict[str, Any]) -> str:
    """``type``, and where it comes from."""
    source = next((section[key] for key in ("path", "model", "urls") if section.get(key)), None)
    if "environment" in section:
        source = section["environment"].get("type")
    return f"`{section['type']}`" + (f", {source}" if source else "")


def _evaluation(metrics: list[dict[str, float]]) -> list[tuple[str, str, str]]:
    """(metric, first, last) of what was evaluated."""
    logged: dict[str, list[float]] = {}
    for line in metrics:
        for name, value in line.items():
            if name.startswith("eval/") and math.isfinite(value):
                logged.setdefault(name, []).append(value)
    return [(name, number(values[0]), number(values[-1])) for name, values in logged.items()]
