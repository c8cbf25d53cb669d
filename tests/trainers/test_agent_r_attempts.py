"""Agent-R where an answer is a turn: what it searches, and what it trains on, token by token."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.build import build_trainer, starting_model
from posttrain.compare.config import BudgetConfig, ComparisonConfig
from posttrain.compare.result import read_run
from posttrain.job import Job, load_job
from posttrain.planning import make_plan
from posttrain.trainers.agent_r import GOOD, AgentRTrainer
from posttrain.training.memory import Launch
from posttrain.types import Origin

JOB = """
method: agent_r
model:
  tiny: {hidden_size: 32, intermediate_size: 64, layers: 1, heads: 1, key_value_heads: 1, max_length: 64}
data: {type: attempts, task: {type: "last_letters:LastLetters"}, wrong: No., max_turn_tokens: 3}
trainer:
  steps: 1
  prompts_per_step: 4
  search: {children: 8, max_depth: 1}
  reflection: {alpha: [1.0], judge: oracle, revision_action: none, thoughts: [I erred.]}
  sampling: {max_completion_tokens: 3}
  eval_rollouts: 2
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job[Any]]:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    (tmp_path / "job.yaml").write_text(JOB)
    return lambda *overrides: load_job(tmp_path / "job.yaml", [f"run.folder={tmp_path}/run", *overrides])


@pytest.fixture
def make(load: Callable[..., Job[Any]]) -> Iterator[Callable[..., AgentRTrainer]]:
    made: list[AgentRTrainer] = []

    def build(*overrides: str) -> AgentRTrainer:
        job = load(*overrides)
        made.append(build_trainer(job, starting_model(job)))
        return made[-1]

    yield build
    for trainer in made:
        trainer.close()


def test_a_revision_is_a_wrong_answer_a_thought_and_a_right_one(make: Callable[..., AgentRTrainer]) -> None:
    trainer = make()
    metrics, groups, samples = trainer.train_step()
    rollouts = {tuple(r.completion_ids): r.reward for group in groups for r in group.rollouts}
    ends = {score: [ids for ids, reward in rollouts.items() if reward == score] for score in (0.0, 1.0)}
    revisions = [sample for sample in samples if sample.objective == "revision"]
    thought = trainer.encoder.completion_ids("I erred.\n")
    end = trainer.tokenizer.eos_token_id
    assert metrics["batch/sampled_turns"] == 4 * 8
    assert metrics["batch/environment_steps"] == 4 * 8 + 2 * len(revisions)
    assert len(revisions) == metrics["agent_r/pairs"] > 0 and metrics["agent_r/spliced"] == 1.0
    for sample in revisions:
        parts = {origin: [i for i, o in enumerate(sample.origin) if o == origin] for origin in Origin}
        start, said = parts[Origin.PROMPT][-1] + 1, parts[Origin.ENVIRONMENT]
        wrong, right = sample.input_ids[start : said[0]], sample.input_ids[parts[Origin.REVISION][-1] + 1 :]
        between = trainer.encoder.next_turn_ids("No.", turn_ended=wrong[-1] == end)
        assert tuple(wrong) in ends[0.0] and tuple(right) in ends[1.0]
        assert sample.input_ids[start:] == [*wrong, *between, *thought, *right]
        assert sample.trained == [0] * (said[-1] + 1) + [1] * len([*thought, *right])
    good = [sample for sample in samples if sample.objective == GOOD]
    assert good and all(sample.trained == [int(o == Origin.POLICY) for o in sample.origin] for sample in good)
    assert metrics["policy/gradient_norm"] > 0


def test_the_oracle_cuts_after_the_first_wrong_answer(make: Callable[..., AgentRTrainer]) -> None:
    trainer = make("trainer.search.max_depth=2", "data.attempts=3")
    metrics, _, _ = trainer.train_step()
    assert metrics["agent_r/transition_q1"] == 0.5  # of two wrong answers
    assert metrics["agent_r/spliced_after_1"] == 1.0 and "agent_r/spliced_after_2" not in metrics


def test_a_comparison_counts_what_was_sampled(make: Callable[..., AgentRTrainer]) -> None:
    trainer = make("trainer.search.children=6")
    trainer.train()
    config = ComparisonConfig(job="", seeds=[0], arms={"a": {}}, budget=BudgetConfig(kind="rollouts", value=24))
    found = read_run(trainer.folder, "a", 0, config, 0.0, 0.0)
    assert found.within_budget and found.budget == 4 * 6
    assert [spent for spent, _ in found.curve] == [0, 24]


def test_the_plan(load: Callable[..., Job[Any]]) -> None:
    sections = make_plan(load("trainer.search.max_depth=5"), Launch()).sections
    plan = {title: dict(lines) for title, lines in sections.items()}
    assert plan["Episodes"]["environment"] == "last_letters:LastLetters, 2 attempts"
    assert plan["Batch"]["expansions, at most"] == "8 walks x 2 turns = 16 of a tree"
