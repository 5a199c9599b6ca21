"""Claims about what long work shows, and about who is told of it."""

import logging

import pytest
import torch
from transformers import TrainerCallback

import puzzle
from puzzle.errors import DataError
from puzzle.models.pretrained import load_model
from puzzle.pipeline.watching import STAGES, bars_of_transformers
from puzzle.progress.bars import Count, Hidden, counted, displayed, shown_by
from puzzle.progress.foreign_bars import ForeignBar
from puzzle.progress.listeners import announce, listening
from puzzle.progress.remaining import Timeline
from puzzle.progress.stage_display import StageDisplay
from tests.factories.gguf_parents import write_gguf_parent
from tests.factories.parents import DATA, SCENARIO, parent_model, text


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("slowness", [0.25, 1.0, 4.0])
def test_the_time_left_is_corrected_by_the_stages_that_have_ended(slowness):
    """Where every stage takes the same multiple of its estimate, half of them tell it well."""
    clock = Clock()
    estimates = {"a": 10.0, "b": 30.0, "c": 40.0}
    timeline = Timeline(list(estimates), clock=clock)
    timeline.expect(estimates)
    errors = []
    for number, (name, seconds) in enumerate(estimates.items()):
        timeline.begin(name)
        truth = slowness * sum(list(estimates.values())[number:])
        errors.append(abs(timeline.left() / truth - 1))
        clock.now += slowness * seconds
        timeline.end(worked=True)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(abs(1 / slowness - 1))
    assert errors[-1] < 0.55
    assert slowness == 1 or errors[-1] < 0.7 * errors[0]


def test_a_stage_whose_result_was_there_says_nothing_of_speed_and_a_count_says_most():
    clock = Clock()
    timeline = Timeline(["cached", "long", "last"], clock=clock)
    assert timeline.left() is None
    timeline.expect({"cached": 50.0, "long": 10.0, "last": 5.0})
    timeline.begin("cached")
    timeline.end(worked=False)
    assert timeline.slowness == 1
    timeline.begin("long")
    clock.now = 30.0
    # A quarter in 30 seconds: 90 are left by the count, none by the estimate.
    assert timeline.left(0.25, 30.0) == pytest.approx(90 + 5)
    assert timeline.share(90.0) == pytest.approx(0.25)


def test_without_a_terminal_each_stage_is_one_line(capsys):
    clock = Clock()
    display = StageDisplay("search", ["first", "second"], redraws=False, clock=clock)
    told = []
    with listening(told.append), display.running():
        with display.stage("first"):
            display.expect({"first": 10.0, "second": 100.0})
            for _ in counted(range(3), "layers", "layer"):
                clock.now += 10.0
        with display.stage("second"):
            clock.now += 5.0
    assert capsys.readouterr().err.splitlines() == [
        "search: stage 1 of 2: first",
        # 110 seconds were estimated, of which 10 took 30: (11 + 30) / (11 + 10) as long.
        "search after 30 s: stage 2 of 2: second, about 3 min left",
        "search: done in 35 s",
    ]
    assert told == [
        {"stage": 1, "stage_seconds/first": 30.0},
        {"stage": 2, "stage_seconds/second": 5.0},
    ]


def test_what_is_counted_within_a_unit_is_a_part_of_it():
    display = StageDisplay("search", ["only"], redraws=False)
    with display.running(), display.stage("only"):
        outer = Count("layers", "layer", 4)
        outer.update()
        inner = Count("steps", "step", 10)
        inner.update(5, note="loss 0.5")
        assert display.counted_share[0] == pytest.approx((1 + 5 / 10) / 4)
        assert display.position() == "stage 1 of 1: only, layer 1/4, step 5/10, loss 0.5"
        outer.__exit__()
        assert display.position() == "stage 1 of 1: only"


def test_bars_of_other_libraries_are_a_part_of_the_display():
    display = StageDisplay("search", ["opening"], redraws=False)
    with display.running(), display.stage("opening"):
        bar = ForeignBar(total=0, desc="Downloading bytes", unit="B")
        bar.total = 3_000_000
        bar.update(1_000_000)
        assert display.position() == "stage 1 of 1: opening, 1/3 MB"
        bar.close()
        assert list(ForeignBar(range(2), desc="Fetching 2 files")) == [0, 1]
        assert display.position() == "stage 1 of 1: opening"


