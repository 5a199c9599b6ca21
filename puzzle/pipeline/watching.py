"""Watching a search: its display, and the callbacks and trackers of transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from puzzle.distillation.events import refuse_other_callbacks, tracker_callbacks, tracker_names
from puzzle.hardware.rates import Rates
from puzzle.pipeline.opening import Inputs, Opened
from puzzle.pipeline.planning import plan, require_memory
from puzzle.pipeline.request import Request
from puzzle.pipeline.steps import Steps
from puzzle.progress.bars import Hidden, displayed, hidden, shown_by
from puzzle.progress.foreign_bars import ForeignBar
from puzzle.progress.listeners import announce, listening
from puzzle.progress.stage_display import StageDisplay
from puzzle.report.comparison import Comparison
from puzzle.scoring.scores import Scores

# The stages of a search as they are shown, and the estimates that each is made of.
STAGES: Mapping[str, tuple[str, ...]] = {
    "opening": (),
    "costs": ("costs", "correction"),
    "library": ("library",),
    "scores": ("scores",),
    "choice": ("choice", "measurement"),
    "healing": ("healing",),
    "quality": ("quality",),
}
# What estimates of short searches, and those on a GPU, are made with: shares of the whole are
# right, and seconds are corrected by the stages that have ended.
NOMINAL = {
    "cpu": Rates(model=1e11, fits=1e11, bandwidth=1e10),
    "cuda": Rates(model=2e14, fits=3e13, bandwidth=2e12),
}
# Estimated seconds from which a second is worth being spent on measuring this machine's rates.
LONG = 20.0
logger = logging.getLogger(__name__)


@dataclass
class SearchArguments(TrainingArguments):
    """What callbacks get as the arguments of a run: those of the search, and none of a training.

    Args:
        search: The settings of the search, as JSON values.
    """

    search: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns what trackers record of a run."""
        return {**self.search, "output_dir": self.output_dir, "run_name": self.run_name}


class Trackers:
    """Callbacks and trackers that see a search as it goes, called as the Trainer calls them.

    They get `on_train_begin` once, `on_log` with each group of figures, as `global_step` counts
    them, and `on_train_end`. One that raises is named in a warning, and gets nothing more.

    Args:
        callbacks: TrainerCallback instances or classes of transformers.
        report_to: Names of trackers that transformers knows, such as "tensorboard".

    Raises:
        DataError: A callback is not a TrainerCallback, or a tracker is unknown or not installed.
    """

    def __init__(self, callbacks: Iterable[Any], report_to: str | Iterable[str] | None) -> None:
        self.names = tracker_names(report_to)
        given = [each() if isinstance(each, type) else each for each in callbacks]
        refuse_other_callbacks(given)
        self._callbacks = [*tracker_callbacks(self.names), *given]
        self.state, self.control = TrainerState(), TrainerControl()
        self.arguments: SearchArguments | None = None

    def begin(self, out: str, settings: Mapping[str, Any], seed: int, *, cpu: bool) -> None:
        """Reports that the search begins.

        Args:
            out: The run directory.
            settings: What is recorded of the search, as JSON values.
            seed: The seed.
            cpu: Whether it works on the CPU.
        """
        if not self._callbacks:
            return
        self.arguments = SearchArguments(
            output_dir=out,
            run_name=Path(out).name,
            project="puzzle",
            seed=seed,
            use_cpu=cpu,
            report_to="none",
            search=dict(settings),
        )
        self.arguments.report_to = list(self.names)
        self._call("on_train_begin", model=None)

    def log(self, values: dict[str, float]) -> None:
        """Passes figures on."""
        self.state.global_step += 1
        self.state.log_history.append({**values, "step": self.state.global_step})
        self._call("on_log", logs=values)

    def end(self) -> None:
        """Reports that the search has ended."""
        self._call("on_train_end")

    def _call(self, event: str, **values: Any) -> None:
        if self.arguments is None:
            return
        for callback in list(self._callbacks):
            try:
                method = getattr(callback, event)
                method(self.arguments, self.state, self.control, **values)
            except Exception as error:  # noqa: BLE001 - a callback raises whatever it likes
                self._callbacks.remove(callback)
                logger.warning(
                    "the callback %s raised %s in %s and gets nothing more of this search: %s",
                    type(callback).__name__,
                    type(error).__name__,
                    event,
                    error,
                )


class Watch:
    """Those who watch a search: the display and the trackers.

    Args:
        trackers: Callbacks and trackers.
        shown: Whether progress is shown.
        stages: The stages in their order.
    """

    def __init__(
        self, trackers: Trackers, *, shown: bool = True, stages: Iterable[str] = STAGES
    ) -> None:
        self.trackers, self.shown = trackers, shown
        self.display = StageDisplay("search", tuple(stages))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Shows the stages meanwhile, and passes on what they announce."""
        with ExitStack() as stack:
            if not self.shown:
                stack.enter_context(shown_by(Hidden()))
            stack.enter_context(self.display.running())
            stack.enter_context(bars_of_transformers())
            stack.enter_context(listening(self.trackers.log))
            stack.callback(self.trackers.end)
            yield

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Shows that one of the stages runs."""
        return self.display.stage(name)

    def opened(self, request: Request, steps: Steps, inputs: Inputs, opened: Opened) -> None:
        """Refuses what cannot fit, tells the trackers of the search, and estimates its stages.

        Args:
            request: The search as it was asked for.
            steps: Its stages.
            inputs: What its run was opened from.
            opened: Its run.

        Raises:
            PuzzleError: A stage needs more memory than the device has; it is named.
        """
        device = opened.run.parent.device
        require_memory(steps, inputs.data, device)
        self.trackers.begin(
            str(opened.run.workspace.root),
            request.description(inputs.parent),
            request.seed,
            cpu=device.type == "cpu",
        )
        rates, place = NOMINAL["cpu" if device.type == "cpu" else "cuda"], device.type
        estimated = plan(steps, inputs.data, rates=rates, device=place)
        if place == "cpu" and not hidden() and estimated.seconds > LONG:
            estimated = plan(steps, inputs.data, working=opened.formats.working.name, device=place)
        seconds = {
            stage: sum(step.seconds for step in estimated.steps if step.name in parts)
            for stage, parts in STAGES.items()
        }
        self.display.expect(seconds)


@contextmanager
def bars_of_transformers() -> Iterator[None]:
    """Lets the bars of transformers be a part of what is displayed, if anything is."""

    def bar(factory: Any, args: Any, options: Any) -> Any:
        return ForeignBar(*args, **options) if displayed() else factory(*args, **options)

    before = transformers_logging.set_tqdm_hook(bar)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def announce_scores(scores: Scores) -> None:
    """Announces the scores, layer by layer."""
    for layer, row in enumerate(scores):
        announce({"score/layer": layer, **{f"score/{k}": each.kl for k, each in row.items()}})


def announce_result(measured: Comparison) -> None:
    """Announces what was measured of parent and child, and the ratios of their speeds."""
    values = {
        f"{who}/{name}": value
        for who, figures in measured.to_dict().items()
        for name, value in figures.items()
    }
    announce({**values, **{f"ratio/{name}": value for name, value in measured.speedup().items()}})
