"""Opening a run: workspace, device, number formats, parent and text, checked before any work."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

from puzzle.costs.by_name import torch_device
from puzzle.errors import ConstraintError, WorkspaceError
from puzzle.executors.executor import Executor
from puzzle.hardware.precision import Formats, Precision
from puzzle.hardware.threads import limit_threads
from puzzle.limits.scenario import Workload
from puzzle.models.parent import Parent, open_parent
from puzzle.pipeline.format_choice import choose_formats
from puzzle.stages import Run
from puzzle.storage.disk import matching, require_free
from puzzle.storage.run_directory import current_run_directory
from puzzle.storage.workspace import Workspace
from puzzle.text.data_config import DataConfig
from puzzle.text.given_text import check_source
from puzzle.text.positions import require_positions
from puzzle.text.text_mix import TextMix
from puzzle.text.windows import windows
from search_space import Layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run is opened from.

    Args:
        parent: As for `puzzle.search`.
        text: As for `puzzle.search`; None for stages that read none.
        workload: The scenarios.
        hardware: The hardware that costs describe.
        tokenizer: Tokenizer; by default the one beside the parent.
        device: Where the parent works; by default the hardware, where that is a device of torch,
            else a GPU if torch has one.
        precision: As for `puzzle.search`.
        data: How much text is used.
        shorten: Whether shorter text is used as far as it goes.
    """

    parent: Any
    text: Any
    workload: Workload
    hardware: Any = "cpu"
    tokenizer: Any = None
    device: str | None = None
    precision: Precision | str = "auto"
    data: DataConfig
    shorten: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run, and what was decided when it was opened.

    Args:
        run: The run.
        workload: The scenarios, in the number format that is served.
        formats: What is worked in, served and stored, and why.
    """

    run: Run
    workload: Workload
    formats: Formats


def working_device(device: str | None, hardware: Any) -> str:
    """Returns where the parent works: as given, else the hardware, else a GPU if there is one.

    Args:
        device: As for `puzzle.search`.
        hardware: As for `puzzle.search`.
    """
    return device or torch_device(hardware) or ("cuda" if torch.cuda.is_available() else "cpu")


def open_run(
    inputs: Inputs,
    workspace: Workspace,
    *,
    executor: Executor | None = None,
    solver: str = "highs",
    seed: int = 0,
) -> Opened:
    """Opens parent and text as every stage uses them.

    Args:
        inputs: What to open.
        workspace: Where results are stored.
        executor: As for `Run`.
        solver: As for `Run`.
        seed: As for `Run`.

    Raises:
        PuzzleError: The parent, the text or the device is unsuitable, or the disk is too small.
    """
    mix = inputs.text if isinstance(inputs.text, TextMix) else None
    for text in mix.texts.values() if mix else [inputs.text]:
        check_source(text)
    limit_threads()
    device = working_device(inputs.device, inputs.hardware)
    parent = open_parent(
        inputs.parent,
        workspace=workspace,
        tokenizer=inputs.tokenizer,
        dtype=Precision.of(inputs.precision).working,
        device=device,
    )
    _require_positions(inputs, parent)
    formats = choose_formats(inputs.precision, inputs.workload, inputs.hardware, parent, workspace)
    logger.info("%s", formats)
    cut = None
    if mix is not None:
        cut = mix.windows(parent.tokenizer, inputs.data, vocab=parent.shape.vocab)
    elif inputs.text is not None:
        cut = windows(
            inputs.text,
            parent.tokenizer,
            inputs.data,
            vocab=parent.shape.vocab,
            shorten=inputs.shorten,
        )
    weights = Layout.parent(parent.shape).parameters() * parent.dtype.itemsize
    require_free(workspace.root, 2 * weights)
    run = Run(
        workspace=workspace,
        parent=parent,
        windows=cut,
        executor=executor,
        solver=solver,
        seed=seed,
    )
    workload = inputs.workload.served_in(formats.served.name)
    return Opened(run=run, workload=workload, formats=formats)


def _require_positions(inputs: Inputs, parent: Parent) -> None:
    """Raises PuzzleError if a window or a scenario is longer than what the parent can read."""
    if inputs.text is not None:
        require_positions(
            inputs.data.window, parent.config, "windows", remedy="lower window= of DataConfig"
        )
    for name, scenario in inputs.workload.scenarios.items():
        require_positions(
            scenario.prompt_tokens + scenario.generated_tokens,
            parent.config,
            f"scenario {name!r}: prompts and replies",
            remedy="lower prompt_tokens or generated_tokens, or give a parent whose config has "
            "its positions scaled",
            error=ConstraintError,
        )


def open_workspace(out: str | os.PathLike[str], *, resume: bool = True) -> Workspace:
    """Opens a run directory, and deletes what killed processes left in it.

    Args:
        out: The directory; if its format is another, it is left alone and one beside it is opened.
        resume: Whether it may hold results of an earlier run.

    Raises:
        WorkspaceError: It cannot be written, or holds results that are not to be used.
    """
    workspace = Workspace(current_run_directory(out))
    if not resume and any(matching(workspace.root, "*/*/manifest.json")):
        raise WorkspaceError(
            f"{workspace.root} holds results of an earlier run; resume it (--resume) or choose "
            "another run directory (--out)"
        )
    workspace.clean()
    return workspace
