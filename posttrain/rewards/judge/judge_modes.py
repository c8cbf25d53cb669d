"""Ways to ask a judge about the completions of one example (all together: see ``referee``). Each is a function from a
group to its questions and to how their replies become outputs; a score is between 0 and 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Literal

from posttrain.rewards.judge.judgement import (
    Candidate,
    Conversation,
    Reply,
    answer_probability,
    parse_score,
    parse_winner,
    unit_score,
)
from posttrain.rewards.reward import RewardInput, RewardOutput

Ask = Callable[[Sequence[Candidate]], Conversation]

SHOWN = 80  # characters at the end of an unreadable reply that a message quotes
WINS = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True, slots=True)
class Judging:
    """Questions about a group, and what their replies, in order, say of its completions."""

    questions: list[Conversation]
    outputs: Callable[[Sequence[Reply]], list[RewardOutput]]


def pointwise(group: Sequence[RewardInput], ask: Ask) -> Judging:
    """Each completion by itself, from 1 to 10 in a line ``Score: 7``."""

    def output(reply: Reply) -> RewardOutput:
        score = parse_score(reply.text)
        return failed(reply, "Score: 7") if score is None else RewardOutput(unit_score(score), {"judge_score": score})

    return Judging([ask([Candidate.of(item)]) for item in group], lambda replies: list(map(output, replies)))


def yes_probability(
    group: Sequence[RewardInput], ask: Ask, yes: Sequence[str], no: Sequence[str], min_answer_mass: float
) -> Judging:
    """Each completion by itself: how likely the reply begins with a word of ``yes`` rather than ``no``."""

    def output(reply: Reply) -> RewardOutput:
        probability, mass = answer_probability(reply.first_tokens, yes, no)
        if reply.error is None and mass < min_answer_mass:
            message = f"only {mass:.2g} of the first token's probability is on {'/'.join([*yes, *no])}"
            return RewardOutput(None, {"answer_mass": mass}, "unparseable", message)
        return failed(reply, "") if reply.error else RewardOutput(probability, {"answer_mass": mass})

    return Judging([ask([Candidate.of(item)]) for item in group], lambda replies: list(map(output, replies)))


def pairwise(group: Sequence[RewardInput], ask: Ask, against: Literal["reference", "group"], opponents: int) -> Judging:
    """Each completion against references or others of its group, every pair in both orders. The score is the share of
    comparisons won; two orders that disagree make a tie."""
    candidates = [Candidate.of(item) for item in group]
    references = [Candidate(text) for text in group[0].example.references[:opponents]]
    pairs = ring_pairs(len(group), opponents) if against == "group" else []
    # Rows of the two that are compared; references come after the group.
    everyone = candidates + references
    if against == "reference":
        pairs = [(row, len(group) + number) for row in range(len(group)) for number in range(len(references))]
    questions = [ask([everyone[a], everyone[b]]) for pair in pairs for a, b in (pair, pair[::-1])]

    def outputs(replies: Sequence[Reply]) -> list[RewardOutput]:
        found: list[list[RewardOutput]] = [[] for _ in everyone]
        for (a, b), first, second in zip(pairs, replies[::2], replies[1::2], strict=True):
            verdict = compared(first, second)
            found[a].append(verdict)
            found[b].append(verdict if verdict.score is None else replace(verdict, score=1.0 - verdict.score))
        return [_share_won(of_row, against) for of_row in found[: len(group)]]

    return Judging(questions, outputs)


def compared(first: Reply, second: Reply) -> RewardOutput:
    """1, 0.5 or 0: how the candidate fared that is A in ``first`` and B in ``second``, the same pair swapped."""
    winner, swapped = parse_winner(first.text), parse_winner(second.text)
    if winner is None or swapped is None:
        return failed(first if winner is None else second, "Winner: A|B|tie")
    agree = WINS[winner] == 1.0 - WINS[swapped]
    return RewardOutput(WINS[winner] if agree else 0.5, {"position_disagreement": float(not agree)})


def ring_pairs(number: int, reach: int) -> list[tuple[int, int]]:
    """Each of ``number`` things in a ring with the ``reach`` next ones; all pairs, once, where that goes around."""
    return [(a, b) for a, b in combinations(range(number), 2) if min(b - a, number - b + a) <= reach]


def _share_won(comparisons: Sequence[RewardOutput], against: str) -> RewardOutput:
    """The mean over the comparisons that could be judged; an error where none could."""
    scores = [one.score for one in comparisons if one.score is not None]
    if not comparisons:
        return RewardOutput(None, error="invalid_input", message=f"nothing to compare with: no other of its {against}")
    if not scores:
        return replace(comparisons[0], parts={})
    disagreement = fmean(one.parts["position_disagreement"] for one in comparisons if one.score is not None)
    parts = {"comparisons": float(len(scores)), "position_disagreement": disagreement}
    return RewardOutput(fmean(scores), parts)


def failed(reply: Reply, wanted: str) -> RewardOutput:
    """The error of a reply that did not come, or has no line ``wanted``."""
    message = reply.message or f"no line `{wanted}` in the reply, which ends {reply.text[-SHOWN:]!r}"
    return RewardOutput(None, error=reply.error or "unparseable", message=message)
