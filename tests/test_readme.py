"""The README's programs, as a stranger would run them."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_first_block_runs_and_is_short():
    block = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    assert len(block[1].splitlines()) <= 16
    subprocess.run([sys.executable, "-W", "error", "-c", block[1]], check=True)


def test_the_mistake_in_the_second_block_is_found():
    blocks = re.findall(r"```(?:python)?\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (program,) = [block for block in blocks if "gradcheck.check" in block]
    shown = blocks[blocks.index(program) + 1]
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    said = done.stdout.decode().splitlines()
    assert [line for line in shown.splitlines() if line not in said] == []
