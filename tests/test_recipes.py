"""The pages of docs/recipes, run as a reader would run them, from top to bottom."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import jax
import pytest

RECIPES = Path(__file__).parent.parent / "docs" / "recipes"
PAGES = sorted(path for path in RECIPES.glob("*.md") if path.name != "README.md")
BLOCK = re.compile(r"(?:<!-- needs (.*?) -->\n)?```(python|text)\n(.*?)```", re.DOTALL)


def run(page):
    """Execute the Python blocks of a page in one namespace; what a text block shows was printed.

    A block below ``<!-- needs module -->`` is left out where that module is not installed.
    """
    space, said, whole = {"__name__": "recipe"}, "", page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(whole):
        needs, kind, text = (part or "" for part in found.groups())
        if not all(importlib.util.find_spec(name) for name in needs.split()):
            said = None
        elif kind == "python":
            out = io.StringIO()
            above = "\n" * whole.count("\n", 0, found.start(3))  # errors name the line of the page
            with contextlib.redirect_stdout(out):
                exec(compile(above + text, str(page), "exec"), space)
            said = out.getvalue()
        elif said is not None:
            missing = [line for line in text.splitlines() if line.rstrip() not in said.splitlines()]
            assert not missing, f"{page.name} shows {missing}, but this was printed:\n{said}"


@pytest.mark.filterwarnings("default:optax.global_norm:DeprecationWarning")  # in jax_privacy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, x64_off, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with jax.numpy_dtype_promotion("standard"):
        run(page)


def test_every_page_is_in_the_index_and_its_links_lead_somewhere():
    index = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == {page.name for page in PAGES}
    for page in PAGES:
        for image in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text(encoding="utf-8")):
            assert (RECIPES / image).is_file(), (page.name, image)


def test_a_wrong_printout_or_claim_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n```text\n3\n```", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md shows"):
        run(page)
    page.write_text("```python\nassert 1 + 1 == 3\n```", encoding="utf-8")
    with pytest.raises(AssertionError):
        run(page)
