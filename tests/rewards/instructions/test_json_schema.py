"""JSON that fits a schema, from the job or from each row."""

from typing import Any

import pytest

from posttrain.errors import JobError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.instructions.json_schema import JsonSchemaReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example

PERSON = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "age": {"$ref": "#/$defs/age"}},
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


def judge(reward: Any, *texts: str, **metadata: Any) -> list[RewardOutput]:
    return score_checked(reward, [RewardInput(Example("row", "q", metadata=metadata), text) for text in texts])


def test_validity() -> None:
    reward = JsonSchemaReward(json_schema=PERSON, timeout_s=20, workers=1).build()
    cases = {
        '{"name": "Ada", "age": 36}': (1, 1, ""),
        ' ```json\n{"name": "Ada"}\n```\n': (1, 1, ""),
        '{"name": "Ada", "age": 0}': (1, 1, ""),
        '{"name": "Ada", "age": -1}': (0, 1, "at $.age: -1 is less than the minimum of 0"),
        '{"age": 1}': (0, 1, "at $: 'name' is a required property"),
        '{"name": "ada"}': (0, 1, "at $.name: 'ada' does not match '^[A-Z]'"),
        '{"name": "Ada", "x": NaN}': (0, 0, "not JSON: NaN is not JSON"),
        '{"name": "Ada"': (0, 0, "not JSON: Expecting ',' delimiter: line 1 column 15 (char 14)"),
        "": (0, 0, "not JSON: Expecting value: line 1 column 1 (char 0)"),
    }
    outputs = judge(reward, *cases, "[" * 100_000, 'So: ```json\n{"name": "Ada"}\n```')
    reward.close()
    assert [(out.score, out.parts["parses"], out.message) for out in outputs[: len(cases)]] == [*cases.values()]
    assert [(out.score, out.parts["parses"]) for out in outputs[len(cases) :]] == [(0, 0), (0, 0)]


def test_a_fence_may_be_refused() -> None:
    reward = JsonSchemaReward(json_schema={}, allow_fence=False, timeout_s=20, workers=1)
    assert [output.score for output in judge(reward, "```json\n{}\n```", "{}", "3")] == [0, 1, 1]
    reward.close()


def test_schemas_of_rows() -> None:
    reward = JsonSchemaReward(schema_column="schema", timeout_s=20, workers=1)
    schemas: list[Any] = [
        {"type": "integer"},
        '{"type": "integer"}',
        {"type": "string"},
        {"type": "whole"},
        "{",
        None,
        {"$ref": "#/nowhere"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"type": "string", "pattern": "("},
    ]
    outputs = [judge(reward, "3", schema=schema)[0] for schema in schemas]
    reward.close()
    assert [output.score for output in outputs[:3]] == [1, 1, 0]
    assert {output.error for output in outputs[3:]} == {"invalid_input"}
    assert "column schema: not a valid schema: 'whole' is not valid" in outputs[3].message
    assert "column schema: the schema is not JSON" in outputs[4].message
    assert "a schema is an object, not null" in outputs[5].message
    assert "/nowhere' leads nowhere" in outputs[6].message
    assert "leads nowhere" in outputs[7].message, "nothing is fetched"
    assert "'(' is not a 'regex'" in outputs[8].message


def test_a_hostile_pattern_costs_one_sample() -> None:
    reward = JsonSchemaReward(json_schema={"type": "string", "pattern": "^(a+)+$"}, timeout_s=1.0, workers=1)
    outputs = judge(reward, '"aa"', '"' + "a" * 60 + 'b"', '"b"')
    reward.close()
    assert [(output.score, output.error) for output in outputs] == [(1, None), (None, "timeout"), (0, None)]


def test_a_wrong_schema_of_the_job_stops_it() -> None:
    with pytest.raises(JobError, match="json_schema: not a valid schema: 'whole' is not valid"):
        JsonSchemaReward(json_schema={"type": "whole"}).build()
    with pytest.raises(ValueError, match="either json_schema or schema_column"):
        JsonSchemaReward()
