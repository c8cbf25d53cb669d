"""Skill-augmented data, OREAL's step before reinforcement learning (arXiv 2502.06781, section 3.3).

Where the policy keeps failing a skill, training examples of that skill are added to the supervised data and
supervised fine-tuning is done again. An example's skill is ``metadata["skill"]``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from posttrain.types import Example


def failed_skills(examples: Iterable[Example], pass_rates: Mapping[str, float], threshold: float = 0.0) -> set[str]:
    """The skills whose mean pass rate over ``examples`` (by id; those without a rate are left out) is at most
    ``threshold``."""
    rates: dict[str, list[float]] = {}
    for example in examples:
        skill = example.metadata.get("skill")
        if skill is not None and example.id in pass_rates:
            rates.setdefault(skill, []).append(pass_rates[example.id])
    return {skill for skill, values in rates.items() if sum(values) / len(values) <= threshold}


def examples_of_skills(examples: Sequence[Example], skills: Collection[str]) -> list[Example]:
    """The examples that carry one of ``skills``, in order: what is added to the supervised data."""
    return [example for example in examples if example.metadata.get("skill") in skills]
