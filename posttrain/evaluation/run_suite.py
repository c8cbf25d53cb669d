"""Sets answered, judged and summed up; what was answered is kept, so that a killed evaluation goes on."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from posttrain.data.chat import PromptEncoder
from posttrain.data.rows import read_rows
from posttrain.errors import DataError, JobError, UserError
from posttrain.evaluation.contamination import contaminated
from posttrain.evaluation.held_out import answer_requests
from posttrain.evaluation.suite import SetConfig, SuiteConfig
from posttrain.evaluation.summary import Groups, summary
from posttrain.rewards.checked import score_checked
from posttrain.rewards.judge.judge_engine import model_files
from posttrain.rewards.reward import Reward
from posttrain.rollout.engine import RolloutEngine
from posttrain.tasks.environment import EnvironmentTask
from posttrain.tasks.file_task import FileTask
from posttrain.trainers.collection import collect_groups, record_scores, reward_inputs
from posttrain.training.append_file import opened_to_append
from posttrain.types import Example, Rollout, RolloutGroup

ANSWERS_FILE = "answers.jsonl"

Progress = Callable[[str, int, int], None]  # set, prompts done, of how many


@dataclass(slots=True)
class OpenSet:
    """A set whose data was found in order."""

    name: str
    config: SetConfig
    task: Any
    examples: list[Example]
    reward: Reward

    def close(self) -> None:
        self.reward.close()
        if isinstance(self.task, EnvironmentTask):
            self.task.close()


def run_suite(
    suite: SuiteConfig, model: str | None, output: Path, on_progress: Progress = lambda name, done, total: None
) -> tuple[dict[str, Any], dict[str, Groups]]:
    """Evaluate the model at folder or hub id ``model``; None, if no set needs one. The result as JSON values, and the
    scored groups of every set. Answers are kept in ``output/answers.jsonl``.

    Raises:
        UserError: a set cannot be opened (all are, before the first is answered), the model cannot be loaded, or the
            answers in ``output`` are another model's.
    """
    results, groups = dict[str, Any](), dict[str, Groups]()
    with ExitStack() as stack:
        sets = list[OpenSet]()
        for name, config in suite.sets.items():
            with named(name):
                sets.append(stack.enter_context(closing(open_set(name, config))))
        source = suite.contamination
        training = [] if source is None else read_rows(source.path, split=source.split)

        @cache
        def engine() -> RolloutEngine:
            built: RolloutEngine = stack.enter_context(closing(suite.engine.build(model_path=model, seed=suite.seed)))
            return built

        for each in sets:
            with named(each.name):
                if all(example.task == "preference" for example in each.examples):
                    groups[each.name] = ranked(each)
                elif model is None:
                    raise JobError("name the model that answers: --model FOLDER_OR_RUN_OR_HUB_ID")
                else:
                    groups[each.name] = answered(each, suite, model, engine, output / ANSWERS_FILE, on_progress)
            found = None if source is None else contaminated(each.examples, training, source.words)
            results[each.name] = summary(each.config, groups[each.name], found)
    return {"model": model, "suite": suite.model_dump(mode="json"), "sets": results}, groups


@contextmanager
def named(name: str) -> Iterator[None]:
    """Errors of what is done for a set begin with its key."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"sets.{name}: {error}") from error


def open_set(name: str, config: SetConfig) -> OpenSet:
    """The examples of a set and its reward.

    Raises:
        UserError: they cannot be had, or lack what the set needs.
    """
    task = config.task.build()
    examples = task.eval_examples() or (task.train_examples() if isinstance(task, FileTask) else [])
    if not examples:
        raise DataError("task: the set is empty: the task has no held-out example")
    reward: Reward | None = config.reward.build() if config.reward is not None else task.reward()
    if reward is None:
        raise JobError("reward: the task has no judgement of its own; say how answers are judged")
    for example in examples:
        if config.category is not None and config.category not in example.metadata:
            raise DataError(f"category: the row {example.id!r} has no column {config.category!r}")
        if config.length_control and not example.references:
            raise DataError(f"length_control: the row {example.id!r} has no reference to be compared with")
    return OpenSet(name, config, task, examples[: config.limit], reward)


def answered(
    each: OpenSet,
    suite: SuiteConfig,
    model: str,
    engine: Callable[[], RolloutEngine],
    path: Path,
    on_progress: Progress,
) -> Groups:
    """The scored rollouts of the set. Those of an equal request in ``path`` are scored again; the others are drawn, as
    in an evaluation while training, and added to it. ``engine`` is called if there are such.

    Raises:
        JobError: the file has the answers of another model or engine.
    """
    from posttrain.training.model import load_tokenizer

    tokenizer, sampling, environment = load_tokenizer(model), each.config.sampling, None
    requests = answer_requests(
        PromptEncoder(tokenizer), each.examples, sampling=sampling, n=each.config.rollouts, seed=suite.seed
    )
    if isinstance(each.task, EnvironmentTask):
        environment = each.config.task.model_dump(mode="json")
    settings = [sampling.model_dump(), each.config.rollouts, environment]
    asked = {request.id: [request.example.id, request.prompt_ids, request.seed, settings] for request in requests}
    keys = {name: hashlib.sha256(json.dumps(parts).encode()).hexdigest() for name, parts in asked.items()}
    # A folder may be moved: its files are the model.
    answerer = {"model": model_files(model) or model, "engine": suite.engine.model_dump(include={"type", "dtype"})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened_to_append(path, answerer, by="another model or engine") as file:
        saved = {row["key"]: row["rollouts"] for row in map(json.loads, path.read_bytes().splitlines())}
        groups = {
            request.group: RolloutGroup(request.example, [Rollout(**rollout) for rollout in saved[keys[request.id]]])
            for request in requests
            if keys[request.id] in saved
        }
        score_together(each.reward, list(groups.values()))
        missing = [request for request in requests if request.group not in groups]
        done = len(groups)

        def keep(group: RolloutGroup) -> None:
            nonlocal done
            done += 1
            row = {"key": keys[group.rollouts[0].request_id], "rollouts": [asdict(each) for each in group.rollouts]}
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            on_progress(each.name, done, len(requests))

        if missing:
            around: Any = SimpleNamespace(build=lambda model_path, seed: engine())
            playing = each.task.engine(around).build(model_path=model, seed=suite.seed) if environment else engine()
            room = playing.context_length - sampling.max_completion_tokens
            PromptEncoder(tokenizer, room).check(request.example for request in missing)
            drawn, _ = collect_groups(playing, missing, each.reward, on_scored=keep)
            groups |= dict(zip((request.group for request in missing), drawn, strict=True))
    return [groups[request.group] for request in requests]


def ranked(each: OpenSet) -> Groups:
    """The best candidate of each example; its reward is the share of the others that score below it, ties half."""
    groups = [
        RolloutGroup(
            each, [Rollout(each.id, i, [], [], [], [], "stop", 0, text) for i, text in enumerate(each.candidates)]
        )
        for each in each.examples
    ]
    score_together(each.reward, groups)
    for group in groups:
        failed = [rollout for rollout in group.rollouts if rollout.reward is None]
        best, *others = [rollout.reward or 0.0 for rollout in group.rollouts]
        beaten = fmean((1 + (best > other) - (best < other)) / 2 for other in others)
        group.rollouts = failed[:1] or [replace(group.rollouts[0], reward=beaten)]
    return groups


def score_together(reward: Reward, groups: Groups) -> None:
    """Score all rollouts in one call."""
    inputs = [item for group in groups for item in reward_inputs(group)]
    record_scores([rollout for group in groups for rollout in group.rollouts], score_checked(reward, inputs))
