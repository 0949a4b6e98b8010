"""Writing a page: what the file holds, what it needs, and what is left behind when it can't be written."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from led_agent.cli import main
from led_agent.errors import LedError, MachineError, UsageError
from led_agent.pages.data import detail, index
from led_agent.pages.export import as_json, html_of, page, write_html
from led_agent.pages.saved import read_saved
from led_agent.tree import Tree
from tests.pages.trees import HOSTILE, hostile_tree, journal_of, tree_of

ROWS = [("so 35", "accepted", "35"), ("so 34", "rejected", "34")]


def data_of(html: str, side: str = "") -> tuple[dict[str, Any], dict[tuple[int, int], Any]]:
    """The index in a page, and the details by (problem, node)."""
    found = re.search(rf'<script type="application/json" id="led-index{side}">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    details: dict[tuple[int, int], Any] = {}
    chunk = rf'data-led-details="{side or "-a"}" data-problem="(\d+)" data-from="(\d+)" data-count="(\d+)">([^<]*)<'
    for problem, start, count, packed in re.findall(chunk, html):
        rows = json.loads(gzip.decompress(base64.b64decode(packed)))
        assert len(rows) == int(count)
        details.update({(int(problem), int(start) + k): row for k, row in enumerate(rows)})
    return json.loads(found[1]), details


@pytest.mark.parametrize("name", ["viewer.html", "page.html"])
def test_a_page_runs_its_own_script_and_nothing_else(name: str):
    html = page(name)
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    script = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    style = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    assert (len(script), len(style)) == (1, 1)
    for kind, text in (("script", script[0]), ("style", style[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy[1]
    assert policy[1].startswith("default-src 'none'; ")
    assert "connect-src 'self'" in policy[1]
    assert not re.search("unsafe|https?:", policy[1])
    assert not re.search(r"<(link|img|script)[^>]+(src|href)=\"(?!data:)", html)


def test_the_sources_make_no_markup_of_text():
    sources = Path(__file__).parents[2] / "web" / "src"
    for path in sources.glob("*.ts*"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", path.read_text()
        )


def test_the_file_holds_all_there_is_and_no_text_of_others_as_markup():
    trees = [hostile_tree("x" * 10), *(tree_of(f"p{i}", ROWS * 50) for i in range(3))]
    html = html_of(trees, title=HOSTILE["end"])
    assert html.isascii()
    told, details = data_of(html)
    assert told == json.loads(json.dumps(index(trees, title=HOSTILE["end"])))
    assert details == {
        (at, k): json.loads(json.dumps(detail(tree, node.id)))
        for at, tree in enumerate(trees)
        for k, node in enumerate(tree.nodes())
    }
    bare = page("viewer.html")
    assert html.count("</script>") == bare.count("</script>") + 1 + html.count(' data-led-details="-a" ')
    assert html.count("<!--") == bare.count("<!--") - 1  # the placeholder


def test_two_runs_are_kept_apart():
    html = html_of([tree_of("p", ROWS)], title="a", other=[tree_of("p", ROWS[1:])], other_title="b")
    (first, one), (second, two) = data_of(html), data_of(html, "-b")
    assert (first["title"], second["title"]) == ("a", "b")
    assert (len(one), len(two)) == (2, 1)
    assert two[0, 0]["text"] == "so 34"


def test_numbers_that_are_not_finite_are_null():
    assert as_json({"a": [float("nan"), 1.5, float("-inf")], "b": "\ud800<"}) == '{"a":[null,1.5,null],"b":"\\ud800<"}'


def test_the_same_run_gives_the_same_bytes():
    assert html_of([tree_of("p", ROWS)], title="a") == html_of([tree_of("p", ROWS)], title="a")


def test_trees_are_taken_one_at_a_time(tmp_path: Path):
    alive: list[int] = []

    def trees() -> Iterator[Tree]:
        import gc
        import weakref

        made: list[weakref.ref[Tree]] = []
        for i in range(20):
            tree = tree_of(f"p{i}", ROWS)
            made.append(weakref.ref(tree))
            yield tree
            del tree
            gc.collect()
            alive.append(sum(ref() is not None for ref in made))

    write_html(tmp_path / "run.html", trees(), title="many")
    assert max(alive) <= 1


def test_a_call_that_fails_leaves_what_was_there(tmp_path: Path):
    file = tmp_path / "run.html"
    file.write_text("before")

    def trees() -> Iterator[Tree]:
        yield tree_of("p", ROWS)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_html(file, trees(), title="x")
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"]
    assert file.read_text() == "before"
    write_html(file, [tree_of("p", ROWS)], title="x")
    assert file.read_text().startswith("<!doctype html>")
    with pytest.raises(MachineError, match="choose another file"):
        write_html(tmp_path / "missing" / "run.html", [], title="x")


def test_ctrl_c_leaves_no_half_file(tmp_path: Path):
    """A real process, interrupted in the middle of a run that has no end: a pipe in place of a journal's file."""
    import os

    from led_agent.lines import line_of

    pipe, out = tmp_path / "run.jsonl", tmp_path / "out"
    out.mkdir()
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "led_agent", "show", str(pipe), "--html", str(out / "run.html")]
    # Where Ctrl-C is ignored, as by what a script starts in the background, the process would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    line = line_of("p", tree_of("p", ROWS).started)
    with pipe.open("wb", buffering=0) as file:  # opened once the other end is
        file.write(line)
        process.send_signal(signal.SIGINT)
        # A signal that comes just before a read that waits is seen once the read ends, and so it has to end.
        with contextlib.suppress(BrokenPipeError):
            file.write(line)
        assert process.wait(60) == 130
    assert list(out.iterdir()) == []
    process.communicate()


