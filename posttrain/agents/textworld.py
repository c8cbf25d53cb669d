"""TextWorld (arXiv 1806.11532): text adventures in small generated worlds, by the package of that name."""

import re
import tempfile
import zlib
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from posttrain.agents.environment import ACTION, WITHOUT_ACTION, StepResult, parse_action
from posttrain.config import Config
from posttrain.data.held_out import first_tasks, is_one_in
from posttrain.errors import JobError

HELD_OUT_OF = 5
PROMPT = "\n>"  # of the game, before its status line
# Commands to the interpreter, some of which write files.
OUTSIDE = frozenset("quit restart restore save script transcript recording replay".split())  # noqa: SIM905
NO_COMMAND = "That is no command of this game."


class TextWorldConfig(Config):
    """Needs ``pip install 'posttrain[textworld]'``. The score is the share of the game's quests that are done."""

    type: Literal["textworld"] = "textworld"
    rooms: int = Field(default=3, ge=1)
    objects: int = Field(default=6, ge=1)
    quests: int = Field(default=2, ge=1, description="independent of each other")
    quest_length: int = Field(default=3, ge=1, description="actions of a quest")
    hints: bool = Field(default=True, description="an observation ends with the commands that the game admits")
    max_steps: int = Field(default=50, ge=1)
    tasks: int = Field(default=1000, ge=1, description="of each split")

    def task_ids(self, split: str) -> list[str]:
        """``textworld/N``: the game follows from N and these settings. A fifth of all N is held out."""
        return first_tasks("textworld", split, self.tasks, lambda number: is_one_in(HELD_OUT_OF, f"{number}"))

    def build(self) -> "TextWorld":
        return TextWorld(self)


class TextWorld:
    """An ``Environment``. The game says how an episode begins, so ``seed`` has no part in it."""

    most_live: ClassVar[int] = 16  # each holds an interpreter of its own

    def __init__(self, config: TextWorldConfig) -> None:
        self.config = config
        self.game: Any = None

    def reset(self, task_id: str, seed: int) -> str:
        state = self._start(task_id)
        return f"{state.objective}\n{self._told(state.description, state)}"

    def step(self, turn: str) -> StepResult:
        self.steps += 1
        said = self._act(parse_action(turn))
        state = self.state
        done = state.won or state.lost or self.steps >= self.config.max_steps
        valid = said not in (WITHOUT_ACTION, NO_COMMAND)
        return StepResult(self._told(said, state), state.score / state.max_score, done, valid=valid)

    def close(self) -> None:
        """End the interpreter."""
        if self.game is not None:
            self.game.close()

    def solution(self, task_id: str, seed: int) -> list[str]:
        """The turns that the game was made from."""
        return [f"{ACTION} {command}" for command in self._start(task_id)["extra.walkthrough"]]

    def _act(self, action: str | None) -> str:
        if not action:
            return WITHOUT_ACTION
        if OUTSIDE & set(re.findall(r"\w+", action.lower())):
            return NO_COMMAND
        self.state, _, _ = self.game.step(action)
        said: str = self.state.feedback
        return said.rpartition(PROMPT)[0]

    def _start(self, task_id: str) -> Any:
        number = task_id.removeprefix("textworld/")
        if not number.isdigit() or number == task_id:
            raise KeyError(task_id)
        self.close()
        world, path = package(), game_file(self.config.model_dump_json(), int(number))
        wanted = ("score", "max_score", "won", "lost", "objective", "description", "admissible_commands")
        self.game = world.start(path, world.EnvInfos(**dict.fromkeys(wanted, True), extras=["walkthrough"]))
        self.steps, self.state = 0, self.game.reset()
        return self.state

    def _told(self, said: str, state: Any) -> str:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        if self.config.hints and not (state.won or state.lost):
            lines.append(f"Commands: {', '.join(state.admissible_commands)}.")
        return "\n".join(lines)


@cache
def game_file(settings: str, number: int) -> str:
    """The compiled game, made once in a process; a second or so."""
    config, options = TextWorldConfig.model_validate_json(settings), package().GameOptions()
    options.nb_rooms, options.nb_objects = config.rooms, config.objects
    options.nb_parallel_quests, options.quest_length = config.quests, config.quest_length
    options.seeds = number
    options.path = f"{games_folder().name}/{zlib.crc32(settings.encode())}-{number}.z8"
    path: str = package().make(options)[0]
    return path


@cache
def games_folder() -> tempfile.TemporaryDirectory[str]:
    """Of this process, and gone with it."""
    return tempfile.TemporaryDirectory(prefix="textworld-")


def package() -> Any:
    """``textworld``. Raises ``JobError`` where it is not installed."""
    try:
        import textworld
    except ModuleNotFoundError as error:
        raise JobError(f"environment textworld needs {error.name}: pip install 'posttrain[textworld]'") from None
    return textworld
