"""``posttrain doctor`` says what is there, what is not, and never fails at asking."""

import shutil
from pathlib import Path

import pytest

from posttrain.starter import doctor


def test_this_machine_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    findings = {finding.name: finding for finding in doctor.examine()}
    assert not [finding for finding in findings.values() if finding.state == "wrong"]
    assert {"GPU", "vLLM", "DeepSpeed", "code sandbox", "Java", "memory", "disk"} <= findings.keys()
    assert all(finding.advice for finding in findings.values() if finding.state == "absent")


def test_a_library_of_another_version_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "requires", lambda _: ["torch<1", "no-such-package>=2", "rich", "vllm; extra == 'vllm'"]
    )
    findings = {finding.name: finding for finding in doctor._required_packages()}
    assert findings.keys() == {"torch", "no-such-package"}
    assert findings["torch"].what.endswith("outside <1")
    assert findings["no-such-package"].advice == "pip install 'no-such-package>=2'"


def test_a_full_disk_and_a_missing_java_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(100 << 30, 99 << 30, 1 << 30)  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor._disk().state == "absent"
    assert "default-jre-headless" in doctor._java().advice
    assert doctor._compiler().what == "no g++ and no ninja"


def test_a_java_that_does_not_run_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: str(tmp_path))
    assert doctor._java().state == "absent"
