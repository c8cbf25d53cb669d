"""Is a completion JSON that fits a schema? jsonschema in a worker process: a schema holds patterns and references."""

import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.errors import JobError
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import WorkerPool, WorkerResult

INSTALL = "pip install 'posttrain[instructions]'"
FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL | re.IGNORECASE)


class JsonSchemaReward(ConfiguredReward):
    """1 where the completion is JSON that fits the schema, else 0, with the first violation as message.

    Give either ``json_schema`` or ``schema_column``. Draft 2020-12, unless the schema's ``$schema`` names another.
    Part ``parses``: 1 where the completion is JSON at all.

    Errors: ``invalid_input`` for a row without a schema or with one that is not valid (a reference out of the schema
    is not followed); ``timeout`` and ``crashed`` for a completion that the worker did not survive.
    """

    type: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] | None = Field(default=None, description="the schema itself; {} is any JSON")
    schema_column: str | None = Field(default=None, description="column with each row's schema, an object or its text")
    allow_fence: bool = Field(default=True, description="a ```json fence around the whole completion is no mistake")
    timeout_s: float = Field(default=5.0, gt=0, description="wall-clock seconds of one completion")
    workers: int = Field(default=2, ge=1, description="processes that validate")

    @model_validator(mode="after")
    def _one_schema(self) -> "JsonSchemaReward":
        if (self.json_schema is None) == (self.schema_column is None):
            raise ValueError("json_schema needs either json_schema or schema_column")
        return self

    def make(self) -> Reward:
        """Raises: JobError, where jsonschema is missing or ``json_schema`` is not a valid schema."""
        if find_spec("jsonschema") is None:
            raise JobError(f"type: json_schema needs jsonschema: {INSTALL}")
        if self.schema_column is None:
            try:
                validator(json.dumps(self.json_schema))
            except ValueError as error:
                raise JobError(f"json_schema: {error}") from error
        return self

    @cached_property
    def _pool(self) -> WorkerPool:
        return WorkerPool(f"{__name__}:judge", workers=self.workers, timeout_s=self.timeout_s)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        questions = []
        for item in inputs:
            column = self.schema_column
            schema = self.json_schema if column is None else item.example.metadata.get(column)
            text = schema if isinstance(schema, str) else json.dumps(schema)
            questions.append({"schema": text, "text": item.completion, "allow_fence": self.allow_fence})
        return [self._output(result) for result in self._pool.map(questions)]

    def _output(self, result: WorkerResult) -> RewardOutput:
        if result.error is not None:
            return RewardOutput(None, error=result.error, message=result.message)
        verdict = result.value
        if "invalid" in verdict:
            where = "json_schema" if self.schema_column is None else f"column {self.schema_column}"
            return RewardOutput(None, error="invalid_input", message=f"{where}: {verdict['invalid']}")
        return RewardOutput(float(verdict["valid"]), {"parses": float(verdict["parses"])}, message=verdict["message"])

    def close(self) -> None:
        self._pool.close()


@lru_cache(maxsize=256)
def validator(schema_text: str) -> Any:
    """The jsonschema validator of a schema.

    Raises:
        ValueError: the text is not a schema.
    """
    import jsonschema
    from jsonschema_specifications import REGISTRY

    try:
        schema = json.loads(schema_text)
        if not isinstance(schema, dict | bool):
            raise ValueError(f"a schema is an object, not {schema_text:.200}")
        known = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        known.check_schema(schema)
    except json.JSONDecodeError as error:
        raise ValueError(f"the schema is not JSON: {error}") from error
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a valid schema: {error.message} (at {error.json_path})") from error
    # A registry of its own: the default one fetches references over the network.
    return known(schema, registry=REGISTRY)


def judge(item: dict[str, Any]) -> dict[str, Any]:
    """Run by a worker: ``{"valid", "parses", "message"}``, or ``{"invalid": why}`` for what is not a schema."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        check = validator(item["schema"])
    except ValueError as error:
        return {"invalid": str(error)}
    fenced = FENCED.fullmatch(item["text"]) if item["allow_fence"] else None
    try:
        value = json.loads(fenced[1] if fenced else item["text"], parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return {"valid": False, "parses": False, "message": f"not JSON: {error}"}
    try:
        violation = best_match(check.iter_errors(value))
    except Unresolvable as error:
        return {"invalid": f"the schema's reference {error.ref!r} leads nowhere within it"}
    message = "" if violation is None else f"at {violation.json_path}: {violation.message:.300}"
    return {"valid": violation is None, "parses": True, "message": message}


def _refuse(constant: str) -> None:
    """Python reads NaN and Infinity; JSON has no such numbers."""
    raise ValueError(f"{constant} is not JSON")
