"""Does a program pass its tests? Python in an OS-level sandbox, in HumanEval's form or by standard input and output."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeGuard

from pydantic import Field

from posttrain.rewards.code.sandbox import (
    Checked,
    Sandbox,
    SandboxCrashed,
    SandboxPool,
    SandboxSettings,
    run_script,
    run_tests,
)
from posttrain.rewards.math.answer_extraction import after_thinking
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

_FENCED = re.compile(r"^([ \t]*)(```+|~~~+)[^`\n]*\n(.*?)(?:^[ \t]*\2|\Z)", re.MULTILINE | re.DOTALL)
# Characters of a program's error or output that a message quotes.
SHOWN = 200


class CodeReward(ConfiguredReward):
    """1 for a program that passes every test of its row, else 0; or the share of the tests.

    The program is the last fenced block of the completion (that defines ``entry_point``, if one does), or the whole
    completion. With HumanEval's columns it continues the prompt (or the column ``code_prompt``; of messages, what the
    last one fences), unless it defines ``entry_point`` itself. Its functions run in a process of their own and give the
    tests plain data only. With ``inputs`` and ``outputs`` each input is one run, which must end with status 0 and print
    the output, trailing white space aside; runs after one that is timed out are not tried.

    Parts: ``tests_passed``, the share; ``timed_out``, 1 where the clock ended the program, which scores as wrong.

    Errors: ``invalid_input`` for a row without tests or with one that cannot run; ``crashed`` where the sandbox, not
    the program, failed.
    """

    type: Literal["code"] = "code"
    credit: Literal["all", "fraction"] = Field(
        default="all", description="1 for a program that passes every test, else 0; or the share of tests passed"
    )
    isolation: Literal["namespaces", "rlimits_only"] = Field(
        default="namespaces",
        description="rlimits_only: no isolation, for a machine without namespaces and trusted code",
    )
    timeout_s: float = Field(default=10.0, gt=0, description="wall-clock seconds of a program, for each input")
    memory_mb: int = Field(default=512, ge=64, description="address space of each of its processes")
    disk_mb: int = Field(default=64, ge=1, description="its private folder, in memory")
    processes: int = Field(default=16, ge=1, description="its processes and threads")
    output_kb: int = Field(default=1024, ge=1, description="what it may print")
    workers: int = Field(default=2, ge=1, description="programs that run at once")
    python: str = Field(default="", description="the interpreter with the packages that programs import; standard only")

    def make(self) -> Reward:
        """Raises: SandboxUnavailable, where this machine does not isolate programs (see ``SandboxPool``)."""
        _ = self._pool  # started and tried here
        return self

    @cached_property
    def _pool(self) -> SandboxPool:
        settings = SandboxSettings(**{name: getattr(self, name) for name in SandboxSettings.__slots__})
        return SandboxPool(settings, self.workers)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        results = self._pool.map(self._judge, inputs)
        return [
            RewardOutput(None, error="crashed", message=f"the sandbox failed: {result}")
            if isinstance(result, SandboxCrashed)
            else result
            for result in results
        ]

    def close(self) -> None:
        self._pool.close()

    def _judge(self, sandbox: Sandbox, item: RewardInput) -> RewardOutput:
        try:
            tests = tests_of(item)
        except ValueError as error:
            return RewardOutput(None, error="invalid_input", message=str(error))
        text = after_thinking(item.completion)
        if text is None or not text.strip():
            found = Checked(0, problem="there is no program")
        else:
            found = tests.run(sandbox, text)
        if found.invalid:
            return RewardOutput(None, error="invalid_input", message=found.invalid)
        share = found.passed / tests.number
        parts = {"tests_passed": share, "timed_out": float(found.timed_out)}
        score = share if self.credit == "fraction" else float(found.passed == tests.number)
        return RewardOutput(score, parts, message=found.problem[:SHOWN])


@dataclass(frozen=True, slots=True)
class FunctionTests:
    """Code that calls the program's functions: the ``test`` of HumanEval, or a list of assertions."""

    tests: list[str]
    entry_point: str
    stub: str

    @property
    def number(self) -> int:
        return len(self.tests)

    def run(self, sandbox: Sandbox, text: str) -> Checked:
        definition = re.compile(rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(self.entry_point)}\b", re.MULTILINE)
        code = extract_program(text, definition)
        continues = bool(self.entry_point) and not definition.search(code)
        program = {"stub": self.stub, "code": code, "continues": continues}
        return run_tests(sandbox, program, self.tests, self.entry_point)


@dataclass(frozen=True, slots=True)
class StreamTests:
    """What the program is to print for each standard input."""

    inputs: list[str]
    outputs: list[str]

    @property
    def number(self) -> int:
        return len(self.inputs)

    def run(self, sandbox: Sandbox, text: str) -> Checked:
        code = extract_program(text)
        found = Checked(0)
        for number, (given, wanted) in enumerate(zip(self.inputs, self.outputs, strict=True), start=1):
            ended = run_script(sandbox, code, given)
            output = ended.output.decode(errors="replace")
            if ended.status == 0 and not ended.stopped and _lines(output) == _lines(wanted):
                found.passed += 1
                continue
            how = ended.stopped or (f"exit status {ended.status}" if ended.status else f"printed {output[:SHOWN]!r}")
            found.problem = found.problem or f"input {number}: {how}"
            if ended.stopped == "timed_out":
                found.timed_out = True
                break
        return found


def tests_of(item: RewardInput) -> FunctionTests | StreamTests:
    """The tests of a row.

    Raises:
        ValueError: it has none, or they are not of a known form.
    """
    row = item.example.metadata
    if "inputs" in row or "outputs" in row:
        inputs, outputs = row.get("inputs"), row.get("outputs")
        if not _are_texts(inputs) or not _are_texts(outputs) or len(inputs) != len(outputs):
            raise ValueError("inputs and outputs must be lists of texts, as many of one as of the other, at least one")
        return StreamTests(inputs, outputs)
    test, entry_point = row.get("test", row.get("test_list")), row.get("entry_point") or ""
    tests = [test] if isinstance(test, str) else test
    if not _are_texts(tests) or not isinstance(entry_point, str):
        raise ValueError("the row needs test (with entry_point) or test_list, or else inputs and outputs")
    if re.search(r"^def check\(", tests[0], re.MULTILINE):
        if not entry_point.isidentifier():
            raise ValueError(
                f"entry_point must name the function that check(candidate) is to test, not {entry_point!r}"
            )
        tests = [f"{tests[0]}\ncheck({entry_point})\n", *tests[1:]]
    prompt = item.example.prompt
    if not isinstance(prompt, str):
        prompt = "".join(block for _, _, block in _FENCED.findall(prompt[-1]["content"]))
    return FunctionTests(list(tests), entry_point, row.get("code_prompt") or prompt)


def extract_program(text: str, definition: re.Pattern[str] | None = None) -> str:
    """The last fenced block (that holds ``definition``, if one does), closed or not; ``text`` where there is none."""
    blocks = [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, _, block in _FENCED.findall(text)]
    defining = [block for block in blocks if definition is not None and definition.search(block)]
    return (defining or blocks or [text])[-1]


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value)


def _lines(output: str) -> list[str]:
    return [line.rstrip() for line in output.rstrip().splitlines()]
