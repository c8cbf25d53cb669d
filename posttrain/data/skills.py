"""Skill-augmented data, OREAL's step before reinforcement learning (arXiv 2502.06781, section 3.3).

Where the policy keeps failing a skill, training examples of that skill are added to the supervised data and
supervised fine-tuning is done again. An example's skill is ``metadata["skill"]``.
"""

from collections.abc import Collection, Sequence

from posttrain.types import Example


def examples_of_skills(examples: Sequence[Example], skills: Collection[str]) -> list[Example]:
    """The examples that carry one of ``skills``, in order: what is added to the supervised data."""
    return [example for example in examples if example.metadata.get("skill") in skills]
