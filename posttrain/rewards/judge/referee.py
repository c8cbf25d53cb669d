"""The referee of URPO (arXiv 2507.17515): one form of question and of reply for ranked candidates, for a policy's own
answers while it trains, and for the trained model as a reward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from random import Random
from statistics import fmean

from posttrain.errors import DataError
from posttrain.objectives.agreement import Agreement, SelfReward, agreement_reward, rank_shares, unpermuted
from posttrain.rewards.judge.judge_modes import Judging, failed
from posttrain.rewards.judge.judgement import Candidate, Conversation, JudgeTemplate, Reply, parse_scores, unit_score
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Example

TOO_LONG = Reply(error="invalid_input", message="the request and this answer are longer than the context")


@dataclass(frozen=True, slots=True)
class Referee:
    """Questions about candidates, all of a question scored in one line ``Scores: [7, 3, 9]``.

    Up to ``max_candidates`` are in a question, in an order drawn from its seed; ``shorten`` cuts a long candidate.
    """

    template: JudgeTemplate
    samples: int = 1
    max_candidates: int = 8
    self_reward: SelfReward = "score"
    shorten: Callable[[Candidate], Candidate] = lambda candidate: candidate

    def shown(self, example: Example, order: Sequence[int], seed: int = 0) -> Example:
        """A preference example as the prompt that asks to score its candidates, which are now in ``order``;
        ``metadata["gold"]`` ranks them, higher is better.

        Raises:
            DataError: its ranks or candidates cannot be used, or the template needs something that it lacks.
        """
        gold = gold_of(example)
        candidates = [self.shorten(Candidate(text)) for text in example.candidates]
        question = self._question(example, candidates, order, seed)
        metadata = example.metadata | {"gold": [gold[row] for row in order]}
        return replace(
            example, prompt=question, candidates=[example.candidates[row] for row in order], metadata=metadata
        )

    def judging(
        self, group: Sequence[RewardInput], seed: int, fits: Callable[[Conversation], bool] = lambda question: True
    ) -> Judging:
        """``samples`` times a new split of the completions into questions that ``fits``; equal texts are one candidate,
        and one that fits in no question is an error.

        A score s counts (s - 1) / 9, and a completion gets the mean over the samples that could be read. Parts:
        ``self_score``; ``position``, its mean place; ``judged``, the share of samples that could be read; and
        ``disagreement``, the largest difference between two of them.

        Raises:
            DataError: the template needs something that the example lacks.
        """
        candidates = [self.shorten(Candidate.of(item)) for item in group]
        distinct = list(dict.fromkeys(candidates))
        asked: list[tuple[list[int], Conversation]] = []
        for fence in (derive_seed(seed, sample) for sample in range(self.samples)):
            order = shuffled(len(distinct), fence)
            for number in range(ceil(len(order) / self.max_candidates), len(order) + 1):
                split = [order[start::number] for start in range(number)]
                hands = [(hand, self._question(group[0].example, distinct, hand, fence)) for hand in split]
                if all(fits(question) for _, question in hands):
                    break
            asked += [(hand, question) for hand, question in hands if fits(question)]
        orders = [hand for hand, _ in asked]

        def outputs(replies: Sequence[Reply]) -> list[RewardOutput]:
            values = [self._values(reply, len(hand)) for reply, hand in zip(replies, orders, strict=True)]
            of_row = unpermuted(orders, values, len(distinct))
            places = unpermuted(orders, [list(map(float, range(len(hand)))) for hand in orders], len(distinct))
            unread = next((reply for reply, row in zip(replies, values, strict=True) if row is None), TOO_LONG)
            found: dict[Candidate, RewardOutput] = {}
            for candidate, own, place in zip(distinct, of_row, places, strict=True):
                found[candidate] = failed(unread, "Scores: [..]")
                if own:
                    parts = {"self_score": fmean(own), "position": fmean(place), "judged": len(own) / self.samples}
                    parts["disagreement"] = max(own) - min(own)
                    found[candidate] = RewardOutput(parts["self_score"], parts)
            return [replace(found[each], parts=dict(found[each].parts)) for each in candidates]

        return Judging([question for _, question in asked], outputs)

    def _question(
        self, example: Example, candidates: Sequence[Candidate], order: Sequence[int], seed: int
    ) -> Conversation:
        from jinja2 import TemplateError

        try:
            return self.template.conversation(example, [candidates[row] for row in order], seed)
        except TemplateError as error:
            raise DataError(f"the referee's template cannot be filled for {example.id!r}: {error}") from error

    def _values(self, reply: Reply, number: int) -> list[float] | None:
        scores = parse_scores(reply.text, number) if reply.error is None else None
        if scores is None:
            return None
        return rank_shares(scores) if self.self_reward == "rank" else list(map(unit_score, scores))


class AgreementReward:
    """A reply to ``Referee.shown``: how well its scores agree with the ranking, from 0 to 1. One that cannot be read,
    or was cut off, scores ``malformed_reward``. Parts: ``pair_accuracy`` (ties 1/2, malformed 0) and ``malformed``.

    ``invalid_input``: the example is no such prompt.
    """

    def __init__(self, measure: Agreement = "tau_gold", malformed_reward: float = -0.5) -> None:
        self.measure: Agreement = measure
        self.malformed_reward = malformed_reward

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return list(map(self._score, inputs))

    def close(self) -> None:
        """There is nothing to end."""

    def _score(self, item: RewardInput) -> RewardOutput:
        gold = item.example.metadata.get("gold")
        if gold is None:
            return RewardOutput(None, error="invalid_input", message="the example does not show ranked candidates")
        scores = None if item.finish_reason == "length" else parse_scores(item.completion, len(gold))
        if scores is None:
            return RewardOutput(self.malformed_reward, {"pair_accuracy": 0.0, "malformed": 1.0})
        parts = {"pair_accuracy": agreement_reward(gold, scores), "malformed": 0.0}
        return RewardOutput(agreement_reward(gold, scores, self.measure), parts)


def gold_of(example: Example) -> list[float]:
    """What each candidate is worth, higher is better: by ``metadata["ranks"]`` (1 is best, equal ranks allowed), else
    the candidates are ranked as they stand, the best first.

    Raises:
        DataError: there are fewer than two candidates, one is empty, or the ranks tell none apart or are no numbers.
    """
    where, candidates = f"preference example {example.id!r}", example.candidates
    if len(candidates) < 2 or not all(text.strip() for text in candidates):
        raise DataError(f"{where} needs at least two candidates, none of them empty; it has {candidates!r}")
    ranks = example.metadata.get("ranks", range(1, len(candidates) + 1))
    try:
        gold = [-float(rank) for rank in ranks]
    except (TypeError, ValueError):
        raise DataError(f"{where}: ranks should be numbers, 1 the best, not {ranks!r}") from None
    if len(gold) != len(candidates) or len(set(gold)) < 2 or not all(map(isfinite, gold)):
        raise DataError(f"{where}: {len(candidates)} candidates need as many ranks, not all equal, not {ranks!r}")
    return gold


def shuffled(number: int, seed: int) -> list[int]:
    """0 to ``number`` - 1 in an order drawn from ``seed``."""
    return Random(seed).sample(range(number), number)
