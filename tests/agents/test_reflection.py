"""Pairs, judgements, the splice, and its replay, with the numbers of a small tree."""

from itertools import groupby
from typing import Any

import pytest
from transformers import AutoTokenizer

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import EnvironmentPool, EnvironmentsConfig, Position
from posttrain.agents.episodes import Turn
from posttrain.agents.judgement import (
    bad_steps,
    judged_by_policy,
    judged_by_rules,
    judged_by_values,
    parse_judgement,
    transition,
)
from posttrain.agents.reflection import (
    NO_ACTION,
    REVISION_THOUGHTS,
    Pair,
    choose_pairs,
    qualifying_pairs,
    replay,
    revision,
    splice,
    steps_between,
    trajectory_sample,
)
from posttrain.agents.tree_search import SearchConfig, Tree
from posttrain.agents.vault import Vault, VaultConfig
from posttrain.data.chat import PromptEncoder
from posttrain.types import Origin, Rollout, RolloutRequest, Sampling


@pytest.mark.parametrize(
    ("alpha", "pairs"),
    [
        (
            0.5,
            {(1.0, 0.6), (1.0, 0.5), (1.0, 0.3), (0.6, 0.3)},
        ),  # not (0.5, 0.3): their difference is 0.2, not above it
        (0.7, {(1.0, 0.6), (1.0, 0.5), (1.0, 0.3)}),
        (1.0, {(1.0, 0.6), (1.0, 0.5), (1.0, 0.3)}),
    ],
)
def test_pairs(alpha: float, pairs: set[tuple[float, float]]) -> None:
    rewards = [0.5, 1.0, 0.3, 0.6]
    assert {(rewards[good], rewards[bad]) for good, bad in qualifying_pairs(rewards, alpha, 0.2)} == pairs
    assert 0.8 - 0.5 > 0.3 and qualifying_pairs([0.8, 0.5], 0.5, 0.3) == []  # floats are not exact


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It opens the door.\nJudgement: good", "good"),
        ("judgement: BAD.", "bad"),
        ("Judgement: good\nOn second thought,\n  JUDGEMENT:  it is rather bad than good", "bad"),
        ("Judgement: uncertain | good", "uncertain"),
        ("Judgement: good\nJudgement: who knows", None),
        ("My judgement: good", None),
        ("Judgement: goodness", None),
        ("good", None),
        ("", None),
    ],
)
def test_the_verdict_is_on_the_last_line_of_its_kind(text: str, verdict: str | None) -> None:
    assert parse_judgement(text) == verdict


def test_the_first_bad_step_is_the_transition() -> None:
    assert transition(["good", "uncertain", "bad", "bad"]) == 3
    assert transition(["good", None, "uncertain"]) == 3  # none is bad: the whole way is kept
    assert transition(["bad"]) == 1


# ---- the splice ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tiny_model_folder: Any) -> PromptEncoder:
    return PromptEncoder(AutoTokenizer.from_pretrained(tiny_model_folder))


def turn(encoder: PromptEncoder, text: str) -> Turn:
    ids = [*encoder.completion_ids(text), encoder.tokenizer.eos_token_id]
    return Turn(text, ids, [-0.5] * len(ids), True)


def grown(encoder: PromptEncoder, *ways: tuple[list[str], list[str], float]) -> Tree:
    """A tree of ways that share their beginnings: turns, observations, and the score at the end."""
    tree = Tree(Position("vault/1", 0), StepResult("u"), SearchConfig(), seed=1)
    for turns, said, reward in ways:
        node = 0
        for number, (text, observation) in enumerate(zip(turns, said, strict=True), start=1):
            children = {tree.nodes[child].turn.text: child for child in tree.nodes[node].children}
            if text not in children:
                end = number == len(turns)
                tree._add(node, turn(encoder, text), StepResult(observation, reward if end else 0.0, end))
            node = children.get(text, len(tree.nodes) - 1)
    return tree


