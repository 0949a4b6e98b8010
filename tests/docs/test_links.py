"""Relative links, pictures and anchors of the pages lead somewhere, in the repository as it is read on GitHub. (On the
site it is `scripts/docs` that holds them to it.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import NAMES, ROOT, anchors, links

OUTSIDE = ("CHANGELOG.md", "benchmarks/RESULTS.md", "training/RESULTS.md")


@pytest.mark.parametrize("page", [*NAMES, *OUTSIDE])
def test_links_lead_somewhere(page: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(NAMES, page, ROOT / page)
    here = (ROOT / page).parent
    for link in links(page):
        there = (here / link.path).resolve() if link.path else ROOT / page
        assert there.exists(), f"{page}:{link.line}: {link.path} is not there"
        assert there.is_relative_to(ROOT), f"{page}:{link.line}: {link.path} is outside of the repository"
        if link.anchor and there.suffix == ".md":
            assert link.anchor in anchors(there), f"{page}:{link.line}: {link.path} has no heading #{link.anchor}"


def test_anchors_are_those_of_headings(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Depths, `d` (LED)\n\n## Again\n\n## Again\n\n```\n# no heading\n```\n")
    assert anchors(page) == {"depths-d-led", "again", "again-1"}
