"""A way to distil that the library does not offer: averaged weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback


class Averaged(TrainerCallback):
    """Leaves a running mean of the weights after each step in place of the last ones.

    Args:
        decay: Share of the mean that is kept at a step; steps before it are not counted in.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.weight = decay, 0.0
        self.means: list[torch.Tensor] = []

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Takes the weights of a step into the mean."""
        trained = [each for each in given["model"].parameters() if each.requires_grad]
        if not self.means:
            self.means = [torch.zeros_like(each) for each in trained]
        self.weight = self.decay * self.weight + (1 - self.decay)
        for mean, each in zip(self.means, trained, strict=True):
            mean.lerp_(each, (1 - self.decay) / self.weight)

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Puts the mean in place."""
        trained = [each for each in given["model"].parameters() if each.requires_grad]
        for mean, each in zip(self.means, trained, strict=True):
            each.copy_(mean)
