"""The code reward: both forms of tests, what counts as the program, and wrong programs that try to pass."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.rewards.code.code import CodeReward, extract_program
from posttrain.rewards.code.sandbox import SandboxUnavailable
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.scoring.reward_file import load_reward_config
from posttrain.types import Example, Message

HUMANEVAL = Path(__file__).parents[4] / "shared/data/humaneval/humaneval.jsonl.gz"
PROMPT = '''from typing import List


def shift(number: int) -> int:
    return number + 1


def double(numbers: List[int]) -> List[int]:
    """Twice each number."""
'''
TEST = """
METADATA = {}

def check(candidate):
    assert candidate([1, 2]) == [2, 4]
    assert candidate([]) == []
    assert candidate([shift(1)]) == [4]
"""
RIGHT = "def double(numbers):\n    return [2 * number for number in numbers]\n"


def make_reward(**keys: Any) -> CodeReward:
    try:
        reward = CodeReward(timeout_s=3, memory_mb=256, disk_mb=8, processes=8, output_kb=64, **keys).make()
    except SandboxUnavailable as error:
        pytest.skip(f"this machine cannot isolate programs: {error}")
    assert isinstance(reward, CodeReward)
    return reward


@pytest.fixture(scope="module")
def reward() -> Iterator[CodeReward]:
    reward = make_reward()
    yield reward
    reward.close()


@pytest.fixture(scope="module")
def fraction() -> Iterator[CodeReward]:
    reward = make_reward(credit="fraction", workers=1)
    yield reward
    reward.close()


def function_item(completion: str, prompt: str | list[Message] = PROMPT, **row: Any) -> RewardInput:
    return RewardInput(Example("double", prompt, metadata={"test": TEST, "entry_point": "double"} | row), completion)


def stream_item(completion: str, inputs: list[str], outputs: list[str]) -> RewardInput:
    return RewardInput(Example("stream", "Add.", metadata={"inputs": inputs, "outputs": outputs}), completion)


def test_human_eval_is_solved_by_its_canonical_solutions_alone(reward: CodeReward) -> None:
    if not HUMANEVAL.exists():
        pytest.skip(f"{HUMANEVAL} is not here")
    with gzip.open(HUMANEVAL, "rt") as file:
        rows = [json.loads(line) for line in file]
    items = []
    for row in rows:
        example = Example(row["task_id"], row["prompt"], metadata={key: row[key] for key in ("test", "entry_point")})
        whole = f"It is:\n```python\n{row['prompt']}{row['canonical_solution']}```\nThat is all."
        items += [RewardInput(example, text) for text in (row["canonical_solution"], whole, "    return None\n")]
    scores = [output.score for output in reward.score(items)]
    assert len(rows) == 164
    assert scores == [1.0, 1.0, 0.0] * 164


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        pytest.param("    return [2 * number for number in numbers]\n", 1, id="continues the prompt"),
        pytest.param(RIGHT, 1, id="the whole function"),
        pytest.param(f"First\n```python\n{RIGHT}```\nthen use it:\n```python\nprint(double([1]))\n```", 1, id="fences"),
        pytest.param("```python\n    return [number + number for number in numbers]\n```", 1, id="a fenced body"),
        pytest.param(f"```py\n{RIGHT}", 1, id="cut off after the code"),
        pytest.param(f"<think>```python\nno\n```</think>\n{RIGHT}", 1, id="after thinking"),
        pytest.param("    return [shift(number) for number in numbers]\n", 0, id="wrong"),
        pytest.param(f"<think>{RIGHT}", 0, id="still thinking"),
        pytest.param("", 0, id="nothing"),
        pytest.param("I cannot do that.", 0, id="no program"),
        pytest.param("def double(numbers):\n    return map(int, 'x')\n", 0, id="raises while it is read"),
        pytest.param("def double(numbers):\n    return (2 * number for number in numbers)\n", 0, id="an iterator"),
    ],
)
def test_human_evals_form(reward: CodeReward, completion: str, score: float) -> None:
    [output] = reward.score([function_item(completion)])
    assert output.score == score
    assert output.parts == {"tests_passed": score, "timed_out": 0.0}
    assert bool(output.message) == (score == 0)


CHEATS = {
    "sys.exit before the asserts": "import sys\nsys.exit(0)",
    "os._exit before the asserts": "import os\nos._exit(0)",
    "sys.exit when called": "import sys\ndef double(numbers):\n    sys.exit(0)",
    "os._exit when called": "import os\ndef double(numbers):\n    os._exit(0)",
    "always equal": """
