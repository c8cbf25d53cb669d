"""TextWorld through its package, where that is installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from posttrain.agents.environment import ACTION, WITHOUT_ACTION
from posttrain.agents.textworld import NO_COMMAND, TextWorldConfig
from posttrain.errors import JobError

needs_package = pytest.mark.skipif(
    find_spec("textworld") is None, reason="the extra posttrain[textworld] is not installed"
)
SMALL = TextWorldConfig(rooms=2, objects=3, quests=2, quest_length=2)


def test_splits_share_no_game() -> None:
    train, held_out = (TextWorldConfig(tasks=100).task_ids(split) for split in ("train", "eval"))
    assert len(train) == len(held_out) == 100 and not {*train} & {*held_out}


@needs_package
@pytest.mark.slow
def test_the_walkthrough_solves_the_game_again_beside_another() -> None:
    one, other = SMALL.build(), SMALL.build()
    turns, others = one.solution("textworld/1", 0), other.solution("textworld/2", 0)
    first, different = one.reset("textworld/1", 0), other.reset("textworld/2", 0)
    assert first != different and "Commands: " in first.splitlines()[-1]
    alone = [one.step(turn) for turn in turns]
    assert [result.reward for result in alone if result.reward][:1] == [0.5]
    assert alone[-1].reward == 1.0 and alone[-1].done and not any(result.done for result in alone[:-1])
    assert one.reset("textworld/1", 0) == first
    together = []
    for number, turn in enumerate(turns):
        together.append(one.step(turn))
        other.step(others[number % len(others)])
    assert together == alone
    one.close()
    other.close()


@needs_package
@pytest.mark.slow
def test_no_turn_leaves_the_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    game = SMALL.model_copy(update={"hints": False, "max_steps": 8}).build()
    game.reset("textworld/1", 0)
    assert game.step("What now?").observation == WITHOUT_ACTION == game.step(ACTION).observation
    assert game.step(f"{ACTION} wait").observation == "Time passes."
    assert [game.step(f"{ACTION} {word}").observation for word in ("save", "look. Script", "quit")] == [NO_COMMAND] * 3
    assert game.step(f"{ACTION} look").observation.startswith("-= ")
    assert game.step(f"{ACTION} dance").done  # the eighth
    assert not list(tmp_path.iterdir())
    for unknown in ("textworld/x", "textworld", "vault/1"):
        with pytest.raises(KeyError):
            game.reset(unknown, 0)
    game.close()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(JobError, match=r"pip install 'posttrain\[textworld\]'"):
        SMALL.build().reset("textworld/1", 0)
