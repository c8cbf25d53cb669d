"""Config files: numbers, bases, overrides, and mistakes told with file, line and key."""

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from posttrain.config import Config, component_union
from posttrain.config_file import dump_yaml, load_config, parse_yaml
from posttrain.errors import JobError


class ExactConfig(Config):
    type: Literal["exact"] = "exact"
    threshold: float = 0.5


class LengthConfig(Config):
    type: Literal["length"] = "length"
    longest: int = Field(default=10, ge=1)


class OuterConfig(Config):
    name: str
    rate: float = 1.0
    loss: Literal["token", "sequence"] = "token"
    reward: component_union(ExactConfig, LengthConfig) = Field(default_factory=ExactConfig)  # type: ignore[valid-type]
    rewards: list[LengthConfig] = Field(default_factory=list)
    inner: LengthConfig | None = None

    @model_validator(mode="after")
    def _name_fits(self) -> "OuterConfig":
        if self.name == "taken":
            raise ValueError("name taken is in use")
        return self


class Scorer:
    """A user's own component, as tests name it."""

    config_class = LengthConfig

    def __new__(cls, config: LengthConfig) -> Any:
        return ("built", config.longest)


def load(tmp_path: Path, text: str, *overrides: str) -> OuterConfig:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return load_config(OuterConfig, path, overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(JobError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("5E+3", 5000.0),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("0.1", 0.1),
        ("-3", -3),
        ("1_000", 1000),
        ("010", "010"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("true", True),
        ("", None),
        ("null", None),
        ("2026-01-01", "2026-01-01"),
        ("my.rewards:Name", "my.rewards:Name"),
        ("[1, 2e0]", [1, 2.0]),
        (".inf", float("inf")),
    ],
)
def test_values_are_read_as_yaml_1_2_does(text: str, value: Any) -> None:
    result = parse_yaml(text)
    assert result == value
    assert type(result) is type(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
@example("0E0")
@example("no")
@example("\x85")
def test_what_is_written_is_read_back(value: Any) -> None:
    for read in (parse_yaml, yaml.safe_load):
        result = read(dump_yaml(value))
        assert result == value
        assert type(result) is type(value)


def test_numbers_with_exponent_are_numbers_in_files_and_in_overrides(tmp_path: Path) -> None:
    assert load(tmp_path, "name: a\nrate: 1e-6").rate == 1e-6
    assert load(tmp_path, "name: a", "rate=5e-7").rate == 5e-7


def test_overrides_reach_sections_lists_and_sections_that_are_not_there_yet(tmp_path: Path) -> None:
    text = "name: a\nrewards:\n  - {longest: 1}\n  - {longest: 2}\n"
    config = load(tmp_path, text, "rewards.1.longest=7", "inner.longest=4", "reward.type=length", "reward.longest=3")
    assert [item.longest for item in config.rewards] == [1, 7]
    assert config.inner == LengthConfig(longest=4)
    assert config.reward == LengthConfig(longest=3)


def test_a_class_of_ones_own_is_built_from_its_config() -> None:
    config = OuterConfig.model_validate({"name": "a", "reward": {"type": f"{__name__}:Scorer", "longest": 3}})
    assert config.reward.build() == ("built", 3)


def test_a_base_is_merged_key_by_key_and_another_type_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: a\nrate: 2\nreward: {type: exact, threshold: 0.9}\ninner: {longest: 5}")
    merged = load(tmp_path, "base: base.yaml\nrate: 3\nreward: {threshold: 0.1}")
    assert (merged.name, merged.rate, merged.reward, merged.inner) == (
        "a",
        3,
        ExactConfig(threshold=0.1),
        LengthConfig(longest=5),
    )
    assert load(tmp_path, "base: base.yaml\nreward: {type: length}").reward == LengthConfig()


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("name: a\nrat: 1", (), "job.yaml:2: rat: unknown key; did you mean rate? (known: name, rate, loss, reward, "),
        (
            "name: a\ninner:\n  longst: 1",
            (),
            "job.yaml:3: inner.longst: unknown key; did you mean longest? (known: type",
        ),
        (
            "name: a\nrewards:\n- longest: 1\n- lon: 1",
            (),
            "job.yaml:4: rewards.1.lon: unknown key; did you mean longest?",
        ),
        (
            "name: a\nreward: {type: exact, longest: 1}",
            (),
            "job.yaml:2: reward.longest: unknown key (known: type, threshold)",
        ),
        ("rate: 1", (), "job.yaml: name: missing, and it has no default"),
        (
            "name: a\nloss: tokens",
            (),
            "job.yaml:2: loss: 'tokens' is not a choice; did you mean token? (known: token, sequence)",
        ),
        (
            "name: a\nreward:\n  type: exat",
            (),
            "job.yaml:3: reward.type: 'exat' is not a choice; did you mean exact? "
            "(known: exact, length, package.module:Name of your own class)",
        ),
        ("name: a\nreward: {threshold: 1}", (), "job.yaml:2: reward: needs a `type:` that says which one it is"),
        (
            "name: a\nreward:\n  type: nowhere:Reward",
            (),
            "job.yaml:3: reward.type: type cannot be used: cannot import ",
        ),
        (
            f"name: a\nreward:\n  type: {__name__}:Scorer\n  longst: 1",
            (),
            "job.yaml:4: reward.longst: longst: Extra inputs",
        ),
        ("name: a\nrate: fast", (), "job.yaml:2: rate: input should be a valid number"),
        ("name: a\ninner: 5", (), "job.yaml:2: inner: should be a section with keys of its own, not 5"),
        (
            "name: a\ninner:\n  longest: 0",
            (),
            "job.yaml:3: inner.longest: input should be greater than or equal to 1, but",
        ),
        ("rate: 1\nname: taken", (), "job.yaml:2: name: name taken is in use"),
        ("name: a\nrate: 1\nname: b", (), "job.yaml:3: name: given twice, first in job.yaml:1"),
        ("name: [a", (), "job.yaml:1: not valid YAML: expected ',' or ']'"),
        ("name: a\n  rate: 1", (), "job.yaml:2: not valid YAML: mapping values are not allowed here"),
        ("", (), "job.yaml: should hold keys and values"),
        ("- a", (), "job.yaml: should hold keys and values"),
        ("name: !!int x", (), "job.yaml:1: not valid YAML: "),
        ("base: 5", (), "job.yaml:1: base: should name the YAML file that this one starts from"),
        ("name: a\nbase: bse.yaml", (), "job.yaml:2: base: bse.yaml: no such file"),
        ("base: job.yaml", (), "job.yaml:1: base: job.yaml includes itself"),
        ("name: a", ("rat=1",), "override 'rat=1': rat: unknown key; did you mean rate?"),
        ("name: a\nrate: 2", ("rate=x",), "override 'rate=x': rate: input should be a valid number"),
        ("name: a", ("rate",), "override 'rate': should be key.path=value"),
        ("name: a", ("rate=[1",), "override 'rate=[1': '[1' is not a YAML value"),
        ("name: a", ("name.first=1",), "override 'name.first=1': name is 'a', which has no keys below it"),
        ("name: a\nrewards: []", ("rewards.0.longest=1",), "override 'rewards.0.longest=1': rewards is a list of 0"),
    ],
)
def test_mistakes_name_the_place_the_key_and_a_way_out(
    tmp_path: Path, text: str, overrides: tuple[str, ...], expected: str
) -> None:
    assert message(tmp_path, text, *overrides).startswith(expected)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    lines = message(tmp_path, "rate: x\nlos: token\ninner: {longest: 0}", "rewards=5").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["job.yaml", "name"],
        ["job.yaml:1", "rate"],
        ["override 'rewards=5'", "rewards"],
        ["job.yaml:3", "inner.longest"],
        ["job.yaml:2", "los"],
    ]


def test_a_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: a\nrat: 2\n")
    assert message(tmp_path, "base: base.yaml").startswith("base.yaml:2: rat: unknown key")


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("name: a")
    with pytest.raises(JobError, match=r"quickstrt\.yaml: no such file; did you mean .*quickstart\.yaml\?"):
        load_config(OuterConfig, tmp_path / "quickstrt.yaml")


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(JobError, match="not a text file in UTF-8"):
        load_config(OuterConfig, tmp_path / "job.yaml")
