"""The state of torch that puzzle computes in, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_AUTOCAST = ("cpu", "cuda")


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Runs a block, or a function it decorates, in the state that puzzle's results are stated for.

    Inside, gradients are recorded, new tensors are float32 and on the CPU unless the code says
    otherwise, nothing is autocast, and operators need not be deterministic: fits and scores take
    gradients, which the `torch.no_grad()` or `torch.inference_mode()` of a notebook would stop, and
    artifacts are found by what they depend on, which is never a default. Afterwards all of this and
    torch's random numbers are as they were, also where the block raises.

    Grad mode and autocast are those of a thread; default number format, default device and
    determinism are the process's, so threads beside this one see them change.

    Example:
        >>> with torch.inference_mode(), own_torch_state():
        ...     torch.is_grad_enabled()
        True
    """
    with ExitStack() as stack:
        _restore_afterwards(stack)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            # Costs a call of Python for each operator, so only where it is needed.
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        yield


def _restore_afterwards(stack: ExitStack) -> None:
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    stack.callback(
        torch.use_deterministic_algorithms,
        torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_initialized():
        stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())


def recordable(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor that gradients can be recorded beside.

    One that was made under `torch.inference_mode()` cannot be saved for a backward pass, whatever
    the mode is later; its copy can.
    """
    return tensor.clone() if tensor.is_inference() else tensor
