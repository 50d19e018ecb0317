"""The small job of :mod:`worlds`, made for each test."""

import pytest
import worlds


@pytest.fixture
def world(tiny_lm, tmp_path):
    """``world(steps)``: the folder of a job."""
    return lambda steps: worlds.make(tmp_path.resolve(), tiny_lm("llama"), steps)