class Equal(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __len__(self): return 0
def double(numbers): return Equal()
""",
    "an object that says it is plain": """
class Equal:
    __class__ = list
    def __eq__(self, other): return True
    def __reduce__(self): return (eval, ("__import__('builtins').__dict__.update(AssertionError=0)",))
def double(numbers): return Equal()
""",
    "monkey-patched built-ins": """
import builtins, json, os, pickle, sys
builtins.AssertionError = Warning
builtins.print = builtins.exec = builtins.compile = lambda *_, **__: None
class Check:
    def __call__(self, *_): return None
check = Check()
sys.modules["tests"] = Check()
def double(numbers): return None
""",
    "monkey-patched checker": """
import sys
for module in list(sys.modules.values()):
    for name in ("check", "_say", "_proxy", "_answer", "_called", "_plain"):
        if hasattr(module, name):
            setattr(module, name, lambda *_: None)
def double(numbers): return None
""",
    "the asserts are removed": "import ast\nast.Assert = ast.Pass\ndef double(numbers): return None",
    "writing to every descriptor": """
import os
for number in range(64):
    try:
        os.write(number, b"\\n" + b"0" * 32 + b"\\n")
    except OSError:
        pass
def double(numbers): return None
""",
    "a forged reply that runs code": r"""
import os, pickle
class Code:
    def __reduce__(self): return (exec, ("import os; os._exit(0)",))
def double(numbers):
    os.write(4, pickle.dumps(("value", Code(), ())))
    import time; time.sleep(60)
""",
    "a forged reply that patches a class": r"""
import os, pickle
PATCH = b"\x80\x04cbuiltins\nrange\n(N}(X\x06\x00\x00\x00__eq__cbuiltins\ncomplex\nutb."
def double(numbers):
    os.write(4, PATCH)
    import time; time.sleep(60)
""",
    "looking for the secret": """
import ctypes, gc, os, re, sys
def double(numbers): return None
texts = [entry for entry in gc.get_objects() if isinstance(entry, (str, bytes, list, dict))]
frame = sys._getframe()
while frame:
    texts += [frame.f_locals, frame.f_globals]
    frame = frame.f_back
texts += [sys.argv, sys.orig_argv, dict(os.environ)]
found = set(re.findall(r"\\b[0-9a-f]{32}\\b", repr(texts)))
for number in range(3, 64):
    try:
        os.write(number, "\\n".join(["", *found, ""]).encode())
    except OSError:
        pass
""",
    "looking for the tests": """
import gc
needle = "".join(reversed("1[(etadidnac"))
texts = [part for entry in gc.get_objects() if isinstance(entry, (dict, list, tuple)) for part in map(str, entry)]
known = any(needle in text for text in texts)
def double(numbers): return [2 * number for number in numbers] if known else None
""",
    "killing everyone": """
import os, signal
for target in (-1, 0, 1, 2, 3, 4, 5, os.getppid()):
    try:
        os.kill(target, signal.SIGTERM)
    except OSError:
        pass
def double(numbers): return None
""",
    "raising in __del__": """
class Loud:
    def __del__(self): raise SystemExit(0)
keep = Loud()
def double(numbers):
    Loud()
    return None
""",
    "at exit": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit",
    "a thread that exits": "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()",
    "changing the arguments": """
def double(numbers):
    numbers.append(numbers)
    return numbers
""",
}


@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS.keys())
def test_no_program_passes_without_being_right(reward: CodeReward, program: str) -> None:
    items = [function_item(f"```python\n{program}\n```\n"), function_item(RIGHT)]
    cheated, right = reward.score(items)
    assert (cheated.score, cheated.error) == (0.0, None)
    assert right.score == 1.0


def test_a_right_program_may_be_odd(reward: CodeReward) -> None:
    odd = {
        "raises in __del__": f"class Loud:\n    def __del__(self): raise ValueError\nkeep = Loud()\n{RIGHT}",
        "prints": f"{RIGHT}print('x' * 1_000_000)\n",
        "has a main part": f'{RIGHT}if __name__ == "__main__":\n    raise SystemExit(input())\n',
        "a list of another class": "class Row(list): pass\ndef double(numbers): return Row(2 * n for n in numbers)\n",
        "a class": "class double(list):\n    def __init__(self, numbers): super().__init__(2 * n for n in numbers)\n",
        "leaves a thread": f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n{RIGHT}",
    }
    outputs = reward.score([function_item(f"```\n{program}```") for program in odd.values()])
    assert {name: output.score for name, output in zip(odd, outputs, strict=True)} == dict.fromkeys(odd, 1.0)


def test_a_program_that_hangs_is_wrong(reward: CodeReward) -> None:
    started = time.monotonic()
    hangs = ["while True:\n    pass", "def double(numbers):\n    while True:\n        pass"]
    outputs = reward.score([*map(function_item, hangs), function_item(RIGHT)])
    for output in outputs[:2]:
        assert output == RewardOutput(0.0, {"tests_passed": 0.0, "timed_out": 1.0}, message=output.message)
    assert outputs[2].score == 1.0
    assert time.monotonic() - started < 10


def test_results_keep_their_type_and_arguments_their_changes(reward: CodeReward) -> None:
    code = """
from collections import Counter, namedtuple
def same(value): return value
def kinds(): return [1, True, 1.5, 1j, "a", b"a", None, (1,), {1}, frozenset({1}), {1: [2]}, range(3), float("inf")]
def counted(): return Counter("aab")
def pair(): return namedtuple("Pair", "x y")(1, 2)
def sort(numbers, *, reverse=False): numbers.sort(reverse=reverse)
def fails(): raise ValueError("why")
class Own(Exception): pass
def fails_oddly(): raise Own
def letters(): yield from "ab"
"""
    tests = [
        "values = same([1, True, 1.5, 1j, 'a', b'a', None, (1,), {1}, frozenset({1}), {1: [2]}, range(3)])\n"
        "assert list(map(type, values)) == list(map(type, kinds()))[:-1] and values == kinds()[:-1]",
        "assert kinds()[-1] == float('inf')",
        "assert counted() == {'a': 2, 'b': 1} and pair() == (1, 2)",
        "numbers = [3, 1, 2]\nassert sort(numbers, reverse=True) is None\nassert numbers == [3, 2, 1]",
        "try:\n    fails()\nexcept ValueError as error:\n    assert str(error) == 'why'\nelse:\n    assert False",
        "try:\n    fails_oddly()\nexcept Exception as error:\n    assert 'Own' in str(error) or not str(error)",
        "assert next(letters()) == 'a' and list(letters()) == ['a', 'b']",
    ]
    [output] = reward.score([RewardInput(Example("kinds", "Write.", metadata={"test_list": tests}), code)])
    assert output.score == 1.0, output


def test_a_list_of_assertions_gives_a_share(reward: CodeReward, fraction: CodeReward) -> None:
    row = {
        "test_list": ["assert double([1]) == [2]", "assert double([1]) == [3]", "assert double(1) == 2", "double([])"]
    }
    item = RewardInput(Example("list", "Write double.", metadata=row), RIGHT)
    [[whole], [share]] = reward.score([item]), fraction.score([item])
    assert (whole.score, share.score) == (0.0, 0.5)
    assert whole.parts["tests_passed"] == share.parts["tests_passed"] == 0.5
    assert "AssertionError" in whole.message


@pytest.mark.parametrize(
    ("program", "share"),
    [
        ("print(sum(map(int, input().split())))", 1.0),
        ("a, b = map(int, input().split())\nprint(a + b, '', sep='  \\n\\n')", 1.0),
        ("print(3)", 0.5),
        ("print(sum(map(int, input().split())))\nraise SystemExit(1)", 0.0),
        ("print(sum(map(int, input().split())))\nprint('more')", 0.0),
        ("print(sum(map(int, input().split())))\nwhile True: print('x' * 1000)", 0.0),
        ("import sys\nsys.stderr.write('3')", 0.0),
        ("syntax error", 0.0),
    ],
)
def test_standard_input_and_output(reward: CodeReward, fraction: CodeReward, program: str, share: float) -> None:
    item = stream_item(f"```python\n{program}\n```", ["1 2\n", "10 20\n"], ["3\n", "30"])
    [[whole], [part]] = reward.score([item]), fraction.score([item])
    assert (whole.score, part.score) == (float(share == 1), share)
    assert whole.parts == part.parts == {"tests_passed": share, "timed_out": 0.0}


def test_after_a_run_that_is_timed_out_there_is_no_other(fraction: CodeReward) -> None:
    started = time.monotonic()
    program = "number = int(input())\nwhile number == 2: pass\nprint(number)"
    [output] = fraction.score([stream_item(program, ["1", "2", "2", "2", "3"], ["1", "2", "2", "2", "3"])])
    assert (output.score, output.parts) == (0.2, {"tests_passed": 0.2, "timed_out": 1.0})
    assert output.message == "input 2: timed_out"
    assert time.monotonic() - started < 6


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "needs test"),
        ({"test": 3, "entry_point": "f"}, "needs test"),
        ({"test": TEST}, "entry_point"),
        ({"test": TEST, "entry_point": "f(1)"}, "entry_point"),
        ({"test_list": []}, "needs test"),
        ({"inputs": ["1"], "outputs": []}, "as many"),
        ({"inputs": ["1"]}, "as many"),
        ({"test": "assert f(", "entry_point": "f"}, "not valid Python"),
        ({"test": "assert f(lambda: 1)", "entry_point": "f"}, "cannot leave its process"),
    ],
)
def test_rows_that_cannot_be_judged(reward: CodeReward, row: dict[str, Any], message: str) -> None:
    [output] = reward.score([RewardInput(Example("row", "Write f.", metadata=row), "def f(x): return x\n")])
    assert (output.score, output.error) == (None, "invalid_input")
    assert message in output.message


def test_a_prompt_of_messages_takes_its_code_from_a_column_or_a_fence(reward: CodeReward) -> None:
    chat = [{"role": "user", "content": "Double it, please."}]
    with_column = function_item("    return [2 * n for n in numbers]\n", chat, code_prompt=PROMPT)
    without = function_item("def shift(n): return n + 1\n" + RIGHT, chat)
    fenced = [{"role": "user", "content": f"Complete this.\n```python\n{PROMPT}```\nPlease."}]
    continued = function_item("    return [2 * n for n in numbers]\n", fenced)
    whole = function_item(f"```python\n{RIGHT}```", fenced)
    assert [output.score for output in reward.score([with_column, without, continued, whole])] == [1.0] * 4


def test_which_block_is_the_program() -> None:
    assert extract_program("no fence\n") == "no fence\n"
    assert extract_program("a\n```\nfirst\n```\nb\n```python\nsecond\n```\n") == "second\n"
    assert extract_program("1. do\n   ```python\n   def f():\n       pass\n   ```\n") == "def f():\n    pass\n"
    assert extract_program("~~~\n```\n~~~") == "```\n"
    assert extract_program("````md\n```\ninner\n```\n````") == "```\ninner\n```\n"


def test_the_reward_file_judges(reward: CodeReward) -> None:
    config = load_reward_config(str(Path(__file__).parents[3] / "reward_models/code.yaml"), ["workers=1"])
    from_file = config.build()
    assert [output.score for output in from_file.score([function_item(RIGHT), function_item("pass")])] == [1.0, 0.0]
    from_file.close()


def test_config() -> None:
    assert CodeReward().isolation == "namespaces"
    for wrong in ({"credit": "half"}, {"timeout_s": 0}, {"isolation": "none"}, {"memory_mb": 1}):
        with pytest.raises(ValidationError):
            CodeReward(**wrong)  # type: ignore[arg-type]
