"""The generative judge: its four modes over HTTP, its cache, and judges in an engine of this process."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from posttrain.errors import JobError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.judge.judge_modes import ring_pairs
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.scoring.reward_file import load_reward_config
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.trainers.collection import collect_groups
from posttrain.types import Example, RolloutRequest, Sampling

ROOT = Path(__file__).parents[3]
ADAPTER: TypeAdapter[Any] = TypeAdapter(RewardConfig)

Make = Callable[..., Reward]


@pytest.fixture
def make_judge(judge_server: Any) -> Iterator[Make]:
    """``make_judge(mode=...)``: a judge that asks the scripted server."""
    rewards: list[Reward] = []

    def make(judge: dict[str, Any] | None = None, **config: Any) -> Reward:
        endpoint = {"type": "endpoint", "base_url": judge_server.base_url, "model": "judge", "backoff_s": 0.01}
        rewards.append(
            ADAPTER.validate_python({"type": "generative", "judge": endpoint | (judge or {}), **config}).build()
        )
        return rewards[-1]

    yield make
    for reward in rewards:
        reward.close()


def group(*completions: str, **fields: Any) -> list[RewardInput]:
    example = Example(**{"id": "row", "prompt": "Name a number.", **fields})
    return [RewardInput(example, completion) for completion in completions]


def answers_in(payload: dict[str, Any]) -> list[str]:
    """The answers that a question shows, in its order."""
    question = payload["messages"][-1]["content"]
    return re.findall(r"<answer-(?:\w+-)?[0-9a-f]{6}>\n(.*?)\n", question)


def errors(outputs: list[RewardOutput]) -> list[str | None]:
    return [output.error for output in outputs]


# ---- modes ----------------------------------------------------------------------------------------------------------


def test_pointwise(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted(f"Hm.\nScore: {answers_in(payload)[0]}")
    outputs = score_checked(make_judge(), group("1", "5.5", "10", "11", "<think>10</think>4"))
    assert [output.score for output in outputs] == [0, 0.5, 1, None, pytest.approx(1 / 3)]
    assert outputs[1].parts == {"judge_score": 5.5}
    assert errors(outputs) == [None, None, None, "unparseable", None]
    assert outputs[3].message == "no line `Score: 7` in the reply, which ends 'Hm.\\nScore: 11'"


def test_probability_of_yes(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    norm = math.log(math.exp(2.0) + math.exp(0.5))
    found = {
        "a": {"Yes": 2.0 - norm - math.log(2), " yes": 2.0 - norm - math.log(2), "No": 0.5 - norm},
        "b": {"Maybe": -0.01, "Yes": -5.0},
    }
    judge_server.script = lambda payload, number: scripted("", first_tokens=found[answers_in(payload)[0]])
    outputs = score_checked(make_judge(mode="yes_probability"), group("a", "b"))
    assert outputs[0].score == pytest.approx(0.8175744762, abs=1e-10)
    assert outputs[0].parts == {"answer_mass": pytest.approx(1.0)}
    assert (outputs[1].error, outputs[1].parts) == ("unparseable", {"answer_mass": pytest.approx(math.exp(-5))})
    assert outputs[1].message == "only 0.0067 of the first token's probability is on yes/no"
    lenient = score_checked(make_judge(mode="yes_probability", min_answer_mass=0.0), group("b"))
    assert lenient[0].score == 1.0
    assert {payload["max_tokens"] for payload in judge_server.payloads} == {1}


def larger_wins(payload: dict[str, Any]) -> str:
    a, b = map(float, answers_in(payload))
    return "Winner: " + ("A" if a > b else "B" if b > a else "tie")


def test_pairwise_against_references(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted(larger_wins(payload))
    outputs = score_checked(make_judge(mode="pairwise"), group("1", "5", "9", references=["5", "7"]))
    assert [output.score for output in outputs] == [0, 0.5, 1]
    assert outputs[0].parts == {"comparisons": 1, "position_disagreement": 0}
    assert sorted(map(answers_in, judge_server.payloads))[:2] == [["1", "5"], ["5", "1"]], "both orders"
    both = score_checked(make_judge(mode="pairwise", opponents=2), group("1", "6", "9", references=["5", "7"]))
    assert [output.score for output in both] == [0, 0.5, 1]
    assert errors(score_checked(make_judge(mode="pairwise"), group("1"))) == ["invalid_input"]


def test_pairwise_within_the_group(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted(larger_wins(payload))
    outputs = score_checked(make_judge(mode="pairwise", against="group", opponents=9), group("3", "1", "4", "2"))
    assert [output.score for output in outputs] == [pytest.approx(2 / 3), 0, 1, pytest.approx(1 / 3)]
    assert len(judge_server.payloads) == 12, "six pairs, two orders"
    assert errors(score_checked(make_judge(mode="pairwise", against="group"), group("3"))) == ["invalid_input"]


def test_a_judge_that_prefers_a_position_says_nothing(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted("Winner: A")
    (output,) = score_checked(make_judge(mode="pairwise"), group("1", references=["5"]))
    assert (output.score, output.parts) == (0.5, {"comparisons": 1, "position_disagreement": 1})


def test_a_comparison_that_failed_is_left_out(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    def script(payload: Any, number: int) -> Any:
        return scripted("I cannot" if "6" in answers_in(payload) else larger_wins(payload))

    judge_server.script = script
    judge = make_judge(mode="pairwise", opponents=2)
    (output,) = score_checked(judge, group("9", references=["6", "5"]))
    assert (output.score, output.parts["comparisons"]) == (1.0, 1)
    (output,) = score_checked(judge, group("9", references=["6"]))
    assert (output.error, output.score) == ("unparseable", None)


def test_ring_pairs() -> None:
    assert ring_pairs(4, 1) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert ring_pairs(4, 2) == ring_pairs(4, 99) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert (ring_pairs(2, 1), ring_pairs(1, 1)) == ([(0, 1)], [])


def test_listwise(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted(f"Scores: [{', '.join(answers_in(payload))}]")
    texts = ["1", "4", "7", "10", "4"]
    outputs = score_checked(make_judge(mode="listwise"), group(*texts))
    assert [output.score for output in outputs] == [0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1, outputs[1].score]
    (payload,) = judge_server.payloads
    order = answers_in(payload)
    assert sorted(order) == ["1", "10", "4", "7"], "equal texts are one candidate"
    assert [output.parts["position"] for output in outputs] == [order.index(text) for text in texts]
    outputs[1].parts["changed"] = 1.0
    assert "changed" not in outputs[4].parts


def test_listwise_order_is_drawn_from_the_seed(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted("Scores: [1, 2, 3, 4]")
    items = group("a", "b", "c", "d")
    for seed in (0, 0, 1, 2, 3):
        make_judge(mode="listwise", seed=seed).score(items)
    orders = [tuple(answers_in(payload)) for payload in judge_server.payloads]
    assert orders[0] == orders[1]
    assert len(set(orders)) > 2


def test_listwise_deals_a_large_group_to_several_questions(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    def script(payload: Any, number: int) -> Any:
        answers = answers_in(payload)
        return scripted("no idea" if "10" in answers else f"Scores: [{', '.join(answers)}]")

    judge_server.script = script
    outputs = score_checked(make_judge(mode="listwise", max_candidates=4), group(*map(str, range(1, 11))))
    assert sorted(len(answers_in(payload)) for payload in judge_server.payloads) == [3, 3, 4]
    failed = next(answers for answers in map(answers_in, judge_server.payloads) if "10" in answers)
    assert errors(outputs) == ["unparseable" if str(row) in failed else None for row in range(1, 11)]


def test_each_example_is_a_group_of_its_own(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted(f"Scores: [{', '.join(answers_in(payload))}]")
    items = group("1", "10") + group("4", id="other")
    assert [output.score for output in score_checked(make_judge(mode="listwise"), items)] == [
        0,
        1,
        pytest.approx(1 / 3),
    ]
    assert len(judge_server.payloads) == 2
    assert make_judge(mode="listwise").score([]) == []


def test_the_reward_file_and_the_template_beside_it(
    judge_server: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_reward_config("reward_models/judge.yaml", [f"judge.base_url={judge_server.base_url}", "cache=null"])
    reward = config.build()
    (output,) = score_checked(reward, group("eight", answer="8"))
    reward.close()
    assert output.score == pytest.approx(2 / 3)
    (payload,) = judge_server.payloads
    assert payload["model"] == "Qwen/Qwen3-8B" and payload["chat_template_kwargs"] == {"enable_thinking": False}
    assert answers_in(payload) == ["eight"] and "Known right answer: 8" in payload["messages"][1]["content"]


# ---- failures and cache ---------------------------------------------------------------------------------------------


def test_a_server_that_is_down(judge_server: Any, make_judge: Make, scripted: Any) -> None:
    judge_server.script = lambda payload, number: scripted(status=500)
    for mode in ("pointwise", "yes_probability", "pairwise", "listwise"):
        outputs = score_checked(make_judge({"attempts": 2}, mode=mode), group("1", "2", references=["3"]))
        assert errors(outputs) == ["unavailable", "unavailable"], mode
        assert outputs[0].message.startswith("status 500"), mode


def test_a_template_that_needs_what_a_row_lacks(make_judge: Make, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("user: '{{ metadata.rubric }} {{ candidates[0].text }}'")
    judge = make_judge(template=str(path))
    lacking, complete = group("1"), group("1", id="2", metadata={"rubric": "be short"})
    outputs = score_checked(judge, lacking + complete)
    assert errors(outputs) == ["invalid_input", None]
    assert outputs[0].message == "the judge's template cannot be filled: 'dict object' has no attribute 'rubric'"


def test_equal_questions_are_asked_once(judge_server: Any, make_judge: Make) -> None:
    score_checked(make_judge(), group("1", "1", "2") + group("1", id="twin"))
    assert len(judge_server.payloads) == 2


def test_cached_replies_are_not_asked_again(judge_server: Any, make_judge: Make, scripted: Any, tmp_path: Path) -> None:
    cache = str(tmp_path / "replies.sqlite")
    first = make_judge(cache=cache).score(group("1", "2"))
    assert make_judge(cache=cache).score(group("2", "1")) == first[::-1]
    assert len(judge_server.payloads) == 2
    other = [
        {"seed": 1},
        {"sampling": {"temperature": 0.5}},
        {"sampling": {"temperature": 0.0, "max_completion_tokens": 99}},
        {"judge": {"model": "other"}},
        {"judge": {"extra": {"chat_template_kwargs": {"enable_thinking": False}}}},
    ]
    for number, change in enumerate(other, start=1):
        make_judge(**change, cache=cache).score(group("1"))
        assert len(judge_server.payloads) == 2 + number, f"{change} asks anew"
    make_judge(cache=cache).score(group("1", prompt="Name a word."))
    assert len(judge_server.payloads) == 3 + len(other)


def test_first_tokens_are_cached_and_failures_are_not(
    judge_server: Any, make_judge: Make, scripted: Any, tmp_path: Path
) -> None:
    judge_server.script = lambda payload, number: (
        scripted(status=400) if number == 0 else scripted("", first_tokens={"Yes": -0.5, "No": -1.0})
    )
    judge = make_judge(mode="yes_probability", cache=str(tmp_path / "replies.sqlite"))
    outputs = [score_checked(judge, group("a"))[0] for _ in range(3)]
    assert errors(outputs) == ["invalid_input", None, None]
    assert outputs[1] == outputs[2]
    assert len(judge_server.payloads) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"judge": {"type": "policy"}, "cache": "x.sqlite"}, "change with its weights"),
        ({"judge": {"type": "oracle"}}, "oracle"),
        ({"judge": {"type": "policy"}, "mode": "by_feel"}, "by_feel"),
        ({}, "judge"),
    ],
)
def test_mistakes_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python({"type": "generative", **config})


# ---- judges in this process -----------------------------------------------------------------------------------------


@pytest.fixture
def short_template(tmp_path: Path) -> str:
    """A question that fits a context of 256 characters."""
    path = tmp_path / "short.yaml"
    path.write_text("user: '{{ prompt }} {{ candidates[0].text }} Good?'")
    return str(path)


def likeliest_letters(folder: Path, question: str) -> tuple[list[int], list[str], torch.Tensor]:
    """Ids and texts of the two likeliest first tokens that have a text, and all log-probs, from a forward pass."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")(torch.tensor([ids])).logits[0, -1]
    top = logits.argsort(descending=True)[:20].tolist()
    letters = [token for token in top if tokenizer.decode([token]).isascii() and tokenizer.decode([token]).isalpha()]
    return letters[:2], [tokenizer.decode([token]) for token in letters[:2]], logits.log_softmax(-1)


