"""``scripts/docs_hook.py``: what pages link to outside of docs/ is on the site, and links lead there."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install 'led-agent[docs]'"
)
FILES = {
    "mkdocs.yml": """
site_name: x
theme: {name: mkdocs, highlightjs: false}
hooks: [scripts/docs_hook.py]
validation: {anchors: warn}
nav: [index.md, guide/page.md, repository/NOTES.md]
""",
    "docs/index.md": "[code](../src/code.py) [folder](../src) [page](guide/page.md#part) [web](https://x.example)\n",
    "docs/guide/page.md": "# Part\n\n[results](../../more/RESULTS.md#table)\n\n```\n[no](../../more/RESULTS.md)\n```\n",
    "src/code.py": "x = 1\n",
    "more/RESULTS.md": "# Table\n\n[back](../docs/index.md) ![picture](p.png) [notes](../NOTES.md)\n",
    "more/p.png": "",
    "NOTES.md": "# Notes\n",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository with the hook in it."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "docs_hook.py", tmp_path / "scripts")
    return tmp_path


def build(repository: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True)


def links(page: Path) -> dict[str, str]:
    """What the links and pictures of a built page lead to, by what they are called."""
    html = page.read_text()
    pictures = dict(re.findall(r'<img alt="(\w+)" src="([^"]+)"', html))
    return pictures | {name: to for to, name in re.findall(r'<a href="([^"]+)">(\w+)</a>', html)}


def test_what_pages_link_to_is_on_the_site(repository: Path):
    done = build(repository)
    assert done.returncode == 0, done.stderr
    site = repository / "site"
    first, second = links(site / "index.html"), links(site / "guide" / "page" / "index.html")
    assert first["code"] == "repository/src/code.py/"
    assert "folder" not in first
    assert first["page"] == "guide/page/#part"
    assert first["web"] == "https://x.example"
    assert second["results"] == "../../repository/more/RESULTS/#table"
    assert "[no](../../more/RESULTS.md)" in (site / "guide" / "page" / "index.html").read_text()
    results = links(site / "repository" / "more" / "RESULTS" / "index.html")
    assert {results[name] for name in ("back", "picture", "notes")} == {"../../../", "../p.png", "../../NOTES/"}
    assert "x = 1" in (site / "repository" / "src" / "code.py" / "index.html").read_text()
    assert (site / "repository" / "more" / "p.png").is_file()


@pytest.mark.parametrize(
    ("link", "told"), [("../src/none.py", "src/none.py"), ("../more/RESULTS.md#none", "none"), ("none.md", "none.md")]
)
def test_a_dead_link_fails_the_build(repository: Path, link: str, told: str):
    (repository / "docs" / "index.md").write_text(f"[a]({link})\n")
    done = build(repository)
    assert done.returncode != 0
    assert told in done.stderr
