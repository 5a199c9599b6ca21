"""Here timing is tested: rounds end when it is precise."""

import pytest


@pytest.fixture(autouse=True)
def rough_timing():
    """Timing as it is everywhere but in tests of other things."""
