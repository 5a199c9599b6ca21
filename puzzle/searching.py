"""search(): from a parent and text to a measured child, one stage after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from puzzle.costs.by_name import require_engine
from puzzle.costs.profile import Profile
from puzzle.costs.protocol import CostModel
from puzzle.executors.executor import Executor
from puzzle.hardware.precision import Precision
from puzzle.hardware.torch_state import own_torch_state
from puzzle.library.settings import LibraryConfig
from puzzle.limits.constraints import Constraint
from puzzle.limits.objectives import minimised
from puzzle.limits.scenario import WorkloadLike
from puzzle.pipeline.opening import Inputs, open_run, open_workspace
from puzzle.pipeline.outcome import Outcome
from puzzle.pipeline.request import Request
from puzzle.pipeline.result import SearchResult
from puzzle.pipeline.tightening import Chooser
from puzzle.pipeline.watching import Trackers, Watch, announce_result, announce_scores
from puzzle.sharing.shared_library import SharedLibrary
from puzzle.sharing.shared_search import (
    SharedSearch,
    given_library,
    planned_costs,
    require_inputs,
)
from puzzle.storage.workspace import Workspace
from puzzle.text.data_config import DataConfig
from search_space import SearchSpace


@own_torch_state()
def search(
    parent: Any = None,
    text: Any = None,
    *,
    constraints: str | Iterable[str | Constraint] | Mapping[str, str | float],
    scenario: WorkloadLike | None = None,
    space: SearchSpace | str = "small",
    distinct: int | None = None,
    effort: str = "default",
    scores: str | None = None,
    hardware: str | os.PathLike[str] | CostModel | None = None,
    profile: Profile | str | os.PathLike[str] | None = None,
    minimise: str | None = None,
    minimize: str | None = None,
    maximize: str | None = None,
    objective: str | None = None,
    library: LibraryConfig | SharedLibrary | str | os.PathLike[str] | None = None,
    data: DataConfig | None = None,
    tokenizer: Any = None,
    device: str | None = None,
    precision: Precision | str = "auto",
    out: str | os.PathLike[str] = "puzzle-run",
    executor: Executor | None = None,
    solver: str = "highs",
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
    callbacks: Iterable[Any] = (),
    report_to: str | Iterable[str] | None = None,
) -> SearchResult:
    """Finds, builds and measures the child closest to the parent within the constraints.

    Every stage is stored under `out` by the hash of what it depends on: an interrupted search
    continues where it stopped, and changed inputs never reuse old results. Costs measured on this
    device are corrected by a few whole layouts, unless the effort is "fast". The chosen layout's
    blocks are fitted once more, to the stream that the child itself feeds them. If the costs
    describe this device, or an engine that runs here, parent and child are timed there; if the
    child then misses a time limit, the limit is tightened by the error and the program solved
    again, at most three times in all.

    With `library` that of somebody else, nothing of this is needed: the layout is the optimum of
    the scores in it, found in seconds without the parent, and the child's files are downloaded when
    it is made. With text, its blocks are fitted to each other and it is measured.

    Args:
        parent: A hub id, a local directory, a GGUF file, or a live transformers model. Of a shared
            library, by default the one that it names, opened when the child is made.
        text: A string, a list of strings, a `datasets` data set, streamed or not, a DataFrame, a
            dictionary or rows with a `text` or `messages` column, the `pathlib.Path` of a .jsonl,
            .json or .parquet file or of one of plain text, or an iterator; streams, and files of
            more than 64 MiB, are read no further than needed. A string is text itself, never the
            name of a file. A shared library needs none.
        constraints: Such as ["throughput >= 1.25x", "memory <= 6 GiB"], or as a dictionary,
            {"throughput": "1.25x", "memory": "6 GiB"}.
        scenario: Batch, prompt and generated tokens, and number formats; or several scenarios by
            name, each alone or as (scenario, weight). Speeds are reported of the first.
        space: The alternatives of each layer, or the name of a preset.
        distinct: At most how many different blocks the child may have, beside layers that are
            removed whole; where a hybrid's layers are of several kinds, in those of each kind. With
            1 it is a checkpoint of the parent's own `model_type`, which every engine reads: export
            it for "plain".
        effort: How much is measured before a layout is chosen: "fast" takes the optimum of the
            scores; "default" measures some layouts near it and moves to better ones for a few
            minutes; "thorough" continues for longer. See `puzzle.choice.EFFORTS`.
        scores: How blocks are scored: "fisher", estimates; "hybrid", estimates that are calibrated,
            and exact where large; "near", exact for the blocks of the best layouts and estimates
            for others; "exact". By default as the effort says.
        hardware: What costs describe: "cpu", the default, or "cuda" measured here,
            "roofline:h100-sxm", an engine to calibrate in, a profile, a table, or a cost model; see
            `puzzle.costs.cost_model`.
        profile: Costs that were measured before, instead of `hardware`: the path of a profile, one
            that the shared library has, by name, a file of the Hub ("me/profiles/h100.json"), or a
            library with a single one. It may be of another device or of other versions, which the
            result then says, unless `hardware` says "cpu" or "cuda": then it has to be of that
            device of this machine.
        minimise: "kl", the default, or a resource to minimise instead under a limit on the KL, by
            the scores alone (as with effort "fast").
        minimize: The same as `minimise`.
        maximize: A throughput to maximise in place of `minimise`.
        objective: Either, such as "throughput" or "memory".
        library: How variants are fitted and distilled; or a library that is shared: its directory,
            its hub id, or a `SharedLibrary`.
        data: How much text is used. Without it, text of fewer tokens than the defaults of
            `DataConfig` is used as well, with a warning, down to 12 windows: 3,072 tokens.
        tokenizer: Tokenizer; by default the one beside the parent.
        device: Where the library is built, scored and measured: "cpu", "cuda" or "cuda:1". By
            default the hardware, if that is one of these, else a GPU if torch has one.
        precision: What the parent works in and the child is stored in; a single number format, such
            as "float32", is both, and is also served unless the scenario says otherwise.
        out: The run directory.
        executor: Where jobs of single layers run: anything with `submit(fn, *args) -> Future`, such
            as `puzzle.executors.Processes(2)`; by default in this process.
        solver: "highs" or "cbc".
        seed: Seed of the solver, and of the order of the documents unless `data` has its own.
        resume: Continue from what an earlier run left in `out`; if False, it must hold no results.
        progress: Whether the stages are shown on stderr: one bar on a terminal or in a notebook,
            else a line for each stage.
        callbacks: TrainerCallback instances of transformers. Their `on_log` gets figures as they
            come: seconds of stages, scores by layer, measured layouts, errors of gradient steps.
            One that raises is named in a warning and called no more.
        report_to: Trackers that transformers knows, such as "tensorboard", "trackio" or "wandb".

    Returns:
        The layout, with predictions and measurements; `.save(directory)` writes the child.

    Raises:
        PuzzleError: The parent, the text, a constraint or the disk is unsuitable; nothing long
            has run by then.
        InfeasibleError: No layout of the space meets the constraints; the message says how close
            it can come.

    Example:
        >>> import puzzle
        >>> result = puzzle.search("model", text,
        ...                        constraints=["throughput >= 1.25x"])  # doctest: +SKIP
    """
    shared = given_library(library)
    if shared is None:
        require_inputs(parent, text)
    hardware, scenario = planned_costs(hardware, profile, scenario, shared)
    request = Request(
        constraints=constraints,
        scenario=scenario,
        space=space,
        distinct=distinct,
        effort=effort,
        scores=scores,
        hardware=hardware,
        minimise=minimised(
            minimise=minimise, minimize=minimize, maximize=maximize, objective=objective
        ),
        library=library if isinstance(library, LibraryConfig) else None,
        profile=None if profile is None else str(profile),
        executor=executor,
        solver=solver,
        seed=seed,
    )
    inputs = Inputs(
        parent=parent,
        text=text,
        workload=request.workload,
        hardware=hardware,
        tokenizer=tokenizer,
        device=device,
        precision=precision,
        data=request.data(data),
        shorten=data is None,
    )
    trackers = Trackers(callbacks, report_to)
    if shared is not None:
        own = SharedSearch(library=shared, request=request, inputs=inputs, out=out, resume=resume)
        return own.run(Watch(trackers, shown=progress, stages=own.stages))
    require_engine(hardware)
    place = open_workspace(out, resume=resume)
    watch = Watch(trackers, shown=progress)
    with watch.running():
        return _search(request, inputs, place, watch)


def _search(request: Request, inputs: Inputs, place: Workspace, watch: Watch) -> SearchResult:
    """Runs the stages, one after the other."""
    with watch.stage("opening"):
        opened = open_run(
            inputs, place, executor=request.executor, solver=request.solver, seed=request.seed
        )
        run, steps = opened.run, request.steps(opened)
        watch.opened(request, steps, inputs, opened)
    with watch.stage("costs"):
        priced = steps.price(run)
        goals = request.goals(steps, priced)
    with watch.stage("library"):
        library = run.get(steps.library)
    with watch.stage("scores"):
        scores = run.get(steps.scores(library.refs))
        announce_scores(scores)
    with watch.stage("choice"):
        chooser = Chooser(
            run=run, steps=steps, goals=goals, scores=scores, library=library, priced=priced
        )
        chosen = chooser.choose()
    with watch.stage("healing"):
        healed = run.for_healing.get(steps.healing(chosen.choice.layout))
    with watch.stage("quality"):
        child = steps.nearer(run, chosen.choice.layout, healed, library)
        quality = run.get(steps.quality(chosen.choice.layout, child))
    outcome = Outcome(
        inputs=inputs, opened=opened, chooser=chooser, attempt=chosen, child=child, quality=quality
    )
    result = outcome.result(request.settings())
    announce_result(result.measured)
    return result
