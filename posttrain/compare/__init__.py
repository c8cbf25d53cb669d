"""Comparisons: arms × seeds under one declared budget, as tables, pictures, a page and ``result.json``.

::

    job: quickstart.yaml              # what every arm starts from, beside this file
    metric: eval/accuracy             # or metrics: [eval/accuracy, eval/length_mean], the main one first
    seeds: [1, 2, 3]
    budget: {kind: steps, value: 40}
    shared: [warm_start]              # one warm start a seed, the same for all arms
    arms:
      oreal: {}
      positives-only:
        trainer: {negative_loss_coef: 0}
    expect:                           # of means over seeds; differences are paired
      - oreal start <= 0.45
      - oreal end >= 0.70
      - oreal end > positives-only end + 0.02
"""

from posttrain.compare.comparison import run_comparison

__all__ = ["run_comparison"]
