"""The vault and the crafting game: solvable, disjoint, and fair about mistakes."""

from itertools import product
from typing import Any

import pytest

from posttrain.agents.crafting import MADE_ITEMS, Crafting, CraftingConfig, make_recipes
from posttrain.agents.environment import WITHOUT_ACTION, parse_action
from posttrain.agents.vault import KEYS, Vault, VaultConfig

CRAFTING = [
    CraftingConfig(depth=depth, branching=branching, spare=spare, max_steps=200)
    for depth, branching, spare in product((1, 3, 5), (1, 3), (None, 0))
]


def play(environment: Any, task_id: str, turns: list[str]) -> Any:
    environment.reset(task_id, 0)
    for turn in turns:
        result = environment.step(turn)
    return result


@pytest.mark.parametrize(
    "config", [VaultConfig(), VaultConfig(locks=1, keys=2), VaultConfig(worn=0.5), *CRAFTING], ids=repr
)
def test_the_solution_solves_every_task_and_splits_share_none(config: Any) -> None:
    config = config.model_copy(update={"tasks": 40})
    train, held_out = config.task_ids("train"), config.task_ids("eval")
    assert len(set(train) | set(held_out)) == 80
    environment = config.build()
    for task_id in train + held_out:
        turns = environment.solution(task_id, 0)
        result = play(environment, task_id, turns)
        assert result.reward == 1.0 and result.done
        assert play(environment, task_id, turns[:-1]).reward < 1.0


def test_no_recipe_of_a_held_out_goal_is_trained_on() -> None:
    config = CraftingConfig(tasks=200)
    goals = {
        split: {(r := make_recipes(config, task_id)).line(r.goal) for task_id in config.task_ids(split)}
        for split in ("train", "eval")
    }
    assert not goals["train"] & goals["eval"]


@pytest.mark.parametrize(
    ("turn", "action"),
    [
        ("Action: take gold", "take gold"),
        ("I think.\n  Action: take gold \n", "take gold"),
        ("take gold", None),
        ("Action: a\nAction: b", None),
        ("", None),
        ("My Action: a", None),
    ],
)
def test_an_action_is_the_only_line_of_its_kind(turn: str, action: str | None) -> None:
    assert parse_action(turn) == action


def test_a_wrong_key_jams_the_lock_quietly_until_it_is_reset() -> None:
    vault = Vault(VaultConfig(locks=1))
    start = vault.reset("vault/7", 0)
    right = vault.fitting_key()
    wrong = next(key for key in KEYS[:3] if key != right)
    assert "green" in start
    assert "grey" in vault.step(f"Action: take {wrong}").observation
    vault.step(f"Action: take {right}")
    assert not vault.step("Action: turn key").done  # also the right key
    assert "green" in vault.step("Action: reset lock").observation
    assert vault.step("Action: turn key").reward == 0.0  # it was put back
    vault.step(f"Action: take {right}")
    assert vault.step("Action: turn key").reward == 1.0


def test_a_worn_lock_looks_jammed_and_is_not() -> None:
    vault = Vault(VaultConfig(locks=1, worn=1.0))
    assert "grey" in vault.reset("vault/7", 0)
    right = vault.fitting_key()
    said = [vault.step(f"Action: {action}").observation for action in (f"take {right}", "turn key", "turn key")]
    assert "green" in said[0] and said[1].startswith("It does not turn.") and "green" in said[1]
    assert said[2] == "It opens."
    vault.reset("vault/7", 0)
    wrong = next(key for key in KEYS[:3] if key != right)
    said = [vault.step(f"Action: {action}").observation for action in (f"take {wrong}", "turn key", "turn key")]
    assert all("grey" in line for line in said) and said[1] == said[2]
    assert not vault.step("Action: reset lock").done and not vault.jammed
    assert vault.solution("vault/7", 0) == [f"Action: take {right}", "Action: turn key", "Action: turn key"]
    assert vault.opened == 1


def test_steps_run_out() -> None:
    vault = Vault(VaultConfig(max_steps=3))
    vault.reset("vault/1", 0)
    results = [vault.step("what?") for _ in range(3)]
    assert [result.done for result in results] == [False, False, True]
    assert WITHOUT_ACTION in results[0].observation


def crafting(**settings: Any) -> tuple[Crafting, str, str]:
    """A game at its start, its goal, and the line that makes it."""
    game = Crafting(CraftingConfig(depth=2, **settings))
    game.reset("crafting/3", 0)
    return game, game.recipes.goal, game.recipes.line(game.recipes.goal)


def test_crafting_takes_the_exact_recipe_and_its_ingredients() -> None:
    game, goal, line = crafting()
    assert f"Could not find {goal}" in game.step(f"Action: get 1 {goal}").observation
    assert "missing" in game.step(f"Action: {line}").observation
    assert "valid recipe" in game.step(f"Action: craft 1 {goal} using 9 oak").observation
    assert "valid recipe" in game.step(f"Action: {line.replace('craft 1', 'craft 2')}").observation
    assert "Could not execute" in game.step("Action: dance").observation
    assert game.step("Action: inventory").observation == "You have: nothing."
    assert game.inventory.total() == 0


