"""The sets of a suite as tasks of lm-evaluation-harness (0.4): its YAML, our prompts as rows, our rewards as judges."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.errors import JobError
from posttrain.evaluation.run_suite import named, open_set
from posttrain.evaluation.suite import SetConfig, SuiteConfig
from posttrain.rewards.checked import score_checked
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

TASK = """\
task: posttrain_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: ""
generation_kwargs: {generation}
process_results: !function judges.{function}
metric_list: [{{metric: score, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


def export_tasks(suite: SuiteConfig, folder: Path) -> list[str]:
    """Write ``SET.yaml``, ``SET.jsonl`` and ``judges.py``, which needs posttrain beside lm-eval; a command a set.

    Raises:
        UserError: a set cannot be opened, or is more than one answer to one prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judges, commands = ["from posttrain.evaluation.lm_eval_tasks import judge\n"], list[str]()
    for name, config in suite.sets.items():
        with named(name), closing(open_set(name, config)) as opened:
            rows = [{"prompt": _text(config, each), "example": json.dumps(asdict(each))} for each in opened.examples]
        file, function = folder.resolve() / f"{name}.jsonl", re.sub(r"\W", "_", f"judge_{name}")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        drawn = config.sampling.temperature > 0
        generation = {"until": [], "max_gen_toks": config.sampling.max_completion_tokens, "do_sample": drawn}
        generation |= config.sampling.model_dump(include={"temperature", *(("top_p", "top_k") if drawn else ())})
        task = TASK.format(name=name, rows=json.dumps(str(file)), generation=json.dumps(generation), function=function)
        file.with_suffix(".yaml").write_text(task)
        judges.append(f"{function} = judge({config.model_dump_json()!r})")
        chat = "" if isinstance(opened.examples[0].prompt, str) else " --apply_chat_template"
        commands.append(f"lm_eval --include_path {folder} --tasks posttrain_{name}{chat} --model ...")
    (folder / "judges.py").write_text("\n".join(judges) + "\n")
    return commands


def judge(config: str) -> Callable[[dict[str, Any], list[str]], dict[str, float]]:
    """lm-eval's ``process_results`` of a set: the reward of the text of the answer; 0 where it cannot be judged."""
    own = SetConfig.model_validate_json(config)
    reward = own.task.build().reward() if own.reward is None else own.reward.build()

    def process_results(row: dict[str, Any], results: list[str]) -> dict[str, float]:
        (output,) = score_checked(reward, [RewardInput(Example(**json.loads(row["example"])), results[0])])
        return {"score": output.score or 0.0}

    return process_results


def _text(config: SetConfig, example: Example) -> str:
    messages = [{"role": "user", "content": example.prompt}] if isinstance(example.prompt, str) else example.prompt
    if config.rollouts > 1 or config.sampling.stop_token_ids or example.task in ("preference", "environment"):
        raise JobError("lm-eval has no environments, preferences, rollouts above 1, stop_token_ids; leave the set out")
    if [message["role"] for message in messages] != ["user"]:
        raise JobError(f"lm-eval puts one user's message to a model, and the prompt of {example.id!r} is another")
    return messages[0]["content"]