@pytest.mark.parametrize("form", ["json", "graphml", "node-link", "journal", "folder"])
def test_every_saved_tree_can_be_shown(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tree = tree_of("p", ROWS)
    run = tmp_path / "run"
    if form == "folder":
        run.mkdir()
        journal_of(run / "journal.jsonl", [tree])
    elif form == "journal":
        journal_of(run, [tree])
    else:
        texts = {"json": tree.to_json, "graphml": tree.to_graphml, "node-link": lambda: json.dumps(tree.to_node_link())}
        run.write_text(texts[form]())
    with pytest.raises(SystemExit) as ended:
        main(["show", str(run), "--html", str(tmp_path / "run.html")])
    assert ended.value.code in (None, 0)
    assert capsys.readouterr().out == ""
    assert data_of((tmp_path / "run.html").read_text())[0]["problems"] == index([tree], title="")["problems"]


def test_one_problem_of_many_lines_of_json(tmp_path: Path):
    run = tmp_path / "trees.jsonl"
    run.write_text("".join(tree_of(f"p{i}", ROWS).to_json() + "\n" for i in range(3)))
    assert [tree.problem.key for tree in read_saved(run)] == ["p0", "p1", "p2"]
    assert [tree.problem.key for tree in read_saved(run, "p1")] == ["p1"]
    run.write_text(json.dumps(json.loads(tree_of("p", ROWS).to_json()), indent=1))
    assert [tree.problem.key for tree in read_saved(run)] == ["p"]
    with pytest.raises(UsageError, match="no problem 'p9'; it has p"):
        list(read_saved(run, "p9"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no run yet"),
        (b"notes", "nothing that can be shown"),
        (b"<html></html>", "not GraphML of a tree"),
        (b'{"id": 1}\n', "line 1 is not a line of a journal"),
        (b'{"id": \n', "not valid JSON"),
        (b'{"key": "p", "event": "decoded"}\n', "before its start"),
    ],
)
def test_what_is_no_tree_is_refused_in_words(content: bytes, said: str, tmp_path: Path):
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(LedError, match=said):
        list(read_saved(tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("MISSING", "--html", "OUT"), 3, "can't read"),
        (("RUN", "--html", "FOLDER"), 2, "is a folder"),
        (("RUN", "--compare", "RUN"), 2, "--html FILE"),
        (("RUN", "--problem", "p9", "--html", "OUT"), 2, "no problem 'p9'"),
    ],
)
def test_bad_calls_are_refused_in_one_line(
    arguments: tuple[str, ...], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    places = {"RUN": journal_of(tmp_path / "run.jsonl", [tree_of("p", ROWS)]), "OUT": tmp_path / "out.html",
              "FOLDER": tmp_path, "MISSING": tmp_path / "missing"}  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["show", *(str(places.get(a, a)) for a in arguments)])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.strip().count("\n")) == (code, "", 0), err
    assert says in err
    assert not (tmp_path / "out.html").exists()
