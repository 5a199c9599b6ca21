"""Which features of a linear map to keep, at every size at once: second-order elimination.

With W the map (k x d) and H = Phi'Phi, damped, the curvature of its squared error, leaving out one
group of features g and adjusting all others costs tr(W_g' (H^-1)_gg^-1 W_g). The cheapest goes
first, the others are adjusted, and so on (the optimal brain surgeon, Hassibi and Stork 1993; for
layers of language models ZipLM, arXiv:2302.04089, and OSSCAR, arXiv:2403.12983).

Only M = H^-1 and S = W W' are needed. Removing g changes them by matrices of low rank, which are
collected for a block of features and applied together:

    U += M_:g L,  Z += L' W_g  with L L' = (M_gg)^-1;  M = M0 - U U',  W = W0 - U Z
"""

from __future__ import annotations

import torch

# Features whose removal is collected before the matrices are brought up to date.
BLOCK = 64
# Rows that are moved together.
CHUNK = 512
# What is added to the power of each feature: a share of it, and one of the mean of all.
DAMPING, FLOOR = 0.1, 1e-6


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
    state = _State(curvature, weight, residual, size)
    alive = torch.arange(groups, device=state.inverse.device)
    removed: list[int] = []
    while len(removed) < groups - least:
        count = min(max(1, BLOCK // size), groups - least - len(removed))
        gone = state.remove(len(alive), count)
        removed += alive[gone].tolist()
        kept = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        kept[gone] = False
        alive = alive[kept]
        state.shrink(kept)
    return torch.cat([alive.cpu(), torch.tensor(removed[::-1], dtype=torch.long)])


class _State:
    """M and S of the features that are left."""

    def __init__(
        self,
        curvature: torch.Tensor,
        weight: torch.Tensor,
        residual: torch.Tensor | None,
        size: int,
    ) -> None:
        # In place, column by column as LAPACK wants it: of the largest matrix there is no copy.
        self.inverse = torch.linalg.cholesky(curvature.T, out=curvature.T)
        torch.cholesky_inverse(self.inverse, out=self.inverse)
        rows = weight.to(curvature)
        if residual is not None:
            rows = rows + self.inverse @ residual.to(curvature)
        self.outer, self.size = rows @ rows.T, size

    def remove(self, groups: int, count: int) -> torch.Tensor:
        """Removes some of the first groups, the cheapest each time, and returns their numbers."""
        size, features = self.size, len(self.inverse)
        shape = (features, count * size)
        u, y = self.inverse.new_zeros(shape), self.inverse.new_zeros(shape)
        zz = self.inverse.new_zeros(count * size, count * size)
        own, outer = (_diagonal_blocks(m, groups, size) for m in (self.inverse, self.outer))
        cost = self._cost(own, outer)
        gone = []
        for number in range(count):
            group = int(cost.argmin())
            gone.append(group)
            at = slice(group * size, (group + 1) * size)
            done, now = slice(0, number * size), slice(number * size, (number + 1) * size)
            column = self.inverse[:, at] - u[:, done] @ u[at, done].T
            # What W W_g' is in terms of the matrices from before the block, and of U and Z.
            cross = self.outer[:, at] - y[:, done] @ u[at, done].T
            root = _inverse_root(column[at])
            inner = y[at, done] - u[at, done] @ zz[done, done]
            u[:, now] = column @ root
            y[:, now] = cross @ root
            zz[now, done] = root.T @ inner
            zz[done, now] = zz[now, done].T
            zz[now, now] = root.T @ (cross[at] - u[at, done] @ inner.T) @ root
            change = y[:, now] - u[:, done] @ zz[done, now]
            own, outer = self._updated(own, outer, u[:, now], change, zz[now, now])
            cost = self._cost(own, outer)
            cost[gone] = torch.inf
        self.inverse.addmm_(u, u.T, alpha=-1.0)
        half = y - 0.5 * u @ zz
        self.outer.addmm_(half, u.T, alpha=-1.0).addmm_(u, half.T, alpha=-1.0)
        return torch.tensor(gone, device=cost.device)

    def shrink(self, kept: torch.Tensor) -> None:
        """Leaves out the features of groups that were removed."""
        features = torch.ones(len(self.inverse), dtype=torch.bool, device=kept.device)
        features[: len(kept) * self.size] = kept.repeat_interleave(self.size)
        rows = features.nonzero()[:, 0]
        self.inverse, self.outer = _compacted(self.inverse, rows), _compacted(self.outer, rows)

    def _updated(
        self,
        own: torch.Tensor,
        outer: torch.Tensor,
        u: torch.Tensor,
        change: torch.Tensor,
        zz: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the diagonal blocks after one removal."""
        shape = (len(own), self.size, self.size)
        u, change = (m[: len(own) * self.size].view(shape) for m in (u, change))
        mixed = change @ u.mT
        return own - u @ u.mT, outer - mixed - mixed.mT + u @ zz @ u.mT

    def _cost(self, own: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
        """Returns what leaving out each group costs, (groups,)."""
        if self.size == 1:
            return (outer / own.clamp_min(torch.finfo(own.dtype).tiny))[:, 0, 0]
        # Blocks of groups that are gone are zero but for rounding, and cannot be divided by.
        factor, failed = torch.linalg.cholesky_ex(own)
        factor[failed > 0] = torch.eye(self.size, dtype=own.dtype, device=own.device)
        return torch.cholesky_solve(outer, factor).diagonal(dim1=1, dim2=2).sum(1)


def _diagonal_blocks(matrix: torch.Tensor, groups: int, size: int) -> torch.Tensor:
    """Returns the blocks on the diagonal, (groups, size, size)."""
    square = matrix[: groups * size, : groups * size].view(groups, size, groups, size)
    return square.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def _inverse_root(block: torch.Tensor) -> torch.Tensor:
    """Returns L with L L' = block^-1."""
    if len(block) == 1:
        return block.clamp_min(torch.finfo(block.dtype).tiny).rsqrt()
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(block)))


def _compacted(matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Returns matrix[rows][:, rows], rows ascending, in the memory of the square matrix."""
    by_columns, kept = matrix.stride(0) == 1 and len(matrix) > 1, len(rows)
    stored = matrix.T if by_columns else matrix
    flat = stored.reshape(-1)
    # What is written is always before what is still to be read.
    for start in range(0, kept, CHUNK):
        part = stored[rows[start : start + CHUNK]][:, rows]
        flat[start * kept : start * kept + part.numel()].copy_(part.reshape(-1))
    compact = flat[: kept * kept].view(kept, kept)
    if by_columns:
        _transpose(compact)
    return compact


def _transpose(matrix: torch.Tensor) -> None:
    """Transposes a square matrix in place."""
    starts = range(0, len(matrix), CHUNK)
    for i in starts:
        at = slice(i, i + CHUNK)
        matrix[at, at] = matrix[at, at].T.clone()
        for j in starts[starts.index(i) + 1 :]:
            to = slice(j, j + CHUNK)
            upper = matrix[at, to].clone()
            matrix[at, to] = matrix[to, at].T
            matrix[to, at] = upper.T