def engine_judge(folder: Path, template: str, **config: Any) -> Any:
    judge = {"type": "engine", "model": str(folder), "engine": {"type": "transformers", "device": "cpu"}}
    config = {"type": "generative", "judge": judge, "template": template, "min_answer_mass": 0, **config}
    config.setdefault("sampling", {"temperature": 1.0, "max_completion_tokens": 16})
    return ADAPTER.validate_python(config)


def test_an_engine_of_its_own(tiny_model_folder: Path, short_template: str) -> None:
    ids, (yes, no), logprobs = likeliest_letters(tiny_model_folder, "Name a number. 42 Good?")
    words = {"yes": [yes.casefold()], "no": [no.casefold()]}
    assert words["yes"] != words["no"], "choose another seed"
    reward = engine_judge(tiny_model_folder, short_template, mode="yes_probability", **words).build()
    alone = score_checked(reward, group("42"))[0]
    expected = logprobs[ids].exp()
    assert alone.parts["answer_mass"] >= float(expected.sum()) - 1e-6
    assert score_checked(reward, group("7", "42", "x" * 300))[1].score == pytest.approx(alone.score, abs=1e-5)
    long = score_checked(reward, group("x" * 300))[0]
    assert (long.error, "300" in long.message or "tokens" in long.message) == ("invalid_input", True)
    reward.close()
    assert score_checked(reward, group("42"))[0].score == pytest.approx(alone.score, abs=1e-6), "starts again"


