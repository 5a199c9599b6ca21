"""Fisher scores: every block of every layer from a handful of backward passes.

For small changes KL(parent || child) is half the change's square in the Fisher metric of the
parent's next-token distribution p. With eps ~ N(0, I) the vector u = sqrt(p) eps - p (sqrt(p).eps)
has covariance diag(p) - p p', so one backward pass with u as the logits' cotangent gives, at every
layer boundary i, a sample g_i whose covariance is that metric. A block that changes the residual
stream by delta scores mean((sum of g_i . delta)^2) / 2, the sum being over a few neighbouring
positions. Summed over the whole window it would be unbiased and very noisy; alone, each position
leaves out what changes at two of them do together, which attention makes matter. What distant
positions do together is left out, so only at the last layer is the score unbiased.

It is an underestimate that grows with the change: see `puzzle.scoring.hybrid`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import nn
from tqdm.auto import tqdm

from puzzle.errors import DataError
from puzzle.library.build import Library
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.models.boundaries import Boundaries
from puzzle.scoring.reference import Reference
from puzzle.scoring.scores import Score, Scores, combine, stretch_means
from puzzle.storage.workspace import Artifact, Workspace
from puzzle.text.windows import Windows
from search_space import Layout, SearchSpace

KIND, SAMPLES = "fisher", "samples.json"
# Windows run together.
BATCH = 4
# Neighbouring positions whose changes are summed; docs/choosing.md compares.
TOGETHER = 8
Samples = list[dict[str, list[float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherConfig:
    """How many probes are drawn.

    Args:
        probes: Backward passes per round.
        rounds: Most rounds; each adds `probes` probes.
        stable: Rounds end when the rankings by two halves of the probes agree so well that the
            mean of both is expected to correlate this much with a mean over endless probes.
        seed: Seed of the probes.
    """

    probes: int = 4
    rounds: int = 2
    stable: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("probes", "rounds"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DataError(f"{name}={value!r}; allowed: integers of 1 or more")
        if not 0.0 < self.stable <= 1.0:
            raise DataError(f"stable={self.stable!r}; allowed: above 0, up to 1")


def fisher(
    library: Library,
    space: SearchSpace,
    windows: Windows,
    *,
    workspace: Workspace,
    config: FisherConfig | None = None,
) -> Scores:
    """Returns a Fisher score for every block of a space, with its standard error.

    The parent is streamed: a forward sweep stores the residual stream at all layer boundaries in
    memory-mapped files, a backward sweep recomputes one layer at a time. A round that is done is
    not done again.

    Args:
        library: The variants.
        space: Which blocks to score.
        windows: The text; only its score part is used.
        workspace: Where rounds are stored.
        config: How many probes.
    """
    config = config or FisherConfig()
    found: Samples = []
    for number in range(config.rounds):
        artifact = _round(library, space, windows, workspace, config, number)
        samples: Samples = artifact.load_json(SAMPLES)
        found = samples if not found else _joined(found, samples)
        if reliability(found) >= config.stable:
            break
    rows = ({label: _score(means) for label, means in row.items()} for row in found)
    return Scores(tuple(rows))


def _score(means: list[float]) -> Score:
    kl, error = combine(means)
    return Score(kl=kl, error=error, method="fisher")


def _joined(one: Samples, two: Samples) -> Samples:
    pairs = zip(one, two, strict=True)
    return [{label: a[label] + b[label] for label in a} for a, b in pairs]


def reliability(samples: Samples) -> float:
    """Returns the expected rank correlation of scores with those of endless probes.

    The Spearman correlation r of the scores by the odd and by the even probes is that of two
    halves; Spearman and Brown's formula gives sqrt(2 r / (1 + r)) for their mean against the
    truth. Observations alternate between the halves.
    """
    halves = [
        [sum(means[half::2]) for row in samples for means in row.values() if any(means)]
        for half in (0, 1)
    ]
    if len(halves[0]) < 3:
        return 1.0
    r = float(spearmanr(*halves).statistic)
    return (max(0.0, 2 * r / (1 + r))) ** 0.5


def _round(
    library: Library,
    space: SearchSpace,
    windows: Windows,
    workspace: Workspace,
    config: FisherConfig,
    number: int,
) -> Artifact:
    layers = range(space.shape.layers)
    spec = {
        "library": [artifact.key for artifact in library.layers],
        "blocks": [[block.label for block in space.blocks(layer)] for layer in layers],
        "score": windows.hash("score"),
        "probes": config.probes,
        "together": TOGETHER,
        "seed": config.seed,
        "round": number,
    }

    def build(directory: Path) -> None:
        with workspace.scratch() as scratch:
            sweep = Sweep(library, windows.score, scratch, config.probes)
            sweep.forward()
            sweep.probe(config.seed * 1_000_003 + number)
            samples = sweep.backward(space)
        (directory / SAMPLES).write_text(json.dumps(samples), encoding="utf-8")

    return workspace.get_or_build(KIND, spec, build)


def second_order(a_KBL: torch.Tensor) -> torch.Tensor:
    """Returns (sum of a)^2 / 2 over groups of `TOGETHER` positions, evenly shared among them.

    Args:
        a_KBL: g . delta per probe, window and position.
    """
    length = a_KBL.shape[-1]
    padded = nn.functional.pad(a_KBL, (0, -length % TOGETHER))
    sums = padded.unflatten(-1, (-1, TOGETHER)).sum(-1)
    sizes = torch.full((sums.shape[-1],), float(TOGETHER), device=sums.device)
    sizes[-1] -= -length % TOGETHER
    return (sums.square() / (2 * sizes)).repeat_interleave(TOGETHER, -1)[..., :length]


class Sweep:
    """A forward and a backward sweep over the parent, or over a child of the library.

    Args:
        library: The variants.
        tokens_BL: Score windows.
        directory: Where boundaries are kept.
        probes: Probes drawn, K.
        layout: The model that is swept; the parent if not given.
        reference: The parent's outputs on the windows; with them the gradient of
            KL(parent || swept model) takes one more place, the last, after the probes.
    """

    def __init__(
        self,
        library: Library,
        tokens_BL: torch.Tensor,
        directory: Path,
        probes: int,
        *,
        layout: Layout | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.library, self.parent = library, library.parent
        self.tokens, self.probes, self.reference = tokens_BL, probes, reference
        self.layout = layout or Layout.parent(self.parent.shape)
        self.cotangents = probes + (reference is not None)
        shape = (*tokens_BL.shape, self.parent.shape.hidden)
        folders = [directory / name for name in ("x", "g")]
        self.x = Boundaries(folders[0], shape, self.parent.dtype)
        self.g = Boundaries(folders[1], (self.cotangents, *shape), self.parent.dtype)

    def _layer(self, index: int) -> nn.Module:
        parent, block = self.parent, self.layout.blocks[index]
        if block == parent.shape.parent_block:
            return parent.layer(index)
        return self.library.variants(index).layer_module(block)

    def _batches(self) -> list[slice]:
        starts = range(0, len(self.tokens), BATCH)
        return [slice(start, start + BATCH) for start in starts]

    @torch.no_grad()
    def forward(self) -> None:
        """Stores the residual stream at every layer boundary."""
        parent, depth = self.parent, self.parent.shape.layers
        self.x[0].copy_(parent.embed(self.tokens))
        for index in tqdm(range(depth), desc="fisher, forward", unit="layer"):
            layer, below, above = self._layer(index), self.x[index], self.x[index + 1]
            for rows in self._batches():
                above[rows] = parent.run(layer, below[rows].to(parent.device)).cpu()

    def probe(self, seed: int) -> None:
        """Draws the probes and stores their gradients at the last boundary."""
        depth, device = self.parent.shape.layers, self.parent.device
        head, generator = self.parent.head(), torch.Generator().manual_seed(seed)
        x, g = self.x[depth], self.g[depth]
        for row in tqdm(range(len(self.tokens)), desc="fisher, probes", unit="window"):
            x_LD = x[row].to(device, copy=True).requires_grad_(True)
            logits = head(x_LD).float()
            p = torch.softmax(logits.detach(), -1)
            root = p.sqrt()
            for k in range(self.cotangents):
                if k < self.probes:
                    eps = torch.randn(p.shape, generator=generator).to(device)
                    u = root * eps - p * (root * eps).sum(-1, keepdim=True)
                else:
                    u = p - self._parents(row)
                keep = k + 1 < self.cotangents
                (found,) = torch.autograd.grad(logits, x_LD, u, retain_graph=keep)
                g[k, row] = found.cpu()

    def _parents(self, row: int) -> torch.Tensor:
        assert self.reference is not None
        return self.reference.distribution(row)

    def backward(self, space: SearchSpace) -> Samples:
        """Returns, per layer and block, one observation per probe and stretch of text."""
        samples: Samples = [{block.label: [0.0]} for block in self.layout.blocks]
        for index, label, a_KBL in self.changes(space):
            # Probes innermost, so that every other observation is another probe's.
            columns = [stretch_means(one) for one in second_order(a_KBL)]
            found = samples[index].setdefault(label, [])
            found += [v for row in zip(*columns, strict=True) for v in row]
        return samples

    def changes(self, space: SearchSpace) -> Iterator[tuple[int, str, torch.Tensor]]:
        """Yields (layer, block label, g.delta) from the top down, one batch of windows at a time.

        g.delta is per cotangent, window and position; the swept model's own blocks change nothing
        and are left out.
        """
        depth, device = self.parent.shape.layers, self.parent.device
        for index in tqdm(reversed(range(depth)), desc="fisher", unit="layer", total=depth):
            layer, own = self._layer(index), self.layout.blocks[index]
            outputs = LayerOutputs(self.library.variants(index))
            others = [block for block in space.blocks(index) if block != own]
            x, above, below = self.x[index], self.g[index + 1], self.g[index]
            for rows in self._batches():
                x_BLD, g_KBLD = x[rows].to(device), above[:, rows].to(device)
                y = self._through(layer, x_BLD, g_KBLD, below[:, rows]).float()
                with torch.no_grad():
                    for block, out in outputs(others, x_BLD):
                        delta = out.float() - y
                        yield (
                            index,
                            block.label,
                            torch.einsum("kbld,bld->kbl", g_KBLD.float(), delta),
                        )
            self.g.drop(index + 1)

    def _through(
        self,
        layer: nn.Module,
        x_BLD: torch.Tensor,
        g_KBLD: torch.Tensor,
        out_KBLD: torch.Tensor,
    ) -> torch.Tensor:
        """Takes the gradients below a layer; returns the layer's output."""
        x_BLD = x_BLD.clone().requires_grad_(True)
        y = self.parent.run(layer, x_BLD)
        for k in range(self.cotangents):
            keep = k + 1 < self.cotangents
            (found,) = torch.autograd.grad(y, x_BLD, g_KBLD[k], retain_graph=keep)
            out_KBLD[k] = found.cpu()
        return y.detach()
