"""The sets of a suite as tasks of lm-evaluation-harness (0.4): its YAML, our prompts as rows, our rewards as judges."""

import json
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

CASES = "environment, preferences, several messages, rollouts above 1, stop_token_ids: leave such sets out"
TASK = """\
task: posttrain_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: ""
generation_kwargs: {generation}
process_results: !function judges.judge_{number}
metric_list: [{{metric: score, aggregation: mean, higher_is_better: true}}]
"""


def export_tasks(suite: SuiteConfig, folder: Path) -> list[str]:
    """Write ``SET.yaml``, ``SET.jsonl`` and ``judges.py``, which needs posttrain beside lm-eval; a command a set.

    Raises:
        UserError: a set cannot be opened, or is more than one answer to one prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judges, commands = ["from posttrain.evaluation.lm_eval_tasks import judge\n"], list[str]()
    for number, (name, config) in enumerate(suite.sets.items()):
        with named(name), closing(open_set(name, config)) as opened:
            rows = [{"prompt": _text(config, each), "example": json.dumps(asdict(each))} for each in opened.examples]
        file = folder.resolve() / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sampling, drawn = config.sampling, config.sampling.temperature > 0
        generation = {"until": [], "max_gen_toks": sampling.max_completion_tokens, "do_sample": drawn}
        generation |= sampling.model_dump(include={"temperature", "top_p", "top_k"} if drawn else {"temperature"})
        task = TASK.format(name=name, rows=json.dumps(str(file)), generation=json.dumps(generation), number=number)
        file.with_suffix(".yaml").write_text(task)
        judges.append(f"judge_{number} = judge({config.model_dump_json()!r})")
        chat = "" if isinstance(opened.examples[0].prompt, str) else " --apply_chat_template"
        commands.append(f"lm_eval --include_path {folder} --tasks posttrain_{name}{chat} --model ...")
    (folder / "judges.py").write_text("\n".join(judges) + "\n", encoding="utf-8")
    return commands


def judge(config: str) -> Callable[[dict[str, Any], list[str]], dict[str, float]]:
    """lm-eval's ``process_results`` of a set: the reward of the text of the answer; 0 where it cannot be judged."""
    own = SetConfig.model_validate_json(config)
    reward = own.task.build().reward() if own.reward is None else own.reward.build()
    return lambda row, results: {
        "score": score_checked(reward, [RewardInput(Example(**json.loads(row["example"])), results[0])])[0].score or 0.0
    }


def _text(config: SetConfig, example: Example) -> str:
    messages = [{"role": "user", "content": example.prompt}] if isinstance(example.prompt, str) else example.prompt
    is_other = example.task in ("preference", "environment") or [each["role"] for each in messages] != ["user"]
    if is_other or config.rollouts > 1 or config.sampling.stop_token_ids:
        raise JobError(f"lm-eval gets one answer to one user's message, and {example.id!r} is another case ({CASES})")
    return messages[0]["content"]
