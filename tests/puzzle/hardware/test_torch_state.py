"""Claims about the state of torch that results are computed in, whatever the caller's is."""

from contextlib import ExitStack

import pytest
import torch

from puzzle.hardware.torch_state import own_torch_state, recordable

CALLERS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


def state():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_device(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_rng_state().tolist(),
    )


@pytest.fixture
def unusual():
    """A caller that has changed all that a caller can."""
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.use_deterministic_algorithms, False)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        for enter in CALLERS.values():
            stack.enter_context(enter())
        yield


@own_torch_state()
def slope():
    """A gradient of random numbers, which needs all of the state to be puzzle's own."""
    torch.manual_seed(3)
    x = torch.randn(4, 4, requires_grad=True)
    y = x @ x
    y.sum().backward()
    assert x.dtype == y.dtype == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()
    return x.grad


@own_torch_state()
def fails():
    torch.randn(2)
    raise ZeroDivisionError


def test_the_same_is_computed_in_any_state_and_the_state_is_left_as_it_was(unusual):
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.float64)
        torch.set_default_dtype(torch.float32)
        with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
            reference = slope()
    before = state()
    assert torch.equal(slope(), reference)
    assert state() == before


def test_the_state_is_left_as_it_was_after_an_error(unusual):
    before = state()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert state() == before


def test_a_tensor_of_inference_mode_can_be_recorded_beside():
    with torch.inference_mode():
        made = torch.ones(3)
    weights = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference tensors"):
        (made * weights).sum().backward()
    (recordable(made) * weights).sum().backward()
    assert torch.equal(weights.grad, torch.ones(3))
    assert recordable(weights) is weights
