"""Rewards that the server under test serves: they do what a completion tells them."""

import os
import time
from collections.abc import Sequence

from posttrain.rewards.reward import RewardInput, RewardOutput


class Commanded:
    """Scores the length of a completion, or obeys it: ``sleep 0.5``, ``raise``, ``exit``, ``nan``, ``path``."""

    def __init__(self, seconds_per_batch: float = 0.0) -> None:
        self.seconds_per_batch = seconds_per_batch

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        time.sleep(self.seconds_per_batch)
        return [self._obey(item.completion, len(inputs)) for item in inputs]

    def _obey(self, completion: str, batch: int) -> RewardOutput:
        command, _, argument = completion.partition(" ")
        if command == "sleep":
            time.sleep(float(argument))
        elif command == "raise":
            raise OSError(2, "No such file or directory", "/secret/place/model.bin")
        elif command == "exit":
            os._exit(3)
        elif command == "nan":
            return RewardOutput(float("nan"))
        elif command == "path":
            return RewardOutput(None, error="unparseable", message="cannot parse /secret/place/answer.txt at 3")
        elif command == "tokens":
            return RewardOutput(1.0, {"truncated_tokens": 3.0, "odd": float("inf")}, token_scores=[0.5, float("nan")])
        print("a reward may print")
        return RewardOutput(float(len(completion)), {"batch": float(batch), "process": float(os.getpid())})

    def close(self) -> None:
        pass


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no model here")

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return []

    def close(self) -> None:
        pass
