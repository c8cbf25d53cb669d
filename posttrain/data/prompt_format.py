"""How a problem is put to the model: as plain text, or as a conversation."""

from pydantic import Field, field_validator, model_validator

from posttrain.config import Config
from posttrain.types import Message


class PromptFormat(Config):
    """``template`` with the problem's text in place of ``{problem}``; as a user's message if ``chat``."""

    chat: bool = False
    system: str | None = Field(default=None, description="system message, for chat")
    template: str = "{problem}"

    @field_validator("template")
    @classmethod
    def _holds_the_problem(cls, template: str) -> str:
        if "{problem}" not in template:
            raise ValueError("the template must contain {problem}, the place of the problem's text")
        return template

    @model_validator(mode="after")
    def _system_needs_chat(self) -> "PromptFormat":
        if self.system is not None and not self.chat:
            raise ValueError("a system message needs chat: true")
        return self

    def prompt(self, problem: str) -> str | list[Message]:
        text = self.template.replace("{problem}", problem)
        if not self.chat:
            return text
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": text}]
