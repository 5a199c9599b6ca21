"""build_library(): one forward sweep over the parent, one artifact per layer."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from puzzle.figures.svg import heat
from puzzle.library.bld import LayerDistill
from puzzle.library.error_map import error_map
from puzzle.library.layer_fit import LayerFit
from puzzle.library.local_error import LocalError
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Streams
from puzzle.library.sweep import Sweep
from puzzle.library.variants import TENSORS, Variants
from puzzle.models.parent import Parent
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Artifact, Workspace
from puzzle.text.windows import Windows
from search_space import Block, Layout, SearchSpace

if TYPE_CHECKING:
    import pandas

KIND, DISTILLED, ERRORS = "library-layer", "library-distilled", "errors.json"
# Part of every layer's name: raise it when a change of the code changes the weights.
METHOD = 2
logger = logging.getLogger(__name__)
Rows = Sequence[tuple[Block, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Library:
    """The variants of every layer, on disk.

    Args:
        parent: The parent they replace parts of.
        layers: One artifact per layer.
    """

    parent: Parent
    layers: tuple[Artifact, ...]

    def errors(self, layer: int) -> dict[str, LocalError]:
        """Returns the held-out local errors of a layer's variants, by name."""
        return LocalError.read(self.layers[layer].load_json(ERRORS))

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns the local errors as a pandas DataFrame, one row per layer and variant."""
        import pandas

        return pandas.DataFrame(
            {"layer": layer, "variant": name, **error.to_dict(), "value": error.value}
            for layer in range(len(self.layers))
            for name, error in self.errors(layer).items()
        )

    def __repr__(self) -> str:
        return f"Library({self.parent!r}, {len(self.layers)} layers)"

    def _repr_html_(self) -> str:
        """The local errors as a heat map."""
        errors = error_map(map(self.errors, range(len(self.layers))))
        return f"<p>{html.escape(repr(self))}</p>{heat(errors, title='Local errors')}"

    def variants(self, layer: int) -> Variants:
        """Returns the weights of a layer's blocks."""
        return Variants(self.parent, layer, self.layers[layer])

    def child_tensors(self, layout: Layout) -> dict[str, torch.Tensor]:
        """Returns the whole state dict of a layout's child.

        Raises:
            PuzzleError: The library does not have one of the blocks.
        """
        found = self.parent.outer_tensors()
        for layer, block in enumerate(layout.blocks):
            prefix = self.parent.family.layer_prefix.format(layer)
            for name, tensor in self.variants(layer).block_tensors(block).items():
                found[prefix + name] = tensor
        return found


def build_library(
    parent: Parent,
    space: SearchSpace | Layout,
    windows: Windows,
    *,
    workspace: Workspace,
    config: LibraryConfig | None = None,
    around: Layout | None = None,
) -> Library:
    """Returns the library of a space, built in one sweep over the parent's layers.

    Finished layers are found by the hash of all they depend on and not built again. Memory
    holds one layer and one batch; the activations of one layer are in memory-mapped files, so
    that neither grows with depth.

    Args:
        parent: The parent.
        space: The alternatives of each layer; of a layout, its blocks alone.
        windows: The text; only its fit part is used.
        workspace: Where the layers are stored.
        config: How variants are fitted and distilled.
        around: A layout of the space whose child's activations enter each layer's variants, which
            then make up for what the layers below lost: a second round. By default the parent's.

    Raises:
        ParentError: A layer's activations are not finite in the parent's number format.
    """
    if isinstance(space, Layout):
        rows: Rows = [(block,) for block in space.blocks]
    else:
        rows = [space.blocks(layer) for layer in range(parent.shape.layers)]
    return _build(parent, rows, windows, workspace, config or LibraryConfig(), around)


