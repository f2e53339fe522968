"""The run folder: what an experiment records, what is refused, and the report."""

from __future__ import annotations

import io
import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.framework import environment, terminal
from experiments.framework.run import Run
from experiments.framework.sources import ROWS
from experiments.framework.values import as_bool, show, to_json
from tests.experiments.running import results


def test_runs_within_one_second_get_folders_of_their_own(lab):
    folders = {Run("same").folder for _ in range(3)}
    assert len(folders) == 3


def test_results_are_on_disk_before_the_run_ends(lab):
    run = Run("x")
    assert results(run.folder)["status"] == "running"
    run.result("a", 1)
    run.log(step=1)
    assert results(run.folder)["results"] == {"a": 1}
    assert (run.folder / "log.jsonl").read_text().endswith("}\n")


def test_nothing_touches_a_device_before_the_first_result(lab, monkeypatch):
    asked = []
    monkeypatch.setattr(environment, "device", lambda: asked.append(1) or "cpu: fake × 1")
    with Run("x") as run:
        run.text("words")
        list(run.progress(2, "loop"))
        assert not asked
        run.result("a", 1)
        run.result("b", 1)
    assert len(asked) == 1
    assert results(run.folder, "settings.json")["environment"]["device"] == "cpu: fake × 1"


def test_values_that_are_not_finite_leave_valid_json(lab):
    with Run("x") as run:
        run.result("nan", math.nan)
        run.result("nested", {"inf": [np.float32(np.inf), -math.inf]})
        run.result("array", jnp.array([1.0, jnp.nan]))
        run.claim("A7", "c", math.nan, jnp.float32(math.nan), False)
        run.log(loss=math.nan)
    found = results(run.folder)
    assert found["results"] == {
        "nan": "nan",
        "nested": {"inf": ["inf", "-inf"]},
        "array": [1.0, "nan"],
    }
    assert math.isnan(float(found["results"]["nan"]))
    assert found["claims"][0]["found"] == "nan"
    assert json.loads((run.folder / "log.jsonl").read_text())["loss"] == "nan"


def test_to_json_keeps_numbers_exactly():
    x = 0.1 + 0.2
    assert to_json({"a": (np.float64(x), x)}, "v") == {"a": [x, x]}
    assert to_json(jnp.arange(3), "v") == [0, 1, 2]
    assert to_json([np.bool_(True), np.int8(3), None], "v") == [True, 3, None]
    assert to_json(jnp.ones((1, 2), jnp.bfloat16), "v") == [[1.0, 1.0]]
    assert to_json(np.array([0.5], np.longdouble), "v") == [0.5]
    assert type(to_json(np.float32(0.5), "v")) is float


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, np.array([1j]), [{"a": object()}]])
def test_values_that_json_cannot_hold_are_refused_and_change_nothing(lab, value):
    run = Run("x")
    with pytest.raises(TypeError, match=r"result 'odd'.*: expected .*got .*; "):
        run.result("odd", value)
    assert results(run.folder)["results"] == {}


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (
            lambda r: r.claim("A9", "c", 1, 1, True),
            ValueError,
            "of A1…A8, B1…B16.* got 'A9'; the rows",
        ),
        (lambda r: r.claim("a5", "c", 1, 1, True), ValueError, r"got 'a5'; did you mean 'A5'"),
        (lambda r: r.claim("A5", "c", 1, 1, 0.5), TypeError, "holds: expected True or False"),
        (lambda r: r.claim("A5", "c", 1, 1, "no"), TypeError, "holds: .* got 'no'; compare first"),
        (lambda r: [r.result("a", i) for i in (1, 2)], ValueError, "got 'a', recorded before as 1"),
        (lambda r: r.log(time=1), ValueError, "'time' must be left to the log"),
        (lambda r: r.table("t", ["a", "b"], [[1]]), ValueError, r"row 0 must have 2 cells.* got 1"),
        (lambda r: r.figure("../x", None), ValueError, "got '../x', which is no plain file name"),
    ],
)
def test_wrong_use_of_a_run(lab, use, error, words):
    run = Run("x")
    with pytest.raises(error, match=words):
        use(run)
    assert results(run.folder)["claims"] == []


