"""The command line and the pytest plugin of `jaxdl.gradcheck`."""

import json
import os
import re
import subprocess
import sys

import pytest

RULES = """
import jax, jax.numpy as jnp

@jax.custom_vjp
def right(x):
    return jnp.sin(x)

right.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))

@jax.custom_vjp
def wrong(x):
    return jnp.sin(x)

wrong.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (2 * g * jnp.cos(x),))

def make_args():
    return (jnp.array([0.3, -1.2, 2.0]),)

def no_tuple():
    return jnp.ones(3)

def marked():
    open("started", "w").close()
    return make_args()
"""
TESTS = """
import pytest
from rules import make_args, right, wrong

def test_right(gradcheck):
    assert gradcheck(right, *make_args()).outcome == "pass"

def test_wrong(gradcheck):
    gradcheck(wrong, *make_args())

def test_without_raising(gradcheck):
    assert gradcheck(wrong, *make_args(), raises=False).level == "quick"
"""
NO_POWER = """
from rules import make_args, right

def test_without_power(gradcheck):
    gradcheck(right, *make_args(), skip={"dot": "not now", "power": "not now"})
"""


ONE = ["rules:wrong", "--args", "rules:make_args", "--level", "quick"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "known.py").write_text(
        "from rules import *\ngradcheck_args = {'right': make_args}\ndel wrong\n"
    )
    (tmp_path / "partly.py").write_text(
        "from rules import *\ngradcheck_args = {'right': make_args}\n"
    )
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["jaxdl.gradcheck.pytest_plugin"]\n')
    (tmp_path / "test_rules.py").write_text(TESTS)
    return tmp_path


def run(folder, *command, **environment):
    plain = {name: value for name, value in os.environ.items()
             if name not in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS")}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, timeout=300,
        encoding="utf-8", env=plain | {"PYTHONIOENCODING": "utf-8"} | environment,
    )  # fmt: skip