@pytest.fixture
def tree(encoder: PromptEncoder) -> Tree:
    return grown(
        encoder,
        (["i1", "b1", "b2", "b3"], ["o1", "p1", "p2", "p3"], 0.2),
        (["i1", "g1", "g2"], ["o1", "q1", "q2"], 1.0),
        (["i1", "b1", "c2"], ["o1", "p1", "r2"], 0.9),
    )


def pair_of(tree: Tree) -> Pair:
    pairs = choose_pairs(tree, 1.0, 0.2, 8)
    assert len(pairs) == 1  # 1.0 over 0.2; not over 0.9
    return pairs[0]


def test_the_oracle_finds_the_step_below_which_nothing_is_good(tree: Tree) -> None:
    pair = pair_of(tree)
    steps = bad_steps(tree, pair)
    assert [tree.nodes[node].turn.text for node in steps] == ["b1", "b2", "b3"]
    assert [judged_by_values(tree, 1.0)[node] for node in steps] == ["bad", "bad", "bad"]
    assert [judged_by_values(tree, 0.9)[node] for node in steps] == ["good", "bad", "bad"]


def test_the_rules_of_the_vault_judge_where_it_has_them(encoder: PromptEncoder) -> None:
    config = VaultConfig(locks=1)
    (jam,) = config.mistake("vault/1", 0)
    take, turn_key = Vault(config).solution("vault/1", 0)
    turns = ["Action: wait", jam, turn_key, "Action: reset lock", take, turn_key]
    tree = grown(encoder, (turns, ["o"] * len(turns), 1.0))
    judged = judged_by_rules(tree, range(1, len(tree.nodes)), config.went_wrong)
    assert list(judged.values()) == ["good", "bad", "bad", "good", "good", "good"]


class Judge:
    """Says of a step what it was told to, in one call."""

    context_length = 2000

    def __init__(self, tokenizer: Any, verdicts: dict[str, str]) -> None:
        self.tokenizer = tokenizer
        self.verdicts = verdicts
        self.calls: list[list[RolloutRequest]] = []

    def generate(self, requests: list[RolloutRequest]) -> list[Rollout]:
        self.calls.append(requests)
        rollouts = []
        for request in requests:
            step = request.example.prompt[0]["content"].rpartition("The step to judge:\nYou: ")[2].split("\n")[0]
            rollouts.append(Rollout(request.id, 0, [], [], [], [], "stop", 0, self.verdicts[step]))
        return rollouts


def test_the_policy_judges_all_trees_in_one_batch(tree: Tree, encoder: PromptEncoder) -> None:
    verdicts = {"b1": "Judgement: good", "b2": "That fails.\nJudgement: bad", "b3": "well"}
    judge: Any = Judge(encoder.tokenizer, verdicts)
    nodes = bad_steps(tree, pair_of(tree))
    judged = judged_by_policy(judge, {"x": tree, "y": tree}, {"x": nodes, "y": nodes[:1]}, Sampling())
    assert judged == {"x": dict(zip(nodes, ["good", "bad", None], strict=True)), "y": {nodes[0]: "good"}}
    assert len(judge.calls) == 1 and len({request.id for request in judge.calls[0]}) == 4
    assert transition([judged["x"][node] for node in nodes]) == 2
    prompt = judge.calls[0][1].example.prompt[0]["content"]  # of b2
    before, _, step = prompt.partition("The step to judge:")
    assert "The task:\nu\n" in before and "You: i1\nEnvironment: o1\nYou: b1\nEnvironment: p1\n" in before
    assert step.startswith("\nYou: b2\nEnvironment: p2\n") and "g1" not in prompt
    judge.context_length = 10  # what does not fit is not asked, and uncertain
    assert judged_by_policy(judge, {"x": tree}, {"x": nodes}, Sampling()) == {"x": dict.fromkeys(nodes)}
    assert judge.calls[-1] == []


