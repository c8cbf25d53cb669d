"""Sets answered, judged and summed up; what was answered is kept, so that a killed evaluation goes on."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from posttrain.data.chat import PromptEncoder
from posttrain.data.rows import read_rows
from posttrain.errors import DataError, JobError, UserError
from posttrain.evaluation.contamination import contaminated
from posttrain.evaluation.evaluator import evaluate
from posttrain.evaluation.held_out import answer_requests
from posttrain.evaluation.metrics import interval, majority_at_k, pass_at_k, win_rate_at_equal_length
from posttrain.evaluation.suite import SetConfig, SuiteConfig
from posttrain.rewards.checked import score_checked
from posttrain.rewards.instructions.multiple_choice import chosen_letter
from posttrain.rewards.judge.judge_engine import model_files
from posttrain.rewards.math.answer_extraction import after_thinking, extract_answer
from posttrain.rewards.math.answer_form import plain_form
from posttrain.rewards.reward import Reward
from posttrain.rollout.engine import RolloutEngine
from posttrain.tasks.environment import EnvironmentTask
from posttrain.tasks.file_task import FileTask
from posttrain.trainers.collection import collect_groups, record_scores, reward_inputs
from posttrain.training.append_file import opened_to_append
from posttrain.types import Example, Rollout, RolloutGroup, RolloutRequest

ANSWERS_FILE = "answers.jsonl"
SOLVED = 0.5  # a score above it is a right answer

Groups = list[RolloutGroup]
Progress = Callable[[str, int, int], None]  # set, prompts done, of how many


@dataclass(slots=True)
class OpenSet:
    """A set whose data was found in order."""

    name: str
    config: SetConfig
    task: Any
    examples: list[Example]
    reward: Reward

    @property
    def is_ranking(self) -> bool:
        """Whether candidates are scored, and nothing is answered."""
        return all(example.task == "preference" for example in self.examples)

    def close(self) -> None:
        self.reward.close()
        if isinstance(self.task, EnvironmentTask):
            self.task.close()


class EvaluatedModel:
    """The model at a folder or hub id; it is loaded with the first prompt that was not answered before."""

    def __init__(self, path: str, suite: SuiteConfig) -> None:
        self.path, self.suite = path, suite

    @property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on, besides the request. A folder may be moved."""
        engine = self.suite.engine.model_dump(mode="json", include={"type", "dtype"})
        return {"model": model_files(self.path) or self.path, "engine": engine}

    @cached_property
    def tokenizer(self) -> Any:
        from posttrain.training.model import load_tokenizer

        return load_tokenizer(self.path)

    @cached_property
    def engine(self) -> RolloutEngine:
        built: RolloutEngine = self.suite.engine.build(self.path, self.suite.seed)
        return built

    def build(self, model_path: str | Path, seed: int) -> RolloutEngine:
        """The loaded engine: to a task that plays around an engine, this is an engine's config."""
        return self.engine

    def engine_for(self, task: Any) -> Any:
        """What plays the episodes of an environment, or the engine itself."""
        return task.engine(self).build(self.path, 0) if isinstance(task, EnvironmentTask) else self.engine

    def close(self) -> None:
        if "engine" in self.__dict__:
            self.engine.close()


def run_suite(
    suite: SuiteConfig, model: str | None, output: Path, on_progress: Progress = lambda name, done, total: None
) -> tuple[dict[str, Any], dict[str, Groups]]:
    """Evaluate the model at folder or hub id ``model``; None, if no set needs one. The result as JSON values, and the
    scored groups of every set. Answers are kept in ``output/answers.jsonl``.

    Raises:
        UserError: a set cannot be opened (all are, before the first is answered), the model cannot be loaded, or the
            answers in ``output`` are another model's.
    """
    with ExitStack() as stack:
        sets = list[OpenSet]()
        for name, config in suite.sets.items():
            with named(name):
                sets.append(stack.enter_context(closing(open_set(name, config))))
        if model is None and (needing := [each.name for each in sets if not each.is_ranking]):
            raise JobError(f"--model: name the model (a folder, a run or a hub id) that answers {', '.join(needing)}")
        source = suite.contamination
        training = [] if source is None else read_rows(source.path, split=source.split)
        evaluated = stack.enter_context(closing(EvaluatedModel(model or "", suite)))
        results, groups = dict[str, Any](), dict[str, Groups]()
        for each in sets:
            with named(each.name):
                answers = output / ANSWERS_FILE
                groups[each.name] = ranked(each) if each.is_ranking else answered(each, evaluated, answers, on_progress)
            results[each.name] = summary(each, groups[each.name])
            if source is not None:
                found = contaminated(each.examples, training, source.words)
                add_contamination(results[each.name], found)
    shown = suite.model_dump(mode="json")
    return {"model": model, "suite": shown, "sets": results}, groups


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
    column = config.category
    if column is not None and (lacking := [each.id for each in examples if column not in each.metadata]):
        raise DataError(f"category: the row {lacking[0]!r} has no column {column!r}")
    if config.length_control and (lacking := [each.id for each in examples if not each.references]):
        raise DataError(f"length_control: the row {lacking[0]!r} has no reference to be compared with")
    return OpenSet(name, config, task, examples[: config.limit], reward)


