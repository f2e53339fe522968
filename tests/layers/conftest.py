"""What the tests of layers have in common."""

import pytest


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")
