"""What a distillation leaves, for the tests of reports."""

import pytest


@pytest.fixture(scope="session")
def distillation():
    """The record of a distillation."""
    return {
        "history": [{"step": i, "tokens": 64.0 * i, "loss": 2.0 - i / 500} for i in range(1, 501)],
        "evaluations": [{"step": 0, "kl": 0.5}, {"step": 500, "kl": 0.1}],
    }