def test_brackets_are_words_and_not_markup(lab, capsys):
    with Run("x") as run:
        run.text("weights [0.1, 0.2] [bold]")
        run.table("T [x]", ["[a]"], [["[red]"]])
    out = capsys.readouterr().out
    for words in ("weights [0.1, 0.2] [bold]", "T [x]", "[a]", "[red]"):
        assert words in out


def test_progress_yields_the_items_and_is_silent_in_a_log(lab, capsys):
    run = Run("x")
    assert list(run.progress(3, "d")) == [0, 1, 2]
    assert list(run.progress(iter("ab"), "d")) == ["a", "b"]
    pairs = [(i, j) for i in run.progress(2, "outer") for j in run.progress("ab", "inner")]
    assert pairs == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert capsys.readouterr().out == ""


def test_long_loops_say_where_they_are_in_a_log(lab, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_QUIET_SECONDS", 0.0)
    list(Run("x").progress(2, "loop"))
    assert capsys.readouterr().out.splitlines() == ["loop: 1 of 2, 0 s", "loop: 2 of 2, 0 s"]


def test_bars_nest_in_a_terminal_and_leave_it_after_a_failure():
    screen = io.StringIO()
    bars = terminal.Bars(Console(file=screen, force_terminal=True, width=80))
    kept = bars.track(3, "outer [x]")  # kept alive, as a traceback keeps it
    assert [(next(kept), j) for j in bars.track("ab", "inner")] == [(0, "a"), (1, "b")]
    bars.stop()
    assert "outer [x]" in screen.getvalue() and "inner" in screen.getvalue()
    show_cursor, hide_cursor = "\x1b[?25h", "\x1b[?25l"
    assert screen.getvalue().rfind(show_cursor) > screen.getvalue().rfind(hide_cursor)
    assert list(bars.track(2, "again")) == [0, 1]


def test_the_report_is_one_safe_page_without_outside_parts(lab):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot([0, 1])
    doc = "A question <b>?\n\nWhat the sources claim.\n\n- one\n- two,\n  goes on\n"
    with Run("x", {"rate": 0.5}, doc=doc) as run:
        run.heading("A part <x>")
        run.text("1 < 2 & 3\n\nsecond")
        run.text("a   b", mono=True)
        run.table("Table", ["n", "word"], [[1.23456789, "<i>"], [None, "w"]])
        path = run.figure("curve", figure, "the curve")
        run.claim("A5", "as printed", 1.0, 2.0, False)
        run.claim("A5", "with the bug", 1.0, 1.0, True)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not pyplot.get_fignums(), "figures are closed"
    page = run.report.read_text()
    for words in (
        "A question &lt;b&gt;?",
        "<p>1 &lt; 2 &amp; 3</p><p>second</p>",
        "<h2>A part &lt;x&gt;</h2>",
        "<pre>a   b</pre>",
        '<td class="num">1.23457</td><td>&lt;i&gt;</td>',
        'src="data:image/png;base64,',
        '<p class="lines">- one\n- two, goes on</p>',
        ">no</td>",
        ">yes</td>",
        "rate",
        "jaxlib",
        'name="viewport"',
    ):
        assert words in page
    assert page.count(ROWS["A5"]) == 1
    assert not re.search(r"https?://|<script|<link", page)


def test_a_figure_name_is_used_once(lab):
    from matplotlib.figure import Figure

    run = Run("x")
    run.figure("a", Figure())
    with pytest.raises(ValueError, match="got 'a', which was used before"):
        run.figure("a", Figure())


def test_show_and_as_bool():
    assert show(0.123456789) == "0.123457" and show(0.123456789, 9) == "0.123456789"
    assert show([1.0, [2, "a"]]) == "(1, (2, a))" and show(jnp.float32(0.5)) == "0.5"
    assert show(list(range(9))) == "(0, 1, 2, 3, 4, 5, 6, 7, … (9 in all))"
    assert (show(None), show(np.bool_(False)), show({"a": 1.5})) == ("–", "no", "a = 1.5")
    assert as_bool(jnp.array(1.0) < 2, "x") is True and as_bool(np.bool_(False), "x") is False