def heal(
    parent: Parent,
    layout: Layout,
    windows: Windows,
    *,
    workspace: Workspace,
    config: LibraryConfig | None = None,
) -> Library:
    """Returns a library of one layout, each block fitted to the stream that its child feeds it.

    One sweep from the first layer to the last: every last map, also that of a block like the
    parent's, is refitted to bring the residual stream back to the parent's.

    Args:
        parent: The parent.
        layout: The layout.
        windows: The text; only its fit part is used.
        workspace: Where the layers are stored.
        config: How the blocks are fitted and distilled.
    """
    return build_library(parent, layout, windows, workspace=workspace, config=config, around=layout)


@torch.no_grad()
def _build(
    parent: Parent,
    rows: Rows,
    windows: Windows,
    workspace: Workspace,
    config: LibraryConfig,
    around: Layout | None,
) -> Library:
    fits, finals = _artifacts(parent, rows, windows, workspace, config, around)
    if all(artifact.sound() for artifact in finals):
        return Library(parent=parent, layers=finals)
    _warn_of_little_text(parent, windows, config)
    with workspace.scratch() as scratch:
        sweep = Sweep(parent, windows.fit, scratch, config.held_out, child=around is not None)
        for index in tqdm(range(parent.shape.layers), desc="library", unit="layer"):
            layer, streams = sweep.enter(index)
            job = LayerFit(parent, layer, streams, config)
            workspace.get_or_build(KIND, fits[index].spec, partial(_fit, job, rows[index]))
            if config.bld is not None:
                variants = Variants(parent, index, fits[index])
                lessons = LayerDistill(variants, streams, config.bld)
                build = partial(_distill, lessons, rows[index], fits[index])
                workspace.get_or_build(DISTILLED, finals[index].spec, build)
            block = None if around is None else around.blocks[index]
            sweep.leave(index, Variants(parent, index, finals[index]), block)
    return Library(parent=parent, layers=finals)


def _artifacts(
    parent: Parent,
    rows: Rows,
    windows: Windows,
    workspace: Workspace,
    config: LibraryConfig,
    around: Layout | None,
) -> tuple[tuple[Artifact, ...], tuple[Artifact, ...]]:
    """Returns the closed-form artifact of each layer, and the final one, which may be the same."""
    fits: list[Artifact] = []
    finals: list[Artifact] = []
    text = windows.hash("fit")
    for index, row in enumerate(rows):
        spec: dict[str, Any] = {
            "method": METHOD,
            "parent": parent.identity,
            "layer": index,
            "blocks": [block.label for block in row],
            "fit": text,
            "config": config.fit_spec(),
        }
        if around is not None:
            below = finals[-1].key if finals else ""
            spec["child"] = {"block": around.blocks[index].label, "below": below}
        fits.append(workspace.artifact(KIND, spec))
        finals.append(fits[-1])
        if config.bld is not None:
            lessons = {"fit": fits[-1].key, "bld": asdict(config.bld)}
            finals[-1] = workspace.artifact(DISTILLED, lessons)
    return tuple(fits), tuple(finals)


def _fit(job: LayerFit, blocks: tuple[Block, ...], directory: Path) -> None:
    job.build(blocks)
    _write(directory, job.tensors, job.errors)


def _distill(
    lessons: LayerDistill, blocks: tuple[Block, ...], fitted: Artifact, directory: Path
) -> None:
    _write(directory, *lessons.train(blocks, LocalError.read(fitted.load_json(ERRORS))))


def _write(
    directory: Path, tensors: dict[str, torch.Tensor], errors: dict[str, LocalError]
) -> None:
    save_tensors(directory / TENSORS, tensors)
    text = json.dumps({name: error.to_dict() for name, error in errors.items()}, indent=1)
    (directory / ERRORS).write_text(text, encoding="utf-8")


def _warn_of_little_text(parent: Parent, windows: Windows, config: LibraryConfig) -> None:
    count, length = windows.fit.shape
    tokens = Streams.split(count, config.held_out) * length
    widest = max(parent.shape.ffn_width, parent.shape.heads * parent.shape.head_dim)
    if tokens < widest:
        logger.warning(
            "%d tokens are fitted and the widest map has %d inputs: fits stay near the parent's "
            "weights; more text (fit_tokens) makes better variants",
            tokens,
            widest,
        )
