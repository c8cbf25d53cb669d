"""What ``posttrain serve`` refuses to start, and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli.main import app
from posttrain.errors import UserError
from posttrain.rewards.service.config import ServerConfig
from posttrain.rewards.service.server import check_exposure


@pytest.fixture
def reward(tmp_path: Path) -> str:
    file = tmp_path / "integer.yaml"
    file.write_text("reward: {type: exact_integer}\n")
    return str(file)


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        app(["serve", *arguments], standalone_mode=False)
    return str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_an_address_that_others_reach_needs_a_key(reward: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTTRAIN_API_KEYS", raising=False)
    assert "--api-key-file" in refusal(reward, "--host", host)
    monkeypatch.setenv("POSTTRAIN_API_KEYS", " , ")
    assert "--api-key-file" in refusal(reward, "--host", host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(ServerConfig(host=host), [])


def test_a_missing_extra_is_named(reward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'posttrain[serve]'" in refusal(reward)


def test_the_exit_status_of_a_refusal_is_2(reward: str) -> None:
    command = [sys.executable, "-m", "posttrain", "serve", reward, "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_key_files(reward: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    assert "cannot be read" in refusal(reward, "--api-key-file", str(file))
    file.write_text("# none yet\n\n")
    assert "holds no key" in refusal(reward, "--api-key-file", str(file))
    file.write_text("two words\n")
    message = refusal(reward, "--api-key-file", str(file))
    assert "printable ASCII" in message and "two words" not in message


def test_mistakes_in_rewards_and_settings(reward: str, tmp_path: Path) -> None:
    other = tmp_path / "math.yaml"
    other.write_text("reward: {type: math_answer}\n")
    assert "name a reward file" in refusal("timeout_s=3")
    assert "two reward files of one name" in refusal(reward, reward)
    assert "of which reward" in refusal(reward, str(other), "timeout_s=3")
    assert "timeout_s" in refusal(reward, str(other), "math.timeout_s=-1")
    assert "max_itmes" in refusal(reward, "server.max_itmes=3")
    assert "no such file" in refusal(str(tmp_path / "none.yaml"))


def test_a_reward_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    file = tmp_path / "broken.yaml"
    file.write_text("reward: {type: 'served_rewards:Broken'}\n")
    assert "no model here" in refusal(str(file), "--port", "0")
