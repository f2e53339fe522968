"""Reports of `jaxdl.gradcheck` as a page, as JSON and as text."""

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from jaxdl.gradcheck import Finding, Report, write_html
from jaxdl.gradcheck.report.error_map import blocks, cell_of, error_map, map_shape
from jaxdl.gradcheck.report.text import brief, folded, painted, weakest

VOID = {"meta", "br", "path", "rect"}
WANT = np.arange(1.0, 20)
GOT = np.where(np.arange(19) < 16, WANT, 0.0)


class Page(HTMLParser):
    """Every element with its attributes, and the text; refuses tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]


def wrong(**changes):
    head = {
        "leaf": "args[1]  float32[19]", "index": (16,), "diagnosis": "2 times the right gradient",
        "text": "where   16 of 19 entries agree\nworst   index (16,)", "replay": "seed=0",
        "figures": {"got": 0.0, "want": math.nan, "slope": -math.inf},
    } | changes  # fmt: skip
    return [
        Finding("contract", "pass", leaf="args[0]"),
        Finding("dot", "fail", errors=error_map(GOT, WANT), **head),
        *(Finding("dot", "fail", s, **head) for s in ("zeros", "ties")),
        Finding("sharded", "skipped", text="there is one device"),
    ]


def report(findings, name="f", power=None, **changes):
    power = {"args[0]": 5e-14, "args[1]": math.inf} if power is None else power
    return Report(name, ["rule"], "the primal", "full", findings, power, ["a note"], **changes)


PASS = report([Finding("contract", "pass"), Finding("dot", "pass", leaf="args[0]")], "right")
FAIL = report(wrong(), "wrong", seconds=1.25)
OPEN = report([Finding("power", "inconclusive", leaf="args[0]", text="nothing seen")], "open")


def page(tmp_path, reports, **settings):
    write_html(reports, tmp_path / "page.html", **settings)
    return Page(tmp_path / "page.html")


def test_the_page_has_every_function_and_every_check(tmp_path):
    found = page(
        tmp_path, {"a": PASS, "b": FAIL, "c": OPEN}, date="a day", not_checked={"d": "no arguments"}
    )
    source = (tmp_path / "page.html").read_text()
    assert "<b>1</b> ✗ fail" in source and "<b>1</b> ? inconclusive" in source
    assert "<b>1</b> ✓ pass" in source and "<b>1</b> not checked" in source
    for words in ("Gradient check: 3 functions", "a day", "no arguments", "there is one device",
                  "a note", "5e-14, args[0] of b; 3 leaves without", "1.2 s",
                  "Looks like 2 times the right gradient",
                  "at 2 other samples (zeros; ties)"):  # fmt: skip
        assert words in found.text, words
    columns = re.findall(r'class="up"><span>([^<]*)', source)
    assert sorted(columns) == ["contract", "dot", "power", "sharded"]
    cells = [a["class"] for a in found.all("td") if a.get("class", "").startswith("c ")]
    by_row = [dict(zip(columns, cells[4 * i : 4 * i + 4], strict=True)) for i in range(3)]
    assert by_row == [  # the worst first
        {"contract": "c pass", "dot": "c fail", "sharded": "c skipped", "power": "c "},
        {"contract": "c ", "dot": "c ", "sharded": "c ", "power": "c inconclusive"},
        {"contract": "c pass", "dot": "c pass", "sharded": "c ", "power": "c "},
    ]
    assert re.findall(r"<h2>(\w)</h2>", source) == ["b", "c", "a"]
    sections = [a["id"] for a in found.all("div", class_="inside")]
    assert sections == ["f1", "f2", "f3"]
    assert {a["href"].removeprefix("#") for a in found.all("a")} == set(sections)
    assert len(found.all("details", open=None)) == 2  # a pass is closed


def test_nothing_comes_from_elsewhere_and_it_can_be_read_aloud(tmp_path):
    curves = {"step": [0.1, 0.01, 0.001], "remainder": [1e-2, 1e-4, 1e-6], "other": [0.0] * 3}
    finding = Finding("taylor", "pass", leaf="args[0]", curves=curves)
    found = page(tmp_path, [report([*wrong(), finding])])
    source = (tmp_path / "page.html").read_text()
    assert "://" not in source and "url(" not in source and "@import" not in source
    assert not found.all("script") and not found.all("link") and not found.all("img")
    assert all("scope" in a for a in found.all("th"))
    shown = [a for a in found.all("svg") if "aria-hidden" not in a]
    assert len(shown) == 2 == len(found.all("title")) - 1 == len(found.all("desc"))
    assert all(a["role"] == "img" for a in shown)
    assert "remainder from 0.01 to 1e-06" in found.text
    assert "3 points that are zero or no numbers are not drawn" in found.text
    assert "slope 2" in found.text and len(found.all("path", class_="guide")) == 2


def test_the_remainder_lies_on_its_guide(tmp_path):
    """A slope of 2 from the largest step: both begin and end at the same places."""
    curves = {"step": [1.0, 0.1, 0.01], "remainder": [1.0, 1e-2, 1e-4]}
    found = page(tmp_path, [report([Finding("taylor", "pass", curves=curves)])])
    guide, line = (
        re.findall(r"[\d.]+ [\d.]+", found.all("path", class_=name)[0]["d"])
        for name in ("guide", "line s0")
    )
    assert guide == [line[0], line[-1]]


def test_words_of_others_are_escaped(tmp_path):
    evil = '<script>alert("&")</script>'
    findings = wrong(leaf=evil, diagnosis=evil, text=f"where   {evil}\n{evil}", replay=evil)
    findings += [Finding(evil, "skipped", evil, text=evil + "\x1b[31m\ud800")]
    findings += [Finding("t", "pass", curves={evil: [1.0, 2.0], evil + "y": [1.0, 2.0]})]
    bad = Report(evil, [evil], evil, evil, findings, {evil: 1.0}, [evil])
    found = page(tmp_path, {evil: bad}, not_checked={evil: evil}, environment={evil: evil})
    assert not found.all("script") and found.text.count(evil) > 10
    assert "\x1b" not in found.text and r"\x1b[31m\ud800" in found.text


def test_the_worst_entry_is_in_the_frame(tmp_path):
    found = page(tmp_path, [FAIL])
    (frame,) = found.all("rect", class_="frame")
    assert int(frame["x"]) == 16 * int(frame["width"]) and frame["y"] == "0"
    assert "entry (16,), relative error" in found.text
    assert "no error (16)" in found.text  # entries that agree
    # without a shape that fits the largest cell is framed
    errors = [[-9.0, -3.0], [-math.inf, -5.0]]
    odd = Finding("dot", "fail", leaf="args[0]", index=(7, 7), errors=errors)
    (frame,) = page(tmp_path, [report([odd])]).all("rect", class_="frame")
    assert (frame["x"], frame["y"]) == (frame["width"], "0")


@pytest.mark.parametrize("shape", [(), (1,), (19,), (500,), (3, 5), (100, 49), (3, 3, 16, 60)])
def test_the_error_map_is_folded_as_its_index(shape):
    """One wrong entry is in the cell that its index says, whatever the shape."""
    rng = np.random.default_rng(0)
    want = rng.normal(size=shape)
    index = tuple(int(rng.integers(n)) for n in shape)
    got = np.array(want)
    got[index] += 1
    errors = np.array(error_map(got, want))
    assert max(errors.shape) <= 48
    assert errors.shape == tuple(
        -(-n // b) for n, b in zip(map_shape(shape), blocks(shape), strict=True)
    )
    row, column = cell_of(index, shape)
    assert errors[row, column] == pytest.approx(-np.log10(np.sqrt(np.mean(want**2))))
    errors[row, column] = -np.inf
    assert np.all(errors == -np.inf)


def test_error_maps_of_numbers_that_are_none():
    want = np.array([np.nan, np.inf, 1.0, 2.0, 1e200])
    assert error_map([np.nan, np.inf, np.nan, 2.0, np.inf], want) == [
        [-math.inf, -math.inf, math.inf, -math.inf, math.inf]
    ]
    assert error_map(np.zeros((0, 3)), np.zeros((0, 3))) == []
    assert error_map([0.0, 1e-3], [0.0, 0.0]) == [[-math.inf, pytest.approx(-3)]]
    assert error_map([1e200, 2e200], [1e200, 1e200])[0][1] == pytest.approx(0)


def test_figures_that_are_not_finite(tmp_path):
    nothing = math.nan
    finding = Finding(
        "dot", "fail", leaf="args[0]  float32[2]", index=(0,), figures={"a": nothing},
        curves={"step": [nothing, 0.0], "remainder": [1.0, math.inf]},
        errors=[[math.inf, nothing]],
    )  # fmt: skip
    found = page(tmp_path, [report([finding], power={"args[0]": nothing})])
    assert "relative error infinite or no number" in found.text and "no number (2)" in found.text
    assert "2 points that are zero or no numbers are not drawn" in found.text
    assert "<dt>weakest power</dt><dd>none</dd>" in (tmp_path / "page.html").read_text()


def test_no_reports_and_many(tmp_path):
    assert "Nothing was checked." in page(tmp_path, []).text
    assert "Gradient check: 300 functions" in page(tmp_path, [PASS, FAIL, OPEN] * 100).text
    assert (tmp_path / "page.html").stat().st_size < 3e6


def test_a_report_writes_its_own_page(tmp_path):
    FAIL.to_html(tmp_path / "page.html")
    assert "Gradient check: 1 function1 ✗ fail" in Page(tmp_path / "page.html").text


def test_dicts_do_as_well(tmp_path):
    write_html([FAIL, PASS], tmp_path / "a.html", date="now")
    dicts = json.loads(json.dumps([FAIL.to_dict(), PASS.to_dict()]))
    write_html(dicts, tmp_path / "b.html", date="now")
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()
    assert "tests/a.py::test_b" in page(tmp_path, [dicts[0] | {"test": "tests/a.py::test_b"}]).text
    with pytest.raises(TypeError, match="reports must be Report or dicts"):
        write_html(["wrong"], tmp_path / "c.html")  # type: ignore[list-item]
    with pytest.raises(ValueError, match="got one without findings, function"):
        write_html([{"outcome": "pass"}], tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_json_is_strict_and_comes_back():
    one: Any = np.float32(1)  # as NumPy gives them
    place: Any = np.int64(1)
    findings = [
        *wrong(),
        Finding("growth", "pass", curves={"length": [1, 2], "rule": [one, math.inf]}),
        Finding("dot", "fail", errors=[[-math.inf, math.nan], [np.float64(-3.5), 1.0]],
                index=(place, 2), figures={"ulps": one}),
    ]  # fmt: skip
    record = report(findings, seconds=2.0).to_dict()
    back = Report.from_dict(json.loads(json.dumps(record, allow_nan=False)) | {"later": 1})
    assert back.to_dict() == record and back.outcome == "fail" and back.seconds == 2
    last = back.findings[-1]
    assert last.index == (1, 2) and last.errors[0][0] == -math.inf and math.isnan(last.errors[0][1])
    assert back.findings[-2].curves["rule"][1] == math.inf == back.power["args[1]"]
    assert math.isnan(back.findings[1].figures["want"])


# --- text ---------------------------------------------------------------------------------------


def test_the_same_at_other_samples_is_one_line():
    text = str(FAIL)
    assert text.count("check: dot") == 1
    assert "    also    at 2 other samples (zeros; ties)\n" in text
    assert "power   args[1]: no error would have been seen" in text
    assert text.endswith("1 other check passed, 1 skipped")


def test_what_is_folded():
    def dot(sample="given", name="dot", diagnosis="", leaf="args[0]", outcome: Any = "fail"):
        return Finding(name, outcome, sample, leaf, diagnosis=diagnosis)

    findings = [
        dot(outcome="inconclusive"),
        dot(diagnosis="8 times: axis 0, 8"),
        dot("ties"),  # nothing fits there: it is the same all the same
        dot("sizes", "shapes", "9 times: axis 0, 9", "args[0]  float32[9]"),
        dot("tiny", "shapes"),  # of a check that is among these
        dot("other", diagnosis="transposed"),
        dot(name="zero"),
        dot(leaf="args[1]"),
    ]
    groups = [[(f.name, f.sample) for f in (head, *others)] for head, others in folded(findings)]
    assert groups == [
        [("dot", "given"), ("dot", "ties"), ("shapes", "sizes"), ("shapes", "tiny")],
        [("dot", "other")],
        [("zero", "given")],
        [("dot", "given")],
        [("dot", "given")],
    ]
    assert "also    at 1 other sample (ties), check shapes at 2 samples (sizes; tiny)" in str(
        report(findings)
    )


def test_colours_are_beside_the_words_only():
    plain, color = FAIL.text(), FAIL.text(color=True)
    assert "\x1b[" not in plain and re.sub(r"\x1b\[[\d;]*m", "", color) == plain
    assert color.startswith("\x1b[1mgradcheck \x1b[1;31mFAIL\x1b[0m")
    assert painted(plain) == color
    assert "\x1b[1;32mPASS" in PASS.text(True) and "\x1b[1;33mINCONCLUSIVE" in OPEN.text(True)
    assert "\x1b" not in str(report([], name="\x1b[31mred"))


def test_long_lines_hang_under_their_text():
    long = report([Finding("dot", "fail", text="where   " + "entry " * 40, leaf="args[0]")])
    lines = long.text(width=60).splitlines()
    assert max(map(len, lines)) <= 60
    (first,) = (i for i, line in enumerate(lines) if line.startswith("    where   entry"))
    assert lines[first + 1].startswith("            entry entry")
    assert re.sub(r"\s+", "", long.text(width=60)) == re.sub(r"\s+", "", str(long))


def test_the_power_of_many_leaves_is_told_briefly():
    many = report([], power={f"args[{i}]": 10.0 ** -(i + 2) for i in range(30)})
    text = str(many)
    assert "args[0]: a relative error of 1e-02" in text and "args[29]" not in text
    assert "23 other leaves: smaller errors" in text


def test_few_words():
    assert brief(FAIL) == "dot, args[1]: 2 times the right gradient" and brief(PASS) == ""
    assert brief(OPEN) == "power, args[0]: nothing seen"
    pairs = [("f", FAIL), ("g", report([], power={"x": 1e-3}))]
    assert weakest(pairs) == "1e-03, x of g; 1 leaf without"
    assert weakest([]) == "none" == weakest([("f", report([], power={}))])