def called(arguments, folder, monkeypatch):
    """`main` in this process, with fresh modules of the folder; exits too are codes."""
    from jaxdl.gradcheck.__main__ import main

    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in ("rules", "known", "partly", "both"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        return main(arguments)
    except SystemExit as exit_:
        return exit_.code


def test_one_function(folder):
    command = ["jaxdl.gradcheck", *ONE]
    done = run(folder, *command, "--json", "found.json", "--html", "found.html")
    assert done.returncode == 1, done.stderr
    assert "2 times the right gradient: 3 − 1 (axis 0 of args[0]) or 2" in done.stdout
    assert "\x1b" not in done.stdout and not done.stderr
    found = json.loads((folder / "found.json").read_text())
    assert found["rules:wrong"]["outcome"] == "fail" and found["rules:wrong"]["seconds"] > 0
    assert "rules:wrong</a>" in (folder / "found.html").read_text()


def test_several_functions(folder, monkeypatch, capsys, x64_off):
    (folder / "both.py").write_text(
        "from rules import *\ngradcheck_args = dict(right=make_args, wrong=make_args, "
        "no_tuple=no_tuple)\n"
    )
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert called(["both", "--level", "quick", "--html", "a.html"], folder, monkeypatch) == 1
    said = capsys.readouterr()
    steps = [line for line in said.err.splitlines() if line.startswith("gradcheck: ")]
    assert [line.split(" … ")[0] for line in steps] == [
        "gradcheck: 1/3 right", "gradcheck: 2/3 wrong", "gradcheck: 3/3 no_tuple"]  # fmt: skip
    assert [line.split(" … ")[1].split(",")[0] for line in steps] == ["pass", "fail", "not checked"]
    assert "\x1b[1mgradcheck \x1b[1;31mFAIL\x1b[0m" in said.out
    table = re.sub(r"\x1b\[[\d;]*m", "", said.out).splitlines()[-4:]
    assert re.split(r" {2,}", table[0]) == [
        "function", "outcome", "weakest power", "time", "worst finding"]  # fmt: skip
    assert re.fullmatch(r"right     pass           {6,}\de-\d\d +[\d.]+ s", table[1])
    worst = r"wrong     fail .* s  dot, args\[0\]: 2 times the right gradient: .*…"
    assert re.fullmatch(worst, table[2])
    assert table[3].startswith(
        "no_tuple  not checked   gradcheck: gradcheck_args['no_tuple']() must"
    )
    assert "no_tuple" in (folder / "a.html").read_text()
    monkeypatch.setenv("NO_COLOR", "1")
    assert called(["known", "--level", "quick"], folder, monkeypatch) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_files_that_cannot_be_written_are_refused_before_the_work(
    folder, monkeypatch, capsys, x64_off
):
    command = ["rules:right", "--args", "rules:marked", "--level", "quick", "--json", "a.json"]
    assert called([*command, "--html", "none/a.html"], folder, monkeypatch) == 3
    assert "create its folder or name another file" in capsys.readouterr().err
    assert not (folder / "started").exists() and not (folder / "a.json").exists()
    assert called(command, folder, monkeypatch) == 0
    assert (folder / "started").exists() and (folder / "a.json").exists()


def test_what_is_left_out(folder, monkeypatch, x64_off):
    command = [*ONE, "--json", "a.json", "--wrt", "args[0]", "--skip", "zero=later"]
    assert called([*command, "--skip", "scaling=a = b"], folder, monkeypatch) == 1
    (found,) = json.loads((folder / "a.json").read_text()).values()
    skipped = {f["name"]: f["text"] for f in found["findings"] if f["outcome"] == "skipped"}
    assert skipped == {"zero": "later", "scaling": "a = b"} and list(found["power"]) == ["args[0]"]


def test_a_command_that_cannot_be_read_is_no_inconclusive_outcome(folder, monkeypatch, capsys):
    assert called(["known", "--level", "slow"], folder, monkeypatch) == 3
    said = capsys.readouterr().err  # Python 3.14 has no quotation marks there
    assert "quick, standard, full" in said.replace("'", "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["known", "--level", "quick"], 0, "right     pass"),
        (["partly", "--level", "quick"], 2, "wrong     not checked   needs an entry"),
        (["rules:right", "--args", "rules:no_tuple"], 2, "must be a tuple of arguments"),
        (["rules:right"], 3, "needs --args"),
        (["rules:missing", "--args", "rules:make_args"], 3, "rules has no missing"),
        (["nowhere"], 3, "cannot import nowhere"),
        ([*ONE, "--skip", "dot"], 3, "--skip must be NAME=REASON, got 'dot'"),
        ([*ONE, "--skip", "dots=no"], 3, "--skip names the check 'dots'; there are additivity"),
        ([*ONE, "--wrt", "args[7]"], 2, "args[7]"),
        ([*ONE, "--html", "none/a.html"], 3, "--html must name a file that can be written"),
        ([*ONE, "--json", "."], 3, "--json must name a file that can be written"),
    ],
)
def test_exit_codes(folder, monkeypatch, capsys, arguments, code, words, x64_off):
    assert called(arguments, folder, monkeypatch) == code
    said = capsys.readouterr()
    assert words in said.out + said.err


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_the_plugin(folder, workers):
    options = ["--gradcheck-level", "quick", "--gradcheck-json", "all.json",
               "--gradcheck-html", "all.html"]  # fmt: skip
    done = run(folder, "pytest", "-q", "-p", "no:cacheprovider", *options, *workers)
    assert done.returncode == 1
    assert "gradcheck FAIL  wrong" in done.stdout and "1 failed, 2 passed" in done.stdout
    told = "gradcheck: 3 checks of 2 functions (1 pass, 2 fail, 0 inconclusive); weakest power "
    assert re.search(re.escape(told) + r"\de-\d\d, args\[0\] of (right|wrong)\n", done.stdout)
    assert f"gradcheck: wrote {folder / 'all.html'}" in done.stdout and "\x1b" not in done.stdout
    written = (folder / "all.html").read_text()
    assert "test_rules.py::test_without_raising" in written and "<dt>jax</dt>" in written
    tests = {report["test"] for report in json.loads((folder / "all.json").read_text())}
    assert tests == {f"test_rules.py::{name}" for name in
                     ("test_right", "test_wrong", "test_without_raising")}  # fmt: skip


def test_the_plugin_without_a_power_and_in_colour(folder):
    (folder / "test_rules.py").write_text(NO_POWER)
    command = ["pytest", "-q", "-p", "no:cacheprovider", "--gradcheck-level", "quick"]
    done = run(folder, *command)
    assert done.returncode == 0, done.stdout
    assert "1 check of 1 function (1 pass, 0 fail, 0 inconclusive); weakest power none" in (
        done.stdout
    )
    (folder / "test_rules.py").write_text(TESTS)
    done = run(folder, *command, "--color=yes", "--junitxml=junit.xml")
    assert "\x1b[1mgradcheck \x1b[1;31mFAIL\x1b[0m" in done.stdout
    assert "\x1b[31mgradcheck: 3 checks of 2 functions" in done.stdout
    assert "#x1B" not in (folder / "junit.xml").read_text()  # the message itself is plain


def test_the_plugin_refuses_files_that_cannot_be_written(folder):
    done = run(folder, "pytest", "-q", "-p", "no:cacheprovider", "--gradcheck-html", "none/a.html")
    assert done.returncode == 4 and "passed" not in done.stdout
    assert "--gradcheck-html must name a file that can be written" in done.stderr