def test_a_gguf_is_read_within_the_display(tmp_path, capfd):
    # Large enough for the tokenizer's end of text: transformers warns of another.
    file = write_gguf_parent(tmp_path / "model.gguf", parent_model(vocab_size=128))
    display = StageDisplay("search", ["opening"], redraws=False)
    with display.running(), display.stage("opening"), bars_of_transformers():
        load_model(file, dtype=torch.float32)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "search: stage 1 of 1: opening"
    assert [line.partition(" in ")[0] for line in lines[1:]] == ["search: done"]


def test_hidden_stays_hidden_within_whatever_shows(capfd):
    display = StageDisplay("search", ["a"], redraws=True)
    with shown_by(Hidden()), display.running(), display.stage("a"), bars_of_transformers():
        assert list(counted("ab", "letters", "letter")) == ["a", "b"]
        assert list(ForeignBar("ab", desc="letters")) == ["a", "b"]
    announce({"nobody": 1.0})
    assert capfd.readouterr() == ("", "")
    assert not displayed()


class Listening(TrainerCallback):
    """Keeps what it gets."""

    def __init__(self):
        self.events, self.logs, self.settings = [], [], None

    def on_train_begin(self, args, state, control, **more):
        self.events.append("begin")
        self.settings = args.to_dict()

    def on_log(self, args, state, control, logs=None, **more):
        assert state.global_step == len(self.logs) + 1
        self.logs.append(logs)

    def on_train_end(self, args, state, control, **more):
        self.events.append("end")


class Broken(TrainerCallback):
    """A tracker without a network."""

    def on_log(self, args, state, control, **more):
        raise ConnectionError("no route")


def search(saved, out, **more):
    return puzzle.search(
        saved,
        text(),
        constraints=["parameters <= 0.8x"],
        scenario=SCENARIO,
        precision="float32",
        data=DATA,
        hardware="roofline:h100-sxm",
        effort="fast",
        out=out,
        **more,
    )


def test_callbacks_get_stages_scores_and_results_and_one_that_raises_loses_nothing(
    saved, tmp_path, caplog, capfd
):
    mine = Listening()
    with caplog.at_level(logging.WARNING, "puzzle"):
        result = search(saved, tmp_path / "run", callbacks=[Broken, mine])
    (warning,) = [each for each in caplog.messages if "callback" in each]
    assert "Broken raised ConnectionError in on_log" in warning
    assert mine.events == ["begin", "end"]
    assert mine.settings["constraints"] == ["parameters <= 0.8x"]
    names = [name for logs in mine.logs for name in logs]
    assert [n for n in names if n.startswith("stage_seconds/")] == [
        f"stage_seconds/{stage}" for stage in STAGES
    ]
    evidence = result.evidence
    for logs in (logs for logs in mine.logs if "score/layer" in logs):
        row = evidence.scores[logs.pop("score/layer")]
        assert logs == {f"score/{label}": score.kl for label, score in row.items()}
    assert names.count("score/layer") == result.layout.shape.layers
    assert mine.logs[-1]["child/kl"] == result.measured.child.kl
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[2].split(",")[0] for line in lines if "stage " in line] == [*STAGES]
    again = search(saved, tmp_path / "run", progress=False)
    assert again.layout == result.layout
    assert capfd.readouterr().err == ""


def test_an_unknown_tracker_and_what_is_no_callback_are_refused_before_anything_is_written(
    saved, tmp_path
):
    for more in ({"report_to": "abacus"}, {"callbacks": [print]}):
        with pytest.raises(DataError, match=r"abacus|is not a callback"):
            search(saved, tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_the_figures_of_a_search(saved, tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    result = search(saved, tmp_path / "run", report_to="tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "logs")).Reload()
    names = events.Tags()["scalars"]
    assert {f"train/stage_seconds/{stage}" for stage in STAGES} <= set(names)
    (kl,) = events.Scalars("train/child/kl")
    assert kl.value == pytest.approx(result.measured.child.kl)
