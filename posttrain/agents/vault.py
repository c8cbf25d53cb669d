"""A corridor of locks in which a wrong key jams a lock, quietly: who does not notice never gets further."""

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from posttrain.agents.environment import ACTION, WITHOUT_ACTION, Environment, StepResult, parse_action
from posttrain.config import Config
from posttrain.data.held_out import first_tasks, is_one_in

SIGNS = ("sun", "moon", "star", "leaf", "wave", "rose", "bell", "crow", "fish", "wolf")
KEYS = ("gold", "iron", "jade", "bone")
HELD_OUT_OF = 5
GREEN, GREY = "green", "grey"


class VaultConfig(Config):
    """Each lock shows two signs, and which key fits depends on both, or on nothing that shows (``misleading``). Taking
    or turning a wrong key jams the lock until ``reset lock``; only its colour tells, while a key is held: grey, and a
    key that does not turn, are also seen at ``worn`` locks. The score is the share of the locks that are open."""

    type: Literal["vault"] = "vault"
    locks: int = Field(default=3, ge=1)
    keys: int = Field(default=3, ge=2, le=len(KEYS))
    signs: int = Field(default=8, ge=2, le=len(SIGNS))
    misleading: float = Field(default=0.0, ge=0, le=1, description="of the locks: another key fits than the signs say")
    worn: float = Field(
        default=0.0, ge=0, le=1, description="of the locks: grey until a key is held, and open at the second turn"
    )
    max_steps: int = Field(default=14, ge=1, description="turns; the shortest way takes 2 a lock, 3 a worn one")
    spare_resets: float = Field(default=0.0, ge=0, le=1, description="of the locks of a solution: reset, needlessly")
    spare_thought: str = Field(default="", description="what a solution says before such a reset")
    tasks: int = Field(default=1000, ge=1, description="of each split")

    def task_ids(self, split: str) -> list[str]:
        """``vault/N``; the signs at the locks follow from N alone. A fifth of all N is held out."""
        return first_tasks("vault", split, self.tasks, lambda number: is_one_in(HELD_OUT_OF, f"{number}"))

    def build(self) -> "Vault":
        return Vault(self)

    def mistake(self, task_id: str, seed: int) -> list[str]:
        """The right turns up to some lock, and one that jams it."""
        vault, rng = self.build(), random.Random(f"mistake/{task_id}/{seed}")
        vault.reset(task_id, seed)
        turns: list[str] = []
        for _ in range(rng.randrange(self.locks)):
            turns += vault.open_lock()
        wrong = rng.choice([key for key in KEYS[: self.keys] if key != vault.fitting_key()])
        return [*turns, f"{ACTION} take {wrong}"]

    def went_wrong(self, task_id: str, seed: int, turns: Sequence[str]) -> bool:
        """Whether the lock in front is jammed after ``turns``."""
        vault = self.build()
        vault.reset(task_id, seed)
        for turn in turns:
            vault.step(turn)
        return vault.jammed


class Vault(Environment):
    """An ``Environment``. Actions: ``take KEY``, ``turn key``, ``reset lock``."""

    def __init__(self, config: VaultConfig) -> None:
        self.config = config

    def reset(self, task_id: str, seed: int) -> str:
        """The keys are told in an order that ``seed`` shuffles; which one fits where follows from the task."""
        config, number = self.config, task_id.removeprefix("vault/")
        if not number.isdigit() or number == task_id:
            raise KeyError(task_id)
        rng = random.Random(f"{task_id}/{seed}")
        signs = random.Random(task_id)
        self.signs = [(signs.randrange(config.signs), signs.randrange(config.signs)) for _ in range(config.locks)]
        self.misled = [
            signs.randrange(1, config.keys) if signs.random() < config.misleading else 0 for _ in range(config.locks)
        ]
        self.worn = [signs.random() < config.worn for _ in range(config.locks)]
        self.keys = rng.sample(KEYS[: config.keys], config.keys)
        self.opened, self.steps = 0, 0
        self.held, self.jammed, self.stuck = "", False, False
        return f"Keys {' '.join(self.keys)}. {self._view()}"

    def step(self, turn: str) -> StepResult:
        self.steps += 1
        action = parse_action(turn)
        said = WITHOUT_ACTION if action is None else self._act(action.split())
        won = self.opened == self.config.locks
        observation = said if won else f"{said} {self._view()}"
        done, valid = won or self.steps >= self.config.max_steps, not said.startswith("Nothing happens")
        return StepResult(observation, self.opened / self.config.locks, done, valid=valid)

    def fitting_key(self) -> str:
        """The key of the lock in front: the number of the first sign plus twice that of the second, modulo keys; and
        one or more further where the signs mislead."""
        first, second = self.signs[self.opened]
        return KEYS[(first + 2 * second + self.misled[self.opened]) % self.config.keys]

    def solution(self, task_id: str, seed: int) -> list[str]:
        """The turns of the shortest way, with ``spare_resets``; the episode is played by it."""
        self.reset(task_id, seed)
        rng, turns = random.Random(f"solution/{task_id}/{seed}"), list[str]()
        while self.opened < self.config.locks:
            if rng.random() < self.config.spare_resets:
                turns.append(f"{self.config.spare_thought}\n{ACTION} reset lock".lstrip())
                self.step(turns[-1])
            turns += self.open_lock()
        return turns

    def open_lock(self) -> list[str]:
        """The turns that open the lock in front; they are taken."""
        turns = [f"{ACTION} take {self.fitting_key()}", *[f"{ACTION} turn key"] * (1 + self.worn[self.opened])]
        for turn in turns:
            self.step(turn)
        return turns

    def _act(self, words: list[str]) -> str:
        match words:
            case ["take", key] if key in self.keys:
                self.held, self.stuck = key, self.worn[self.opened]
                self.jammed = self.jammed or key != self.fitting_key()
                return f"You hold {key}."
            case ["turn", "key"] if self.held:
                self.jammed = self.jammed or self.held != self.fitting_key()
                if self.jammed or self.stuck:
                    self.stuck = False
                    return "It does not turn."
                self.opened, self.held = self.opened + 1, ""
                return "It opens."
            case ["reset", "lock"]:
                self.held, self.jammed, self.stuck = "", False, False
                return "You put all back."
            case _:
                return "Nothing happens."

    def _view(self) -> str:
        first, second = self.signs[self.opened]
        colour = GREY if self.jammed or (self.worn[self.opened] and not self.held) else GREEN
        return f"Lock {self.opened + 1} {SIGNS[first]} {SIGNS[second]} {colour}."
