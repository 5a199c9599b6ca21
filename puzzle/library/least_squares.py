"""The closed-form fit of a last linear map.

With Phi the activations entering the map (T x k) and Y what it should return (T x d), all that
a ridge fit around a prior needs is Phi'Phi and Phi'Y. They are summed over batches once, and
serve every prior, every subset of columns and every ridge; the ridge is chosen on tokens that
were not summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from puzzle.library.settings import RIDGES

# Below this many features one product is faster than the triangle in pieces.
TRIANGLE, PIECES = 1024, 4


class Moments:
    """Sums of Phi'Phi (k x k) and Phi'Y (k x d), in float32.

    Args:
        features: k.
        outputs: d.
        device: Where the sums are kept.
    """

    def __init__(self, features: int, outputs: int, device: torch.device | str = "cpu") -> None:
        self._lower = torch.zeros(features, features, device=device)
        self.cross = torch.zeros(features, outputs, device=device)
        self.tokens = 0

    def add(self, phi_TK: torch.Tensor, y_TD: torch.Tensor | None) -> None:
        """Adds a batch of T tokens; without targets where `returned_by` follows."""
        phi_TK = phi_TK.float()
        self.tokens += len(phi_TK)
        if y_TD is not None:
            self.cross.addmm_(phi_TK.T, y_TD.float())
        width = phi_TK.shape[1]
        if width < TRIANGLE:
            self._lower.addmm_(phi_TK.T, phi_TK)
            return
        step = -(-width // PIECES)
        for start in range(0, width, step):
            end = min(start + step, width)
            self._lower[start:end, :end].addmm_(phi_TK[:, start:end].T, phi_TK[:, :end])

    @property
    def gram(self) -> torch.Tensor:
        """Phi'Phi, both triangles; in the memory of the sums, so change it only to restore it."""
        gram, size = self._lower, len(self._lower)
        step = max(1, -(-size // PIECES))
        for start in range(0, size, step):
            at, below = slice(start, start + step), slice(start + step, size)
            corner = gram[at, at].tril()
            gram[at, at] = corner + corner.tril(-1).T
            gram[at, below] = gram[below, at].T
        return gram

    def returned_by(self, weight_KD: torch.Tensor) -> None:
        """Makes Phi'Y that of the targets Y = Phi W, which fewer products give than the tokens."""
        torch.mm(self.gram, weight_KD, out=self.cross)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Frees the device's memory of Phi'Phi meanwhile; it is in the host's."""
        device = self._lower.device
        if device.type != "cpu":
            self._lower = self._lower.cpu()
        yield
        self._lower = self._lower.to(device)

    def columns(self, kept: torch.Tensor) -> Moments:
        """Returns the moments of a subset of the features, in ascending order."""
        if len(kept) == len(self._lower):
            return self  # a copy of the largest matrix would be expensive
        part = Moments(0, 0)
        part._lower, part.cross = self._lower[kept][:, kept], self.cross[kept]
        part.tokens = self.tokens
        return part

    def joined(self, held_out: HeldOut) -> Moments:
        """Returns the moments of these tokens and of those that were held out."""
        whole = Moments(0, 0)
        whole._lower, whole.cross = self._lower.clone(), self.cross.clone()
        whole.tokens = self.tokens
        for phi, target in zip(held_out.phi, held_out.target, strict=True):
            whole.add(phi, target)
        return whole


class HeldOut:
    """Features and targets of the tokens that choose between fits."""

    def __init__(self) -> None:
        self.phi: list[torch.Tensor] = []
        self.target: list[torch.Tensor] = []

    def add(self, phi_TK: torch.Tensor, y_TD: torch.Tensor) -> None:
        """Adds a batch of T tokens."""
        self.phi.append(phi_TK)
        self.target.append(y_TD)

    def columns(self, kept: torch.Tensor) -> HeldOut:
        """Returns the same tokens with a subset of the features."""
        part = HeldOut()
        part.phi, part.target = [phi[:, kept] for phi in self.phi], self.target
        return part

    def error(self, weight_KD: torch.Tensor) -> float:
        """Returns ||Phi W - Y||^2."""
        pairs = zip(self.phi, self.target, strict=True)
        return sum(float((phi.float() @ weight_KD - y).square().sum()) for phi, y in pairs)

    def power(self) -> float:
        """Returns ||Y||^2."""
        return sum(float(y.square().sum()) for y in self.target)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """A fitted map and its error on held-out tokens.

    Args:
        weight: The map, (k, d).
        judged: The map fitted without the held-out tokens.
        error: ||Phi W - Y||^2 on held-out tokens, of the map fitted without them.
        prior: The same of the map that the fit started from.
        ridge: The ridge chosen; None where the prior was not beaten.
    """

    weight: torch.Tensor
    judged: torch.Tensor
    error: float
    prior: float
    ridge: float | None


def fit(
    train: Moments,
    held_out: HeldOut,
    prior_KD: torch.Tensor,
    ridges: Sequence[float] = RIDGES,
    *,
    refit: bool = False,
) -> Fit:
    """Returns the ridge fit around a prior that does best on held-out tokens.

    W = W0 + argmin_D ||Phi (W0 + D) - Y||^2 + ridge * mean(diag Phi'Phi) * ||D||^2. The prior
    itself is a candidate, so the result is never worse than it on the held-out tokens.

    Args:
        train: Moments of the tokens that are fitted.
        held_out: The tokens that choose the ridge.
        prior_KD: Map to start from, (k, d).
        ridges: Ridges tried, as shares of the mean feature power: from the one in the middle
            towards the weaker or the stronger ones for as long as they do better.
        refit: Whether the map that is returned is fitted once more with the ridge that was
            chosen, to all tokens: for weights that nothing is chosen with any more.

    Example:
        >>> train, held_out = Moments(1, 1), HeldOut()
        >>> for tokens in (train, held_out):
        ...     tokens.add(torch.ones(4, 1), 2 * torch.ones(4, 1))
        >>> round(fit(train, held_out, torch.zeros(1, 1), (1e-6,)).weight.item(), 3)
        2.0
    """
    prior_KD = prior_KD.float()
    missed = held_out.error(prior_KD)
    best = Fit(weight=prior_KD, judged=prior_KD, error=missed, prior=missed, ridge=None)
    gram = train.gram
    target = train.cross - gram @ prior_KD
    scale = float(gram.diagonal().mean()) if len(gram) else 0.0
    if not scale > 0.0:
        return best
    power = gram.diagonal().clone()

    def better(ridge: float, than: float) -> float | None:
        """Keeps the map of a ridge if it is the best; returns its error if below another one."""
        nonlocal best
        gram.diagonal().copy_(power + ridge * scale)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            return None
        weight = torch.cholesky_solve(target, factor).add_(prior_KD)
        del factor  # before the next one is made
        error = held_out.error(weight)
        if error < best.error:
            best = replace(best, weight=weight, judged=weight, error=error, ridge=ridge)
        return error if error < than else None

    _descend(sorted(ridges), better)
    gram.diagonal().copy_(power)
    if refit and best.ridge is not None:
        return replace(best, weight=_refitted(train.joined(held_out), prior_KD, best))
    return best


def _descend(ridges: Sequence[float], better: Callable[[float, float], float | None]) -> None:
    """Tries neighbours of the middle one for as long as they do better: weaker, else stronger."""
    middle = len(ridges) // 2
    first = better(ridges[middle], math.inf)
    for side in (ridges[:middle][::-1], ridges[middle + 1 :]):
        last, tried = math.inf if first is None else first, 0
        for ridge in side:
            error = better(ridge, last)
            if error is None:
                break
            last, tried = error, tried + 1
        if tried:
            return


def _refitted(whole: Moments, prior_KD: torch.Tensor, best: Fit) -> torch.Tensor:
    """Returns the map fitted to all tokens, or the best as it is if that cannot be solved."""
    gram = whole.gram
    target = whole.cross - gram @ prior_KD
    power = gram.diagonal()
    power.add_((best.ridge or 0.0) * float(power.mean()))
    factor, failed = torch.linalg.cholesky_ex(gram)
    return best.weight if failed else torch.cholesky_solve(target, factor).add_(prior_KD)
