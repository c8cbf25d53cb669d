"""A crafting game with generated recipes: base items are got, everything else is made of others."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from posttrain.agents.environment import ACTION, WITHOUT_ACTION, Environment, StepResult, parse_action
from posttrain.config import Config
from posttrain.data.held_out import first_tasks, is_one_in

BASE_ITEMS = "oak clay iron wool sand reed flint coal hide copper wax resin".split()  # noqa: SIM905
MADE_ITEMS = (
    *("plank", "brick", "wire", "cloth", "glass", "rope", "blade", "paste", "strap"),
    *("gear", "lamp", "frame", "wheel", "box", "pump", "boat", "mill", "clock"),
)
HELD_OUT_OF = 5
COUNTED = re.compile(r"(\d{1,4}) (\w+)")


class CraftingConfig(Config):
    """The goal is made in ``depth`` levels; each recipe takes 1 to ``branching`` other items, ``distractors`` recipes
    lead elsewhere. The score is 1 once the goal is there; with ``partial_reward`` it is the share of the items on the
    way to it that were made. What is put into no recipe is lost where the game ``spoils``."""

    type: Literal["crafting"] = "crafting"
    depth: int = Field(default=2, ge=1, le=5)
    branching: int = Field(default=2, ge=1, le=3)
    most_needed: int = Field(default=2, ge=1, le=9, description="of one ingredient in a recipe")
    distractors: int = Field(default=2, ge=0, le=6)
    spare: int | None = Field(default=None, ge=0, description="base items beyond what is needed; null: no limit")
    max_steps: int = Field(default=20, ge=1)
    partial_reward: bool = False
    names: int = Field(default=len(MADE_ITEMS), description="most base items, and most made ones")
    spoils: bool = False
    spare_restarts: float = Field(default=0.0, ge=0, le=1, description="of the solutions: begun anew, needlessly")
    spare_thought: str = Field(default="", description="what a solution says when it begins anew")
    tasks: int = Field(default=1000, ge=1, description="of each split")

    @model_validator(mode="after")
    def _names_suffice(self) -> "CraftingConfig":
        if self.names < (least := self.depth + self.branching + self.distractors):
            raise ValueError(f"names must be at least depth + branching + distractors, {least}")
        return self

    def task_ids(self, split: str) -> list[str]:
        """``crafting/N``: the recipes follow from N. No recipe of a held-out goal is one of a goal trained on."""
        return first_tasks(
            "crafting", split, self.tasks, lambda number: make_recipes(self, f"crafting/{number}").is_held_out
        )

    def build(self) -> "Crafting":
        return Crafting(self)

    def mistake(self, task_id: str, seed: int) -> list[str]:
        """The right turns up to some craft, and the same ingredients put into an item that is not made of them."""
        game, rng = self.build(), random.Random(f"mistake/{task_id}/{seed}")
        turns = game.solution(task_id, seed)
        at = rng.choice([number for number, turn in enumerate(turns) if turn.startswith(f"{ACTION} craft")])
        right = {game.recipes.line(item) for item in game.recipes.ingredients}
        used = turns[at].partition(" using ")[2]
        lines = [f"craft 1 {item} using {used}" for item in MADE_ITEMS[: self.names]]
        return [*turns[:at], f"{ACTION} {rng.choice([line for line in lines if line not in right])}"]

    def went_wrong(self, task_id: str, seed: int, turns: Sequence[str]) -> bool:
        """Whether the last of ``turns`` could not be carried out, or made what the goal does not take."""
        game = self.build()
        game.reset(task_id, seed)
        for turn in turns:
            before, result = set(game.made), game.step(turn)
        return not result.valid or bool(set(game.made) - before - set(game.wanted))


@dataclass(slots=True)
class Recipes:
    """What each item is made of (a base item of nothing), and the item to make."""

    goal: str
    ingredients: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def is_held_out(self) -> bool:
        return is_one_in(HELD_OUT_OF, self.line(self.goal))

    def line(self, item: str) -> str:
        """The action that makes ``item``."""
        return f"craft 1 {item} using {', '.join(f'{n} {name}' for name, n in self.ingredients[item].items())}"

    def needed(self) -> Counter[str]:
        """How many of each item one goal takes, all levels together."""
        total, open_items = Counter[str](), [(self.goal, 1)]
        while open_items:
            item, number = open_items.pop()
            total[item] += number
            open_items += [(name, number * n) for name, n in self.ingredients.get(item, {}).items()]
        return total


def make_recipes(config: CraftingConfig, task_id: str) -> Recipes:
    """The recipes of a task: an item of each level takes one of the level below, so that none can be left out."""
    rng = random.Random(task_id)
    base, made = (rng.sample(names, len(names)) for names in (BASE_ITEMS[: config.names], MADE_ITEMS[: config.names]))
    recipes, below = Recipes(made[config.depth - 1]), base[0]
    for level in range(config.depth):
        others = rng.sample(base[1:] + made[:level], rng.randint(0, config.branching - 1))
        names = dict.fromkeys([below, *others])
        recipes.ingredients[made[level]] = {name: rng.randint(1, config.most_needed) for name in names}
        below = made[level]
    for item in made[config.depth : config.depth + config.distractors]:
        recipes.ingredients[item] = dict.fromkeys(rng.sample(base, rng.randint(1, config.branching)), 1)
    return recipes


class Crafting(Environment):
    """An ``Environment``. Actions: ``get N ITEM``, ``craft 1 ITEM using N ITEM, N ITEM``, ``inventory``."""

    def __init__(self, config: CraftingConfig) -> None:
        self.config = config

    def reset(self, task_id: str, seed: int) -> str:
        """The recipes follow from the task; ``seed`` shuffles the order they are told in."""
        if not task_id.removeprefix("crafting/").isdigit() or not task_id.startswith("crafting/"):
            raise KeyError(task_id)
        self.recipes = make_recipes(self.config, task_id)
        self.wanted = self.recipes.needed()
        spare = self.config.spare
        self.supply = None if spare is None else {name: self.wanted[name] + spare for name in BASE_ITEMS}
        self.inventory, self.made, self.steps = Counter[str](), Counter[str](), 0
        lines = [self.recipes.line(item) for item in self.recipes.ingredients]
        random.Random(f"{task_id}/{seed}").shuffle(lines)
        return "\n".join(["Crafting commands:", *lines, f"Goal: craft {self.recipes.goal}."])

    def step(self, turn: str) -> StepResult:
        self.steps += 1
        action = parse_action(turn)
        said = WITHOUT_ACTION if action is None else self._act(action)
        won = self.inventory[self.recipes.goal] > 0
        valid = action is not None and not said.startswith("Could not")
        return StepResult(said, self._score(won), won or self.steps >= self.config.max_steps, valid=valid)

    def solution(self, task_id: str, seed: int) -> list[str]:
        """The turns of a shortest way: each base item got at once, then everything made from below."""
        self.reset(task_id, seed)
        ingredients = self.recipes.ingredients
        base = [f"get {number} {item}" for item, number in sorted(self.wanted.items()) if item not in ingredients]
        made = [self.recipes.line(item) for item in ingredients for _ in range(self.wanted[item])]
        turns, rng = [f"{ACTION} {action}" for action in base + made], random.Random(f"solution/{task_id}/{seed}")
        if rng.random() < self.config.spare_restarts:
            first = f"{self.config.spare_thought}\n{turns[0]}".lstrip()
            turns = [*turns[: rng.randrange(1, len(turns))], first, *turns[1:]]
        return turns

    def _act(self, action: str) -> str:
        verb, _, rest = action.partition(" ")
        if action == "inventory":
            return f"You have: {_listed(self.inventory) or 'nothing'}."
        if verb == "get" and (what := COUNTED.fullmatch(rest)):
            return self._get(what[2], int(what[1]))
        target, _, used = rest.partition(" using ")
        if verb == "craft" and (what := COUNTED.fullmatch(target)):
            return self._craft(what[2], int(what[1]), used)
        return f"Could not execute {action}."

    def _get(self, item: str, number: int) -> str:
        if item not in BASE_ITEMS or number < 1:
            return f"Could not find {item}."
        if self.supply is not None:
            if self.supply[item] < number:
                return f"Could not find enough {item}: {self.supply[item]} left."
            self.supply[item] -= number
        self.inventory[item] += number
        return f"Got {number} {item}."

    def _craft(self, item: str, number: int, used: str) -> str:
        given = [COUNTED.fullmatch(part.strip()) for part in used.split(",")]
        recipe = self.recipes.ingredients.get(item)
        using = {part[2]: int(part[1]) for part in given if part}
        if recipe is None or number != 1 or using != recipe:
            if self.config.spoils:
                self.inventory -= Counter(using)
            return f"Could not find a valid recipe for {item}."
        missing = Counter(recipe) - self.inventory
        if missing:
            return f"Could not craft {item}: {_listed(missing)} missing."
        self.inventory -= Counter(recipe)
        self.inventory[item] += 1
        self.made[item] += 1
        return f"Crafted 1 {item}."

    def _score(self, won: bool) -> float:
        if won or not self.config.partial_reward:
            return float(won)
        wanted = {item: number for item, number in self.wanted.items() if item in self.recipes.ingredients}
        return sum(min(self.made[item], number) for item, number in wanted.items()) / sum(wanted.values())


def _listed(items: Counter[str]) -> str:
    return ", ".join(f"{number} {item}" for item, number in sorted(items.items()) if number > 0)
