"""Four virtual devices = one device, under Auto and Explicit mesh axes."""

import os
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).with_name("sharded_check.py")


def test_sharded_is_single(pytestconfig):
    # The number of devices is fixed when JAX starts: one process of its own for all cases.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECK)]
    command += ["--long", pytestconfig.getoption("--long")]
    run = subprocess.run(
        command, env=environment, cwd=CHECK.parents[2], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5_000:]
