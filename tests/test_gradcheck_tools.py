"""The command line and the pytest plugin of `jaxdl.gradcheck`."""

import json
import os
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


def run(folder, *command):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, timeout=300,
        encoding="utf-8", env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


def test_one_function(folder):
    command = ["jaxdl.gradcheck", "rules:wrong", "--args", "rules:make_args", "--level", "quick"]
    done = run(folder, *command, "--json", "found.json")
    assert done.returncode == 1, done.stderr
    assert "2 times the right gradient: 3 − 1 (axis 0 of args[0]) or 2" in done.stdout
    found = json.loads((folder / "found.json").read_text())
    assert found["rules:wrong"]["outcome"] == "fail"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["known", "--level", "quick"], 0, "right  pass"),
        (["partly", "--level", "quick"], 2, "wrong  not checked"),
        (["rules:right", "--args", "rules:no_tuple"], 2, "must be a tuple of arguments"),
        (["rules:right"], 3, "needs --args"),
        (["rules:missing", "--args", "rules:make_args"], 3, "rules has no missing"),
        (["nowhere"], 3, "cannot import nowhere"),
    ],
)
def test_exit_codes(folder, monkeypatch, capsys, arguments, code, words, x64_off):
    from jaxdl.gradcheck.__main__ import main

    monkeypatch.syspath_prepend(folder)
    for name in ("rules", "known", "partly"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(arguments) == code
    said = capsys.readouterr()
    assert words in said.out + said.err


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_the_plugin(folder, workers):
    options = ["--gradcheck-level", "quick", "--gradcheck-json", "all.json"]
    done = run(folder, "pytest", "-q", "-p", "no:cacheprovider", *options, *workers)
    assert done.returncode == 1
    assert "gradcheck FAIL  wrong" in done.stdout and "1 failed, 2 passed" in done.stdout
    assert "gradcheck: 3 checks (1 pass, 2 fail, 0 inconclusive); weakest power" in done.stdout
    tests = {report["test"] for report in json.loads((folder / "all.json").read_text())}
    assert tests == {f"test_rules.py::{name}" for name in
                     ("test_right", "test_wrong", "test_without_raising")}  # fmt: skip