def test_probability_of_yes_equals_a_forward_pass(tiny_model_folder: Path, short_template: str) -> None:
    from posttrain.rewards.judge.judge_engine import EngineJudgeConfig

    question = "Name a number. 42 Good?"
    _, _, logprobs = likeliest_letters(tiny_model_folder, question)
    judge = EngineJudgeConfig(model=str(tiny_model_folder)).build()
    (reply,) = judge.replies([[{"role": "user", "content": question}]], Sampling(max_completion_tokens=1), 0, top=20)
    expected = logprobs.sort(descending=True).values[:20].tolist()
    assert [logprob for _, logprob in reply.first_tokens] == pytest.approx(expected, abs=1e-5)


def test_an_untrained_judge_writes_what_cannot_be_read(tiny_model_folder: Path, short_template: str) -> None:
    reward = engine_judge(tiny_model_folder, short_template).build()
    first, second = score_checked(reward, group("42")), score_checked(reward, group("42", "7"))
    assert errors(second) == ["unparseable", "unparseable"]
    assert first[0].message == second[0].message, "a reply depends on its question and the seed alone"


def test_cache_key_of_a_folder_changes_with_its_files(tiny_model_folder: Path, tmp_path: Path) -> None:
    from posttrain.rewards.judge.judge_engine import EngineJudgeConfig

    (tmp_path / "weights.bin").write_bytes(b"1")
    before = EngineJudgeConfig(model=str(tmp_path)).build().identity
    assert EngineJudgeConfig(model=str(tmp_path)).build().identity == before
    (tmp_path / "weights.bin").write_bytes(b"22")
    assert EngineJudgeConfig(model=str(tmp_path)).build().identity != before


