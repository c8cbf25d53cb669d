"""The page of all error messages, from the places that raise them; what to do is linked where ``docs/debugging.md``
says more than the message."""

import re
from collections import Counter

from error_messages import ROOT, VARIES, Message, messages

ADVICE = ROOT / "docs" / "debugging.md"
LONGEST_HEADING, ANCHOR_WORDS = 90, 6
# In the order in which a user meets them. The longest name that a module starts with counts.
GROUPS: dict[str, tuple[str, ...]] = {
    "Jobs": (
        *("config_file", "config_errors", "config", "job", "build", "training.run_folder"),
        *("planning", "capacity", "starter"),
    ),
    "Data": ("data", "data_jobs", "tasks", "training.append_file"),
    "Models": ("training.model", "training.packed_attention", "training.accelerator"),
    "Rollouts": ("rollout",),
    "Rewards": ("rewards",),
    "Environments": ("agents", "tasks.environment"),
    "Training": ("training", "trainers", "objectives"),
    "Checkpoints": ("training.checkpoint", "training.layout"),
    "Evaluation": ("evaluation", "cli.eval"),
    "Comparisons": ("compare", "cli.compare"),
    "Serving and publishing": ("rewards.service", "report", "cli"),
}
PLACES = {name: group for group, names in GROUPS.items() for name in names}
INTRODUCTION = """\
---
hide: [toc]
---

# Errors

Every message that the command line ends with, made from the code that says it. What varies stands in CAPITALS, what is
said only at times in [brackets]. Search for words of your message; a link to its heading stays as long as its words.
A message about a key of a job comes after `FILE:LINE: KEY:`, one about a field of a row after `FILE, line N:`. When
nothing is said and a run does not learn: [debugging](../debugging.md).
"""


def errors_page() -> str:
    """Markdown: a section a part of the toolkit, a heading a message."""
    groups: dict[str, dict[str, list[Message]]] = {name: {} for name in GROUPS}
    for message in sorted(messages(), key=lambda message: list(PLACES).index(_place(message))):
        groups[PLACES[_place(message)]].setdefault(_slug(message.text), []).append(message)
    anchors = _anchors([(group, slug) for group, found in groups.items() for slug in found])
    lines = [INTRODUCTION, " · ".join(f"[{name}](#{_slug(name)})" for name in groups), ""]
    for group, found in groups.items():
        lines += [f"## {group} {{ #{_slug(group)} }}", ""]
        for slug, places in found.items():
            lines += _entry(places, anchors[group, slug])
    return "\n".join(lines)


def _place(message: Message) -> str:
    module = message.module.removeprefix("posttrain.")
    return max((name for name in PLACES if _starts(module, name)), key=len)


def _starts(module: str, name: str) -> bool:
    return module == name or module.startswith((f"{name}.", f"{name}_"))


def _entry(places: list[Message], anchor: str) -> list[str]:
    """A message under its heading, who says it, and where to read what to do."""
    heading = text = places[0].shown
    if len(text) > LONGEST_HEADING:
        heading = f"{text[:LONGEST_HEADING].rsplit(' ', 1)[0]} …"
    lines = [f"### {_code(heading)} {{ #{anchor} }}", ""]
    if heading != text:
        lines += ["```{ .text .message }", text, "```", ""]
    for place in {(place.module, place.function): place for place in places}.values():
        name = ".".join(filter(None, (place.module.removeprefix("posttrain."), place.function)))
        lines += [f"`{place.error}` of `{name}`: {_plain(place.about)}", ""]
    if advice := advice_of(places[0].text):
        lines += [f"[What to do](../debugging.md#{advice})", ""]
    return lines


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}" if fence == "`" else f"{fence} {text} {fence}"


def _plain(text: str) -> str:
    """A line of a docstring as Markdown: its double backticks are code, all else is text."""
    return re.sub(r"([*_<\[])(?![^`]*``(?:[^`]*``[^`]*``)*[^`]*$)", r"\\\1", text).replace("``", "`")


def words(text: str) -> list[str]:
    """What is fixed in a message, or in a heading that has N and M for what varies; in lower case."""
    fixed = re.sub(rf"{VARIES}\w+|\b[A-Z]\b", " ", text)
    return [word for word in (found.strip(".") for found in re.findall(r"[\w.]+", fixed.lower())) if word]


def advice_of(text: str) -> str | None:
    """The anchor of the section of ``docs/debugging.md`` whose heading's words the message has."""
    said = f" {' '.join(words(text))} "
    for heading, anchor in re.findall(r"^## (.+) \{ #([\w-]+) \}$", ADVICE.read_text(encoding="utf-8"), re.MULTILINE):
        if f" {' '.join(words(heading))} " in said:
            return str(anchor)
    return None


def _slug(text: str) -> str:
    return "-".join(words(text)).replace(".", "-")


def _anchors(entries: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The first words of each message; all of them where others begin alike, and the group where all are."""
    short = {(group, slug): "-".join(slug.split("-")[:ANCHOR_WORDS]) for group, slug in entries}
    taken, alike = Counter(short.values()), Counter(slug for _, slug in entries)
    long = {(group, slug): slug if alike[slug] == 1 else f"{_slug(group)}-{slug}" for group, slug in entries}
    return {entry: first if taken[first] == 1 else long[entry] for entry, first in short.items()}


if __name__ == "__main__":
    print(errors_page())
