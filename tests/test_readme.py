"""The README's programs, as a stranger would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl import gradcheck

README = Path(__file__).parent.parent / "README.md"


def test_the_first_blocks_run_and_are_short():
    first, second, *_ = re.findall(
        r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(first.splitlines()) <= 16 and len(second.splitlines()) <= 16
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", first + second],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    table = done.stdout.decode("utf-8").splitlines()
    assert table[0].split()[:4] == ["parameter", "used", "in", "factor"] and len(table) == 6


def test_the_mistake_in_the_second_block_is_found():
    parts = README.read_text(encoding="utf-8").split("```")
    (place,) = [i for i, part in enumerate(parts) if "gradcheck.check(scaled" in part]
    program, shown = parts[place].removeprefix("python\n"), parts[place + 2]
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"})  # fmt: skip
    said = done.stdout.decode("utf-8").splitlines()
    assert [line for line in shown.strip().splitlines() if line not in said] == []


def test_the_layer_of_contributing_keeps_the_contract():
    text = README.with_name("CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    space: dict[str, Any] = {"__name__": "jaxdl.layers.scale"}
    exec(block[1], space)
    layer, x = space["scale"](start=2.0), jnp.ones((3, 5, 4))
    params = layer.init(jax.random.key(0), x)
    assert layer.apply(params, x).tolist() == (2 * x).tolist()
    gradcheck.check_layer(layer, x, level="quick")