# ---- the policy as its own judge ------------------------------------------------------------------------------------


def requests_for(engine: Any, number: int) -> list[RolloutRequest]:
    """Groups of three; the first is long finished, and being judged, while the last is still drawn."""
    return [
        RolloutRequest(
            id=f"{row}",
            example=Example(f"example {row}", "Name a number."),
            prompt_ids=engine.tokenizer.encode("Name a number."),
            sampling=Sampling(max_completion_tokens=4 + 40 * row),
            seed=row,
            n=3,
            group=row,
        )
        for row in range(number)
    ]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["pointwise", "yes_probability"])
def test_the_policy_judges_itself(tiny_model_folder: Path, short_template: str, mode: str) -> None:
    engine = TransformersEngineConfig(device="cpu").build(tiny_model_folder)
    config = engine_judge(tiny_model_folder, short_template, mode=mode, yes=list("aeiou"), no=list("bcdfg"))
    own_engine = config.build()
    # Deep inside a composition, so that lending has to find it.
    by_policy = config.model_dump() | {"judge": {"type": "policy"}}
    whole = {"type": "weighted_sum", "parts": {"judge": {"reward": by_policy}}, "on_error": "score", "error_score": -1}
    composed = ADAPTER.validate_python(whole).build()
    judged, _ = collect_groups(engine, requests_for(engine, 4), composed)
    separate, _ = collect_groups(engine, requests_for(engine, 4), own_engine)
    assert [[rollout.completion_ids for rollout in one.rollouts] for one in judged] == [
        [rollout.completion_ids for rollout in one.rollouts] for one in separate
    ]
    for ours, theirs in zip(judged, separate, strict=True):
        for rollout, expected in zip(ours.rollouts, theirs.rollouts, strict=True):
            if expected.reward is None:
                assert rollout.reward == -1.0
                assert rollout.reward_parts[f"error/{expected.error}"] == 1.0
            else:
                assert rollout.reward == pytest.approx(expected.reward, abs=1e-5)
    assert mode == "pointwise" or any(rollout.reward not in (None, -1.0) for one in judged for rollout in one.rollouts)


def test_there_is_no_policy_outside_training(short_template: str) -> None:
    config = {"type": "generative", "judge": {"type": "policy"}, "template": short_template}
    with pytest.raises(JobError, match="there is no policy outside training"):
        score_checked(ADAPTER.validate_python(config).build(), group("42"))


@pytest.mark.timeout(120)
def test_an_engine_that_fails_while_the_judge_waits(tiny_model_folder: Path, short_template: str) -> None:
    engine = TransformersEngineConfig(device="cpu").build(tiny_model_folder)
    reward = ADAPTER.validate_python(
        {"type": "generative", "judge": {"type": "policy"}, "template": short_template}
    ).build()
    drawn = engine.finished

    def failing() -> Iterator[Any]:
        for number, rollout in enumerate(drawn()):
            if number == 7:
                raise RuntimeError("out of memory")
            yield rollout

    engine.finished = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        collect_groups(engine, requests_for(engine, 4), reward)
