"""Episodes as examples, and the same episodes after a mistake."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError
from posttrain.tasks.environment import EnvironmentTask


def test_a_mistake_is_a_prompt_that_the_policy_could_have_come_to(tiny_model_folder: Path) -> None:
    data = {"environment": {"type": "vault"}, "train_tasks": 3, "eval_tasks": 4, "seeds": [0, 1], "workers": 1}
    task = EnvironmentTask.model_validate(data)
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(tiny_model_folder))
    try:
        train, held_out = task.train_examples(), task.eval_examples()
    finally:
        task._pool.close()
    whole = {example.id: example for example in held_out[:8]}
    assert len(train) == 6 and len(held_out) == 16
    assert not {e.metadata["task_id"] for e in train} & {e.metadata["task_id"] for e in held_out}
    vault = task.environment.build()
    for example in held_out[8:]:
        start = whole[example.metadata["mistake_in"]]
        ids = encoder.prompt_ids(start)
        vault.reset(start.metadata["task_id"], start.metadata["seed"])
        for turn in example.metadata["turns"]:
            sampled = [*encoder.completion_ids(turn), encoder.tokenizer.eos_token_id]
            ids = ids + sampled + encoder.next_turn_ids(vault.step(turn).observation)
        assert encoder.prompt_ids(example) == ids and "grey" in example.prompt[-1]["content"]
    without = task.model_copy(update={"mistakes": False})
    task = without.build()
    assert len(task.eval_examples()) == 8
    task._pool.close()


@pytest.mark.parametrize(
    ("environment", "unknown"),
    [("vault", "vault/x"), ("vault", "crafting/1"), ("crafting", "crafting/"), ("workplace", "workplace/odd/1")],
)
def test_an_unknown_task_is_named(environment: str, unknown: str) -> None:
    data = {"environment": {"type": environment}, "train_tasks": [unknown], "workers": 1}
    task = EnvironmentTask.model_validate(data)
    with pytest.raises(DataError, match=f"task '{unknown}' does not begin: .*KeyError"):
        task.train_examples()
    task.close()
