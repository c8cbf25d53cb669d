"""What the documentation site has beside ``docs/``: a hook of MkDocs.

READMEs of recipes, benchmarks and evaluations become pages, the references are made from the code, and a link to any
other file of the repository leads to a copy of that file in the site; so every link can be checked.
"""

import re
import sys
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

READMES = ("README.md", "recipes/*/README.md", "benchmarks/README.md", "eval/*/README.md")
LINK = re.compile(r"(\]\(|<img src=\")(?!https?:|#|mailto:)([^)#\"\s]+)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ROOMS = (
    "types",
    "objectives",
    "data",
    "rollout",
    "training",
    "rewards",
    "agents",
    "tasks",
    "evaluation",
    "trainers",
    "job",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and a copy of every file that a page links to."""
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    from config_reference import configuration_page
    from error_reference import errors_page

    for uri, path in README_OF.items():
        files.append(File.generated(config, uri, content=path.read_text()))
    files.append(File.generated(config, "reference/configuration.md", content=configuration_page()))
    files.append(File.generated(config, "reference/errors.md", content=errors_page()))
    for room in ROOMS:
        files.append(File.generated(config, f"reference/{room}.md", content=_api_page(room)))
    for page in files.documentation_pages():
        for target in _targets(page.src_uri, page.content_string):
            uri = _uri_of(target)
            if target.is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(target), inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page at where their targets are in the site."""
    own = page.file.src_uri

    def relocated(match: re.Match[str]) -> str:
        target = _resolve(own, match[2])
        if target.is_dir() and (target / "README.md").is_file():
            target /= "README.md"
        return match[1] + relpath(_uri_of(target), Path(own).parent.as_posix() or ".")

    return _outside_fences(markdown, lambda text: LINK.sub(relocated, text))


def _targets(uri: str, markdown: str) -> list[Path]:
    text = _outside_fences(markdown, lambda text: text, keep_fences=False)
    return [_resolve(uri, match[2]) for match in LINK.finditer(text)]


def _resolve(uri: str, link: str) -> Path:
    """The file of the repository that a link on page ``uri`` means."""
    return Path(normpath(_source_of(uri).parent / link))


def _source_of(uri: str) -> Path:
    """The file that page ``uri`` was made from."""
    return README_OF.get(uri, ROOT / "docs" / uri)


def _page_of(readme: Path) -> str:
    folder = readme.parent.relative_to(ROOT)
    return f"{folder}.md" if len(folder.parts) > 1 else (folder / "index.md").as_posix()


def _uri_of(target: Path) -> str:
    """Where a file of the repository is in the site."""
    if target.is_relative_to(ROOT / "docs"):
        return target.relative_to(ROOT / "docs").as_posix()
    if target in README_OF.values():
        return _page_of(target)
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir() and target.name in ROOMS:
        return f"reference/{target.name}.md"
    return f"source/{name}.txt" if target.suffix in (".py", ".md", ".yaml", ".jinja", ".cff") else f"source/{name}"


def _outside_fences(markdown: str, change: Any, keep_fences: bool = True) -> str:
    """``change`` the text around fenced code."""
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0] if keep_fences else ""]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _api_page(room: str) -> str:
    package = ROOT / "posttrain" / room
    modules = [package.with_suffix(".py")] if package.with_suffix(".py").is_file() else sorted(package.rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules if path.name != "__init__.py"]
    return "\n\n".join([f"# posttrain.{room}", *(f"::: {name}" for name in names)]) + "\n"


README_OF = {_page_of(path): path for path in sorted(path for pattern in READMES for path in ROOT.glob(pattern))}
