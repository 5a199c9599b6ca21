"""The closed-form fit of a last linear map, from second moments alone.

With Phi the activations entering the map (T x k) and Y what it should return (T x d), all that
a ridge fit around a prior needs is Phi'Phi, Phi'Y and ||Y||^2. They are summed over batches
once, and serve every prior, every subset of columns and every ridge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


class Moments:
    """Sums of Phi'Phi (k x k), Phi'Y (k x d) and ||Y||^2, in float32."""

    def __init__(self, features: int, outputs: int) -> None:
        self.gram = torch.zeros(features, features)
        self.cross = torch.zeros(features, outputs)
        self.power = 0.0

    def add(self, phi_TK: torch.Tensor, y_TD: torch.Tensor) -> None:
        """Adds a batch of T tokens."""
        phi_TK, y_TD = phi_TK.float(), y_TD.float()
        self.gram.addmm_(phi_TK.T, phi_TK)
        self.cross.addmm_(phi_TK.T, y_TD)
        self.power += float(y_TD.square().sum(dtype=torch.float64))

    def columns(self, kept: torch.Tensor) -> Moments:
        """Returns the moments of a subset of the features."""
        part = Moments(0, 0)
        part.gram, part.cross = self.gram[kept][:, kept], self.cross[kept]
        part.power = self.power
        return part

    def error(self, weight_KD: torch.Tensor) -> float:
        """Returns ||Phi W - Y||^2."""
        quadratic = ((self.gram @ weight_KD) * weight_KD).sum(dtype=torch.float64)
        mixed = (self.cross * weight_KD).sum(dtype=torch.float64)
        return max(0.0, float(quadratic - 2 * mixed) + self.power)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """A fitted map and how it did on held-out tokens.

    Args:
        weight: The map, (k, d).
        error: ||Phi W - Y||^2 on held-out tokens.
        ridge: The ridge chosen; None where the prior was not beaten.
    """

    weight: torch.Tensor
    error: float
    ridge: float | None


def fit(
    train: Moments,
    held_out: Moments,
    prior_KD: torch.Tensor,
    ridges: tuple[float, ...] = RIDGES,
) -> Fit:
    """Returns the ridge fit around a prior that does best on held-out tokens.

    W = W0 + argmin_D ||Phi (W0 + D) - Y||^2 + ridge * mean(diag Phi'Phi) * ||D||^2. The prior
    itself is a candidate, so the result is never worse than it on the held-out tokens.

    Args:
        train: Moments of the tokens that are fitted.
        held_out: Moments of the tokens that choose the ridge.
        prior_KD: Map to start from, (k, d).
        ridges: Ridges tried, as shares of the mean feature power.

    Example:
        >>> moments = Moments(1, 1)
        >>> moments.add(torch.ones(4, 1), 2 * torch.ones(4, 1))
        >>> round(fit(moments, moments, torch.zeros(1, 1), (1e-6,)).weight.item(), 3)
        2.0
    """
    prior_KD = prior_KD.float()
    best = Fit(weight=prior_KD, error=held_out.error(prior_KD), ridge=None)
    target = train.cross - train.gram @ prior_KD
    scale = float(train.gram.diagonal().mean())
    if scale <= 0.0:
        return best
    identity = torch.eye(train.gram.shape[0])
    for ridge in ridges:
        factor, failed = torch.linalg.cholesky_ex(train.gram + ridge * scale * identity)
        if failed:
            continue
        weight = prior_KD + torch.cholesky_solve(target, factor)
        error = held_out.error(weight)
        if error < best.error:
            best = Fit(weight=weight, error=error, ridge=ridge)
    return best
