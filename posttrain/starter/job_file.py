"""A first job for a user's own data: which columns a method reads, and the commented YAML that names them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from posttrain.data.fields import ExampleField
from posttrain.data.rows import read_rows

# What a method reads of a row beside the prompt, and the reward of a job that chooses none (None: it takes none).
METHOD_READS: dict[str, tuple[ExampleField, ...]] = {
    "bleuberi": ("references",),
    "prefix_rft": ("answer", "demonstration"),
    "sft": ("demonstration",),
}
ON_ENVIRONMENTS = ("agent_r", "spear")
NEEDS_NO_REWARD = (*ON_ENVIRONMENTS, "reward_model", "sft")
NEEDS_NO_COLUMNS = (*ON_ENVIRONMENTS, "reward_model")

REWARD_READS: dict[str, tuple[ExampleField, ...]] = {
    "math_answer": ("answer",),
    "exact_match": ("answer",),
    "token_f1": ("answer",),
    "bleu": ("references",),
    "learned": (),
    "remote": (),
}
REWARD_KEY = {"learned": "model", "remote": "urls"}  # what --reward-source is to them

USUAL_COLUMNS: dict[ExampleField, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "problem", "instruction", "input", "query", "messages"),
    "answer": ("answer", "target", "label", "final_answer", "output"),
    "references": ("references", "reference", "answer", "output", "response"),
    "demonstration": ("demonstration", "solution", "response", "output", "completion", "answer"),
}


@dataclass(slots=True)
class Wishes:
    """What the person said."""

    method: str
    model: str
    data: str | None = None
    columns: dict[ExampleField, str] = field(default_factory=dict)
    reward: str | None = None
    reward_source: str | None = None
    preferences: str | None = None
    environment: str | None = None


def default_reward(method: str) -> str | None:
    """The reward to propose: BLEU for BLEUBERI, a mathematical answer for others that take one."""
    if method in NEEDS_NO_REWARD:
        return None
    return "bleu" if method == "bleuberi" else "math_answer"


def fields_read(method: str, reward: str | None) -> tuple[ExampleField, ...]:
    """The fields of a row that the job needs, the prompt first."""
    if method in NEEDS_NO_COLUMNS:
        return ()
    of_reward = REWARD_READS.get(reward or "", ())
    return tuple(dict.fromkeys(("prompt", *METHOD_READS.get(method, ()), *of_reward)))


def columns_of(data: str) -> list[str]:
    """The columns of a data file or hub dataset.

    Raises:
        DataError: it cannot be read.
    """
    return list(dict.fromkeys(column for row in read_rows(data) for column in row.values))


def guess_column(name: ExampleField, columns: Sequence[str]) -> str | None:
    """The column that usually holds field ``name``."""
    return next((column for column in USUAL_COLUMNS.get(name, (name,)) if column in columns), None)


def write_job(wishes: Wishes, path: Path) -> str:
    """The commented YAML of a job, for wishes that say all that its method needs."""
    templates = Environment(
        loader=PackageLoader("posttrain.starter", "."), undefined=StrictUndefined, keep_trailing_newline=True
    )
    templates.filters["inline"] = _inline
    return templates.get_template("job.yaml.jinja").render(
        asdict(wishes),
        file=path,
        environment=wishes.environment if wishes.method in ON_ENVIRONMENTS else None,
        reward=_reward(wishes),
        engine="transformers" if find_spec("vllm") is None else "vllm",
        name=path.stem,
    )


def _reward(wishes: Wishes) -> str | None:
    if wishes.reward is None:
        return None
    key, source = REWARD_KEY.get(wishes.reward), wishes.reward_source
    told = {key: [source] if key == "urls" else source} if key else {}
    return _inline({"type": wishes.reward, **told})


def _inline(value: object) -> str:
    """YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
