"""Does a completion follow its instructions? IFEval's 25 verifiable types (arXiv 2311.07911), strict and loose."""

from collections.abc import Sequence
from importlib.util import find_spec
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from posttrain.errors import JobError
from posttrain.rewards.instructions.instruction_checks import checked_arguments
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import WorkerPool, WorkerResult
from posttrain.types import Example

Instructions = list[tuple[str, dict[str, Any]]]


class InstructionsConfig(BaseRewardConfig):
    """Rows have IFEval's columns ``instruction_id_list`` and ``kwargs``."""

    type: Literal["instructions"] = "instructions"
    score: Literal["instruction", "prompt"] = Field(
        default="instruction", description="the share of the instructions that are followed, or 1 for all of them"
    )
    mode: Literal["strict", "loose"] = Field(
        default="strict", description="loose: also without the first line, the last line, asterisks"
    )
    timeout_s: float = Field(default=5.0, gt=0, description="wall-clock seconds of one completion")
    workers: int = Field(default=2, ge=1, description="processes that check")

    def make(self) -> Reward:
        missing = [library for library in ("langdetect", "nltk") if find_spec(library) is None]
        if missing:
            raise JobError(f"type: instructions needs {' and '.join(missing)}: pip install 'posttrain[instructions]'")
        return InstructionsReward(self)


class InstructionsReward:
    """The share of a row's instructions that a completion follows, or 1 only where it follows them all.

    Parts: under each instruction id its verdict (the mean where the row has the id several times), in the chosen
    mode; and ``strict_prompt``, ``loose_prompt``, ``strict_instruction``, ``loose_instruction``, IFEval's four
    accuracies for this row.

    Errors: ``invalid_input`` for a row without instructions, an unknown id, or an argument that is missing, unknown
    or unfit; ``timeout`` and ``crashed`` for a completion that the worker did not survive, as with a keyword that is
    a regular expression of exponential time.
    """

    name = "instructions"

    def __init__(self, config: InstructionsConfig) -> None:
        self.config = config
        # nltk brings numpy, whose threads reserve more address space than the usual limit where there are many cores.
        judge = "posttrain.rewards.instructions.instruction_worker:judge"
        self._pool = WorkerPool(judge, workers=config.workers, memory_mb=0, timeout_s=config.timeout_s)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        outputs: list[RewardOutput] = []
        valid: list[tuple[int, Instructions]] = []
        for row, item in enumerate(inputs):
            outputs.append(RewardOutput(None))
            try:
                valid.append((row, instructions_of(item.example)))
            except ValueError as error:
                outputs[row] = RewardOutput(None, error="invalid_input", message=str(error))
        questions = [{"text": inputs[row].completion, "instructions": instructions} for row, instructions in valid]
        for (row, instructions), result in zip(valid, self._pool.map(questions), strict=True):
            outputs[row] = self._output(instructions, result)
        return outputs

    def _output(self, instructions: Instructions, result: WorkerResult) -> RewardOutput:
        if result.error is not None:
            ids = ", ".join(instruction_id for instruction_id, _ in instructions)
            return RewardOutput(None, error=result.error, message=f"checking {ids}: {result.message}")
        if "invalid" in result.value:
            return RewardOutput(None, error="invalid_input", message=result.value["invalid"])
        by_id: dict[str, list[bool]] = {}
        for (instruction_id, _), verdict in zip(instructions, result.value[self.config.mode], strict=True):
            by_id.setdefault(instruction_id, []).append(verdict)
        parts = {instruction_id: fmean(verdicts) for instruction_id, verdicts in by_id.items()}
        for mode in ("strict", "loose"):
            parts[f"{mode}_prompt"] = float(all(result.value[mode]))
            parts[f"{mode}_instruction"] = fmean(result.value[mode])
        return RewardOutput(parts[f"{self.config.mode}_{self.config.score}"], parts)

    def close(self) -> None:
        self._pool.close()


def instructions_of(example: Example) -> Instructions:
    """The instructions of a row, with their arguments (those that are None left out).

    Raises:
        ValueError: there are none, or one is not as IFEval has it; the message names the column, the id, the argument.
    """
    ids, arguments = example.metadata.get("instruction_id_list"), example.metadata.get("kwargs")
    if not isinstance(ids, list) or not ids or not all(isinstance(name, str) for name in ids):
        raise ValueError(f"the column instruction_id_list must be a list of instruction ids, not {ids!r:.200}")
    if not isinstance(arguments, list) or len(arguments) != len(ids):
        raise ValueError(f"the column kwargs must have one entry for each of the {len(ids)} instructions")
    if not all(isinstance(entry, dict | None) for entry in arguments):
        raise ValueError("the entries of the column kwargs must be objects")
    return [(name, checked_arguments(name, entry or {})) for name, entry in zip(ids, arguments, strict=True)]
