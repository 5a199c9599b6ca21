"""Which features of a linear map to keep, at every size at once: second-order elimination.

With W the map (k x d) and H = Phi'Phi, damped, the curvature of its squared error, leaving out one
group of features g and adjusting all others costs tr(W_g' (H^-1)_gg^-1 W_g). The cheapest goes
first, the others are adjusted, and so on (the optimal brain surgeon, Hassibi and Stork 1993; for
layers of language models ZipLM, arXiv:2302.04089, and OSSCAR, arXiv:2403.12983).

Only M = H^-1 and S = W W' are needed. Removing features G one after the other changes them by

    M = M0 - U U',  W = W0 - U Z  with  U = M0_:G L'^-1,  Z = L^-1 W0_G,  L L' = M0_GG

Single features are removed in blocks. Which of them go is found among those that are cheapest
before the block, in a matrix of these alone; what all others would have cost before each of the
removals follows from U and Z, and the block ends where one of them would have been cheaper.
"""

from __future__ import annotations

import torch

# Features removed before the matrices are brought up to date, and those they are chosen from.
BLOCK, CANDIDATES = 64, 128
# Rows that are converted together.
CHUNK = 512
# What is added to the power of each feature: a share of it, and one of the mean of all.
DAMPING, FLOOR = 0.1, 1e-6
_TINY = torch.finfo(torch.float32).tiny


def damped(gram: torch.Tensor) -> torch.Tensor:
    """Returns Phi'Phi in float64, made safe to invert: fewer tokens than features are enough."""
    # Metal has no float64; in float32 small differences between large sums would be lost.
    device = torch.device("cpu") if gram.device.type == "mps" else gram.device
    curvature = gram.to(device, torch.float64, copy=True)
    power = curvature.diagonal()
    power.add_(DAMPING * power + FLOOR * (float(power.mean()) or 1.0))
    return curvature


def elimination_order(
    curvature: torch.Tensor,
    weight: torch.Tensor,
    residual: torch.Tensor | None = None,
    *,
    size: int = 1,
    fixed: int = 0,
    least: int = 0,
) -> torch.Tensor:
    """Returns groups of features from the most to the least worth keeping.

    Any number of the first ones is a choice, so that the choices of all sizes are nested.

    Args:
        curvature: Phi'Phi of the features that enter the map, `damped`, (k, k) in float64; its
            memory is used, so that it holds other numbers afterwards.
        weight: The map, (k, d).
        residual: Phi'(Y - Phi W), (k, d), where the map does not return the targets Y: features
            are then left out of the map that does best with all of them.
        size: Features that are kept or left out together: neighbours, as the channels of a head.
        fixed: Features at the end that always stay, as the one of a bias.
        least: Groups that are never left out; they come first, in their own order.

    Example:
        >>> twins = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # the first two are the same
        >>> weight = torch.tensor([[1.0], [1.0], [0.9]])
        >>> elimination_order(damped(twins @ twins.T), weight).tolist()[1:] == [2, 0]
        False
    """
    groups = (len(curvature) - fixed) // size
    state = _State(curvature, weight, residual, size=size, groups=groups)
    removed: list[int] = []
    while len(removed) < groups - least:
        removed += state.remove(groups - least - len(removed))
    last_first = torch.tensor(removed[::-1], dtype=torch.long)
    return torch.cat([state.alive.sort().values.cpu(), last_first])