def test_ingredients_are_consumed_and_supply_ends() -> None:
    game, _, _ = crafting(spare=0)
    item, number = next((item, n) for item, n in game.wanted.items() if item not in game.recipes.ingredients)
    assert "Got" in game.step(f"Action: get {number} {item}").observation
    assert "enough" in game.step(f"Action: get 1 {item}").observation
    game, goal, _ = crafting(max_steps=100)
    result = play(game, "crafting/3", game.solution("crafting/3", 0))
    assert result.reward == 1.0 and set(+game.inventory) == {goal}


def test_partial_reward_is_the_share_of_what_was_made() -> None:
    game = Crafting(CraftingConfig(depth=3, branching=1, most_needed=1, partial_reward=True))
    turns = game.solution("crafting/3", 0)
    rewards = [play(game, "crafting/3", turns[:end]).reward for end in range(1, len(turns) + 1)]
    assert rewards == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_wrong_craft_spoils_its_ingredients_and_they_are_got_again() -> None:
    config = CraftingConfig(branching=1, most_needed=1, distractors=1, names=6, spoils=True)
    at = []
    for task_id in config.task_ids("eval")[:20]:
        game, solution = config.build(), config.build().solution(task_id, 0)
        *right, wrong = config.mistake(task_id, 0)
        assert right == solution[: len(right)]
        assert "valid recipe" in play(game, task_id, [*right, wrong]).observation
        assert game.inventory.total() == 0
        assert [config.went_wrong(task_id, 0, turns) for turns in (right, [*right, wrong])] == [False, True]
        assert not game.step(solution[-1]).done  # what it takes is gone
        assert play(game, task_id, [*right, wrong, *solution]).reward == 1.0
        at.append(len(right))
    assert set(at) == {1, 2}


def test_to_make_what_the_goal_does_not_take_is_a_mistake() -> None:
    config = CraftingConfig(branching=1, most_needed=1, distractors=1)
    game = config.build()
    game.reset("crafting/3", 0)
    aside = list(game.recipes.ingredients)[-1]
    turns = [f"Action: get 1 {next(iter(game.recipes.ingredients[aside]))}", f"Action: {game.recipes.line(aside)}"]
    assert [config.went_wrong("crafting/3", 0, turns[:end]) for end in (1, 2)] == [False, True]
    assert not config.went_wrong("crafting/3", 0, [*turns, "Action: inventory"])  # the step before was


def test_few_names_are_all_that_is_told_and_too_few_are_refused() -> None:
    config = CraftingConfig(branching=1, distractors=1, names=4)
    told = {item for number in range(50) for item in make_recipes(config, f"crafting/{number}").ingredients}
    assert told == set(MADE_ITEMS[:4])
    with pytest.raises(ValueError, match="names must be at least depth"):
        CraftingConfig(branching=1, distractors=1, names=3)


def test_a_share_of_the_crafting_solutions_begins_anew() -> None:
    config = CraftingConfig(branching=1, spare_restarts=0.25, spare_thought="I erred.")
    plain = config.model_copy(update={"spare_restarts": 0.0})
    anew = 0
    for task_id in config.task_ids("train")[:300]:
        turns, right = config.build().solution(task_id, 0), plain.build().solution(task_id, 0)
        assert play(config.build(), task_id, turns).reward == 1.0
        if turns != right:
            at = turns.index(f"I erred.\n{right[0]}")
            assert (turns[:at], turns[at + 1 :]) == (right[:at], right[1:])
            anew += 1
    assert anew / 300 == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("config", [VaultConfig(), CraftingConfig()])
def test_an_unknown_task_is_refused(config: Any) -> None:
    for task_id in ("nothing", "vault/x", "crafting/", "vault/", "other/1"):
        with pytest.raises(KeyError):
            config.build().reset(task_id, 0)


def test_a_mistake_jams_a_lock_after_right_turns() -> None:
    config = VaultConfig(locks=3)
    at = []
    for task_id in config.task_ids("eval")[:20]:
        *right, wrong = config.mistake(task_id, 0)
        assert right == Vault(config).solution(task_id, 0)[: len(right)]
        result = play(config.build(), task_id, [*right, wrong])
        assert "grey" in result.observation and result.reward == len(right) / 2 / 3
        at.append(len(right))
    assert set(at) == {0, 2, 4}


@pytest.mark.parametrize(
    ("thought", "reset"), [("", "Action: reset lock"), ("I erred.", "I erred.\nAction: reset lock")]
)
def test_signs_mislead_at_a_share_of_the_locks_and_solutions_still_solve(thought: str, reset: str) -> None:
    config = VaultConfig(misleading=0.3, spare_resets=0.25, spare_thought=thought, max_steps=20)
    vault = config.build()
    misled, resets = 0, 0
    for task_id in config.task_ids("train")[:300]:
        turns = vault.solution(task_id, 0)
        assert play(config.build(), task_id, turns).reward == 1.0
        resets += turns.count(reset)
        vault.reset(task_id, 0)
        misled += sum(offset != 0 for offset in vault.misled)
    assert misled / 900 == pytest.approx(0.3, abs=0.05)
    assert resets / 900 == pytest.approx(0.25, abs=0.05)
