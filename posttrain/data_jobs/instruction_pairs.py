"""Paired instructions for agent safety: a chain of actions with a harmful and with a benign purpose, as rows."""

from collections import Counter
from pathlib import Path

from posttrain.agents.workplace import BENIGN, make_pair
from posttrain.data_jobs.config import InstructionPairsConfig
from posttrain.training.run_log import write_rows


def write_instruction_pairs(config: InstructionPairsConfig) -> str:
    """Write a row for each pair of the split (``id``, ``chain`` of verbs, ``actions``, ``harmful``, ``benign``), and
    return the summary."""
    names = [task.rpartition("/")[2] for task in config.environment.task_ids(config.split) if BENIGN in task]
    pairs = {name: make_pair(int(name)) for name in names}
    rows = [
        {"id": n, "chain": pair.verbs, "actions": pair.actions, "harmful": pair.harmful, "benign": pair.benign}
        for n, pair in pairs.items()
    ]
    write_rows(Path(config.output), rows)
    chains = Counter(" -> ".join(pair.verbs) for pair in pairs.values())
    return f"{len(rows)} pairs in {config.output}: {', '.join(f'{chain} {n}' for chain, n in chains.items())}"
