"""The README's first block, as a stranger would run it."""

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