def test_the_splice_trains_the_revision_and_the_good_steps(tree: Tree, encoder: PromptEncoder) -> None:
    pair = pair_of(tree)
    context, continuation = splice(tree, pair, 2, revision(tree, pair, encoder, "wait", REVISION_THOUGHTS))
    assert [step.turn.text for step in context] == ["i1", "b1", "b2"]
    thought, *good = continuation
    assert thought.turn.text.removesuffix("\nAction: wait") in REVISION_THOUGHTS
    assert [(step.turn.text, step.observation) for step in good] == [("g1", "q1"), ("g2", "q2")]
    sample = trajectory_sample("s", [7, 8], [*context, *continuation], encoder, "revision")
    trained = [token for token, bit in zip(sample.input_ids, sample.trained, strict=True) if bit]
    assert trained == [*thought.turn.ids, *good[0].turn.ids, *good[1].turn.ids]
    assert sample.token_weights == [float(bit) for bit in sample.trained]
    text = encoder.text(sample.input_ids[2:])
    said = "<|end|><|user|>{}<|end|><|assistant|>".format
    turns = ["i1", "b1", "b2", thought.turn.text, "g1", "g2"]
    assert text == "".join(t + said(o) for t, o in zip(turns, ["o1", "p1", "p2", "", "q1"], strict=False)) + "g2<|end|>"
    origins = [(origin, len(list(part))) for origin, part in groupby(sample.origin)]
    kinds = [origin for origin, _ in origins]
    acts = [Origin.POLICY, Origin.ENVIRONMENT]
    assert kinds == [Origin.PROMPT, *acts * 3, Origin.REVISION, Origin.ENVIRONMENT, *acts, Origin.POLICY]
    logprobs = [p for p, o in zip(sample.behaviour_logprobs, sample.origin, strict=True) if o == Origin.POLICY]
    assert set(logprobs) == {-0.5}


def test_a_thought_may_open_the_good_turn(tree: Tree, encoder: PromptEncoder) -> None:
    pair = pair_of(tree)
    _, (first, second) = splice(tree, pair, 1, revision(tree, pair, encoder, NO_ACTION, ["I turn back."]))
    thought = first.turn.text.removesuffix("\ng1")
    assert thought == "I turn back." and second.turn.text == "g2"
    sample = trajectory_sample("s", [7], [first], encoder, "revision")
    cut = 1 + first.revision
    assert encoder.text(sample.input_ids[1:cut]) == f"{thought}\n"
    assert set(sample.origin[1:cut]) == {Origin.REVISION} and set(sample.origin[cut:]) == {Origin.POLICY}
    assert sample.trained == [0] + [1] * (len(sample.input_ids) - 1)


def test_bad_ends_take_turns(encoder: PromptEncoder) -> None:
    tree = grown(encoder, *[([name], ["x"], score) for name, score in zip("abcdef", [1, 1, 1, 0, 0, 0], strict=True)])
    pairs = choose_pairs(tree, 1.0, 0.2, 4)
    assert len(pairs) == 4 and len({pair.bad for pair in pairs}) == 3
    assert pairs == choose_pairs(tree, 1.0, 0.2, 4) and all(pair.parting == 0 for pair in pairs)


# ---- replay --------------------------------------------------------------------------------------------------------


def test_a_continuation_that_does_not_reach_its_score_is_seen(encoder: PromptEncoder) -> None:
    config = VaultConfig(locks=1, max_steps=6)
    right = Vault(config).solution("vault/1", 0)
    jam = config.mistake("vault/1", 0)
    pool = EnvironmentPool(EnvironmentsConfig(environment=config, workers=1))
    tree = grown(encoder, (right, ["a", "b"], 1.0))
    good = steps_between(tree, 0, tree.leaves()[0], trained=True)
    try:
        seen, reward = replay(pool, Position("vault/1", 0), good)
        assert reward == 1.0 and seen[-1].observation == "It opens." and all(step.trained for step in seen)
        seen, reward = replay(pool, Position("vault/1", 0, tuple(jam)), good)
        assert reward == 0.0 and seen[-1].observation.startswith("It does not turn.")
        reset = (*jam, "Action: reset lock")
        assert replay(pool, Position("vault/1", 0, reset), good)[1] == 1.0
        over = Position("vault/1", 0, tuple(right))
        assert replay(pool, over, good) == ([], None)  # nothing follows an end
    finally:
        pool.close()