class _State:
    """M and S of the features that are left, in float32.

    Args:
        curvature: As above, as are weight, residual and size.
        groups: How many groups there are.
    """

    def __init__(
        self,
        curvature: torch.Tensor,
        weight: torch.Tensor,
        residual: torch.Tensor | None,
        *,
        size: int,
        groups: int,
    ) -> None:
        # In place, column by column as LAPACK wants it: of the largest matrix there is no copy.
        inverse = torch.linalg.cholesky(curvature.T, out=curvature.T)
        torch.cholesky_inverse(inverse, out=inverse)
        # The damping bounds how much of M is ever taken away, so that float32 is enough from here.
        self.inverse, self.outer = _halved(inverse.T)
        rows = weight.to(self.inverse)
        if residual is not None:
            rows = torch.addmm(rows, self.inverse, residual.to(rows))
        torch.mm(rows, rows.T, out=self.outer)
        self.size, self.alive = size, torch.arange(groups, device=rows.device)

    def remove(self, most: int) -> list[int]:
        """Removes up to so many groups, the cheapest each time, and returns their numbers."""
        taken, factor = self._singles(most) if self.size == 1 else self._group()
        u, y, zz = self._changes(taken, factor)
        half = torch.addmm(y, u, zz, alpha=-0.5)
        self.inverse.addmm_(u, u.T, alpha=-1.0)
        self.outer.addmm_(torch.cat([half, u], 1), torch.cat([u, half], 1).T, alpha=-1.0)
        groups = taken[:: self.size] // self.size
        removed: list[int] = self.alive[groups].tolist()
        self._close(groups)
        return removed

    def _changes(
        self, taken: torch.Tensor, factor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns U, W Z' and Z Z' of features that go."""
        u, y = (
            torch.linalg.solve_triangular(factor, matrix[:, taken].T, upper=False).T
            for matrix in (self.inverse, self.outer)
        )
        return u, y, torch.linalg.solve_triangular(factor, y[taken], upper=False)

    def _singles(self, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the features that go next, one after the other, and the L of their M."""
        cost = _cost(self.outer.diagonal(), self.inverse.diagonal())[: len(self.alive)]
        few = cost.argsort(stable=True)[:CANDIDATES].sort().values
        inverse, outer = (matrix[few][:, few] for matrix in (self.inverse, self.outer))
        own, power = inverse.diagonal(), outer.diagonal()
        gone: list[int] = []
        costs, columns = [], []
        for _ in range(min(BLOCK, most, len(few))):
            cost = _cost(power, own)
            cost[gone] = torch.inf
            at = int(cost.argmin())
            gone.append(at)
            costs.append(cost[at])
            root = own[at].clamp_min(_TINY).rsqrt()
            u, y = inverse[at] * root, outer[at] * root
            columns.append(u)
            half = y - u * (0.5 * root * y[at])
            inverse.addr_(u, u, alpha=-1.0)
            outer.addr_(u, half, alpha=-1.0).addr_(half, u, alpha=-1.0)
        factor = torch.stack(columns, 1)[gone].tril()
        others = torch.ones(len(self.alive), dtype=torch.bool, device=few.device)
        others[few] = False
        count = self._undercut(few[gone], factor, torch.stack(costs), others)
        return few[gone[:count]], factor[:count, :count]

    def _undercut(
        self, taken: torch.Tensor, factor: torch.Tensor, costs: torch.Tensor, others: torch.Tensor
    ) -> int:
        """Returns how many removals come before one that another feature is cheaper than."""
        rows = others.nonzero()[:, 0]
        if not len(rows):
            return len(taken)
        u, y, zz = self._changes(taken, factor)
        u, y = u[rows], y[rows]
        lost = u.square().cumsum(1)
        change = (u * (u @ (zz.triu(1) + zz.triu()) - 2.0 * y)).cumsum(1)
        own, power = (m.diagonal()[rows, None] for m in (self.inverse, self.outer))
        every = _cost(power + change, own - lost)
        # The first of all is the cheapest; the columns are what others cost after each removal.
        cheaper = (every[:, :-1].amin(0) < costs[1:]).nonzero()
        return int(cheaper[0, 0]) + 1 if len(cheaper) else len(taken)

    def _group(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the features of the cheapest group, and the L of their M."""
        matrices = (self.inverse, self.outer)
        own, outer = (_diagonal_blocks(m, len(self.alive), self.size) for m in matrices)
        factor, failed = torch.linalg.cholesky_ex(own)
        factor[failed > 0] = torch.eye(self.size, device=own.device)
        cost = torch.cholesky_solve(outer, factor).diagonal(dim1=1, dim2=2).sum(1)
        group = int(cost.argmin())
        taken = torch.arange(group * self.size, (group + 1) * self.size, device=own.device)
        return taken, factor[group]

    def _close(self, gone: torch.Tensor) -> None:
        """Moves the last groups, and the features that stay, to the places of groups that went."""
        groups, features = len(self.alive), len(self.inverse)
        left, kept = groups - len(gone), features - len(gone) * self.size
        stays = torch.ones(groups, dtype=torch.bool, device=gone.device)
        stays[gone] = False
        free = (~stays[:left]).nonzero()[:, 0]
        moved = left + stays[left:].nonzero()[:, 0]
        self.alive[free] = self.alive[moved]
        self.alive = self.alive[:left]
        within = torch.arange(self.size, device=gone.device)
        fixed = torch.arange(groups * self.size, features, device=gone.device)
        source = torch.cat([(moved[:, None] * self.size + within).flatten(), fixed])
        target = torch.cat(
            [(free[:, None] * self.size + within).flatten(), fixed - features + kept]
        )
        for matrix in (self.inverse, self.outer):
            matrix[target] = matrix[source]
            matrix[:, target] = matrix[:, source]
        self.inverse, self.outer = self.inverse[:kept, :kept], self.outer[:kept, :kept]


def _cost(power: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Returns what leaving out single features costs, from the diagonals of S and M."""
    return power / own.clamp_min(_TINY)


def _diagonal_blocks(matrix: torch.Tensor, groups: int, size: int) -> torch.Tensor:
    """Returns the blocks on the diagonal, (groups, size, size)."""
    square = matrix[: groups * size, : groups * size].unflatten(0, (groups, size))
    return (
        square.unflatten(2, (groups, size)).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    )


def _halved(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a float64 matrix as float32 in the first half of its memory, and the other half."""
    size = len(matrix)
    halves = matrix.view(-1).view(torch.float32).view(2, size, size)
    # What is written is always before what is still to be read.
    for start in range(0, size, CHUNK):
        rows = matrix[start : start + CHUNK].float()
        halves[0, start : start + CHUNK].copy_(rows)
    return halves[0], halves[1]
