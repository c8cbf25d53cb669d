"""The page on environments: its YAML loads."""

import re
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from posttrain.agents.config import AnyEnvironmentConfig
from posttrain.job import load_job

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "environments.md").read_text()
JOB, SERVER = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def test_yaml_is_valid(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    assert load_job(tmp_path / "job.yaml").data.environment.task_types == ["boil", "find-plant"]
    environment = TypeAdapter(AnyEnvironmentConfig).validate_python(yaml.safe_load(SERVER)["environment"])
    assert environment.task_ids("train")[-1] == "http/999"


def test_every_environment_is_in_the_table() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "posttrain" / "agents").glob("*.py"))
    kinds = re.findall(r'type: Literal\["(\w+)"\]', sources)
    assert len(kinds) >= 4 and all(f"| `{kind}` |" in TEXT for kind in kinds)