def answered(each: OpenSet, model: EvaluatedModel, path: Path, on_progress: Progress) -> Groups:
    """The scored rollouts of the set. Those in ``path`` of an equal request are scored again, and the others drawn and
    added to it. Requests are those of an evaluation in training.

    Raises:
        JobError: the file has the answers of another model.
    """
    config = each.config
    encoder = PromptEncoder(model.tokenizer)
    requests = answer_requests(
        encoder, each.examples, sampling=config.sampling, n=config.rollouts, seed=model.suite.seed
    )
    around = config.task.model_dump(mode="json") if isinstance(each.task, EnvironmentTask) else None
    keys = {request.id: request_key(request, around) for request in requests}
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened_to_append(path, model.identity, by="another model or engine") as file:
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
            row = {"key": keys[group.rollouts[0].request_id], "rollouts": [asdict(each) for each in group.rollouts]}
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            done += 1
            on_progress(each.name, done, len(requests))

        if missing:
            engine = model.engine_for(each.task)
            PromptEncoder(model.tokenizer, engine.context_length - config.sampling.max_completion_tokens).check(
                request.example for request in missing
            )
            drawn, _ = collect_groups(engine, missing, each.reward, on_scored=keep)
            groups |= dict(zip((request.group for request in missing), drawn, strict=True))
    return [groups[request.group] for request in requests]


def request_key(request: RolloutRequest, environment: Mapping[str, Any] | None) -> str:
    """Equal for requests that one model answers alike: prompt, sampling, seed and number of rollouts."""
    parts = [request.example.id, request.prompt_ids, request.sampling.model_dump(), request.seed, request.n]
    return hashlib.sha256(json.dumps([*parts, environment]).encode()).hexdigest()


def ranked(each: OpenSet) -> Groups:
    """The best candidate of each example; its reward is the share of the others that score below it, ties half."""
    groups = [
        RolloutGroup(example, [Rollout(example.id, i, [], [], [], [], "stop", 0, t) for i, t in enumerate(texts)])
        for example in each.examples
        if (texts := example.candidates)
    ]
    score_together(each.reward, groups)
    for group in groups:
        failed = [rollout for rollout in group.rollouts if rollout.reward is None]
        best, *others = [rollout.reward or 0.0 for rollout in group.rollouts]
        beaten = fmean((1 + (best > other) - (best < other)) / 2 for other in others)
        group.rollouts = failed[:1] or [replace(group.rollouts[0], reward=beaten)]
    return groups


def score_together(reward: Reward, groups: Sequence[RolloutGroup]) -> None:
    """Score all rollouts in one call."""
    inputs = [item for group in groups for item in reward_inputs(group)]
    record_scores([rollout for group in groups for rollout in group.rollouts], score_checked(reward, inputs))


def summary(each: OpenSet, groups: Groups) -> dict[str, Any]:
    """The result of a set: ``metrics`` as in training, the means of the reward's ``parts`` where it gives them,
    ``estimates`` with intervals, and the scores by example."""
    config = each.config
    whole = [group for group in groups if "mistake_in" not in group.example.metadata]
    scores = {group.example.id: [rollout.reward or 0.0 for rollout in group.rollouts] for group in whole}
    means = {name: fmean(own) for name, own in scores.items()}
    parts: dict[str, list[float]] = {}
    for rollout in (rollout for group in whole for rollout in group.rollouts):
        for name, value in rollout.reward_parts.items():
            parts.setdefault(name, []).append(value)
    result: dict[str, Any] = {
        "prompts": len(whole),
        "rollouts": config.rollouts,
        "metrics": evaluate(groups),
        "parts": {name: fmean(own) for name, own in parts.items()},
        "estimates": {name: asdict(interval(values)) for name, values in repeated(config, whole, scores).items()},
        "scores": scores,
    }
    for name, value in result["metrics"].items():
        if f"{name}_low" in result["metrics"]:  # of agents
            low, high = (result["metrics"][f"{name}_{end}"] for end in ("low", "high"))
            result["estimates"][name.removeprefix("eval/")] = {"value": value, "low": low, "high": high}
    if config.category is not None:
        by: dict[str, list[float]] = {}
        for group in whole:
            by.setdefault(str(group.example.metadata[config.category]), []).append(means[group.example.id])
        result["categories"] = {name: {"prompts": len(own), **asdict(interval(own))} for name, own in by.items()}
    if config.length_control:
        pairs = [
            (rollout.reward, float(len(rollout.text) - len(group.example.references[0])))
            for group in whole
            for rollout in group.rollouts
            if rollout.reward is not None
        ]
        if pairs:
            result["estimates"]["win rate at equal length"] = asdict(
                win_rate_at_equal_length(*zip(*pairs, strict=True))
            )
    return result


def add_contamination(result: dict[str, Any], found: Collection[str]) -> None:
    """Add the ids of the examples ``found`` in training data, and the mean over the others."""
    result["contaminated"] = sorted(found)
    clean = [fmean(own) for name, own in result["scores"].items() if name not in found]
    if clean:
        result["estimates"]["mean, uncontaminated"] = asdict(interval(clean))


def repeated(config: SetConfig, groups: Groups, scores: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """mean@n, and of several rollouts pass@k and maj@k for powers of two and n: a value for each prompt."""
    n = config.rollouts
    found = {f"mean@{n}": [fmean(own) for own in scores.values()]}
    sizes = sorted({n, *(1 << power for power in range(n.bit_length()))}) if n > 1 else []
    for k in sizes:
        found[f"pass@{k}"] = [pass_at_k(n, sum(score > SOLVED for score in own), k) for own in scores.values()]
    votes = [[vote_of(config.vote, rollout.text) for rollout in group.rollouts] for group in groups]
    for k in sizes[1:] if config.vote else []:
        found[f"maj@{k}"] = [majority_at_k(own, scores[g.example.id], k) for own, g in zip(votes, groups, strict=True)]
    return found


def vote_of(kind: str | None, completion: str) -> str | None:
    """The answer that a completion votes for; None where it has none."""
    text = after_thinking(completion)
    if text is None or kind == "text":
        return None if text is None else text.strip()
    if kind == "letter":
        return chosen_letter(text)
    found = extract_answer(text)
    return None if found is None else plain_form(found.text)
