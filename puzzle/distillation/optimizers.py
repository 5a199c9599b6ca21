"""Optimisers of a distillation: AdamW, or Muon for the layers' matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from puzzle.distillation.distill_config import DistillConfig

# What is kept of a parameter between steps, by the class that steps it.
MOMENTS = {torch.optim.AdamW: ("exp_avg", "exp_avg_sq"), torch.optim.Muon: ("momentum_buffer",)}
# With Muon, AdamW's rate for embedding, head and vectors, as a share of the rate of the matrices.
ADAMW_SHARE = 0.1


class Optimizers:
    """One or two optimisers that step together.

    Args:
        parameters: The trained parameters by name.
        config: Which optimiser, and its settings.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: DistillConfig) -> None:
        muon = config.optimizer == "muon"
        matrices = [p for name, p in parameters.items() if muon and is_layer_matrix(name, p)]
        other = [p for name, p in parameters.items() if not (muon and is_layer_matrix(name, p))]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            # Updates of AdamW's size, so that one rate does for matrices of all shapes.
            part = torch.optim.Muon(
                matrices,
                lr=config.peak_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self.parts.append(part)
        if other:
            # Norms and biases are not decayed, as is usual.
            groups = [
                {"params": [p for p in other if p.dim() > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in other if p.dim() < 2], "weight_decay": 0.0},
            ]
            # On a CPU one pass over the memory instead of ten; elsewhere torch chooses.
            fused = True if all(p.device.type == "cpu" for p in other) else None
            adamw = torch.optim.AdamW(groups, lr=config.peak_rate, betas=config.betas, fused=fused)
            self.parts.append(adamw)
        self.share = ADAMW_SHARE if muon else 1.0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts, which callbacks may read."""
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the coming step."""
        for part in self.parts:
            share = self.share if isinstance(part, torch.optim.AdamW) else 1.0
            for group in part.param_groups:
                group["lr"] = share * rate

    def step(self) -> None:
        """Updates the parameters."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for part in self.parts:
            part.zero_grad()

    def start_state(
        self, step: int, parameters: Mapping[str, nn.Parameter], other_steps: Mapping[str, int]
    ) -> None:
        """Gives each parameter the moments, at zero, that it has after some steps.

        Args:
            step: Steps of the run.
            parameters: The trained parameters by name.
            other_steps: What `other_steps` returned then; one that took none has no moments.
        """
        owner = self._owners()
        for name, parameter in parameters.items():
            part, taken = owner[parameter], other_steps.get(name, step)
            if not taken:
                continue
            moments = {each: torch.zeros_like(parameter) for each in MOMENTS[type(part)]}
            if isinstance(part, torch.optim.AdamW):
                moments["step"] = torch.tensor(float(taken))
            part.state[parameter] = moments

    def other_steps(self, parameters: Mapping[str, nn.Parameter], step: int) -> dict[str, int]:
        """Returns the steps of each parameter that did not take all of the run's.

        A callback may freeze parameters, for a while or for the whole run: they have no gradient,
        and no optimiser steps them.
        """
        taken = {}
        for parameter, part in self._owners().items():
            state = part.state.get(parameter)
            # Muon's momentum needs no correction by the number of steps, and keeps none.
            taken[parameter] = int(state.get("step", step)) if state else 0
        return {name: taken[p] for name, p in parameters.items() if taken[p] != step}

    def moments(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Returns what is kept between steps, as "moment/parameter" and in one order."""
        owner = self._owners()
        return {
            f"{moment}/{name}": owner[parameter].state[parameter][moment]
            for moment in ("exp_avg", "exp_avg_sq", "momentum_buffer")
            for name, parameter in parameters.items()
            if moment in owner[parameter].state.get(parameter, {})
        }

    def _owners(self) -> dict[nn.Parameter, torch.optim.Optimizer]:
        return {
            parameter: part
            for part in self.parts
            for group in part.param_groups
            for parameter in group["params"]
        }


def is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Returns whether a parameter is a matrix of a layer, neither embedding nor head.

    Example:
        >>> matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
        >>> [is_layer_matrix("model.layers.0.map.weight", p) for p in (matrix, vector)]
        [True, False]
        >>> is_layer_matrix("lm_head.weight", matrix)
        False
    """
    return parameter.dim() == 2 and ".layers." in f".{name}"
