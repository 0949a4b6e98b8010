"""A command line that reads no settings but those that a test makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from led_agent.cli import main


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, in which the test is, with a user's folder beside it and no variables of the family."""
    for name in [name for name in os.environ if name.startswith("LED_AGENT_") and name != "LED_AGENT_CACHE"]:
        monkeypatch.delenv(name)
    folder, home = tmp_path / "project", tmp_path / "home"
    (folder / ".git").mkdir(parents=True)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.chdir(folder)
    return folder
