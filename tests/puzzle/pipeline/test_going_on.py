"""Claims about a result that one goes on with: it stands for its child wherever one is taken."""

import dataclasses

import pytest
import torch

import puzzle
from puzzle.distillation.distill_config import DistillConfig
from puzzle.errors import DataError
from tests.factories.parents import DATA, SCENARIO, WORDS, text

SHORT = DistillConfig(tokens=64, length=16, batch=2, micro_batch=2, validation_windows=2)


@pytest.fixture(scope="module")
def read(saved_child):
    return puzzle.load_result(saved_child)


def test_what_a_result_writes_is_what_its_child_writes_greedily(found, read):
    prompt = " ".join(WORDS[:5])
    tokenizer, child = found.tokenizer, found.child()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    expected = ids
    for _ in range(6):
        step = child(expected).logits[0, -1].argmax()
        expected = torch.cat([expected, step.view(1, 1)], dim=1)
    words = tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    for result in (found, read):
        written = result.generate(prompt, max_new_tokens=6, do_sample=False, eos_token_id=[])
        assert written == words
    with pytest.raises(DataError, match="no chat template"):
        found.generate([{"role": "user", "content": prompt}])
    with pytest.raises(DataError, match="no tokens"):
        found.generate("")
    bare = dataclasses.replace(read, saved=None)
    assert bare.tokenizer is None


def test_a_result_its_saved_form_and_its_child_are_evaluated_alike(found, read, saved_child):
    own = found.evaluate()
    assert own.text["child"]["kl"].value == pytest.approx(found.measured.child.kl, rel=1e-4)
    data = found.validation
    for each in (
        puzzle.evaluate(found, parent=found.parent, data=data),
        puzzle.evaluate(saved_child, parent=read.parent, data=data),
        read.evaluate(data),
    ):
        assert each.text["child"]["kl"].value == pytest.approx(own.text["child"]["kl"].value)
    with pytest.raises(DataError, match="nothing to measure"):
        read.evaluate()


def test_a_result_is_distilled_exported_and_reported_beside_its_child(read, found, tmp_path):
    saved = puzzle.load_result(read.save(tmp_path / "run" / "child"))
    distilled = saved.distill(text(), config=SHORT)
    assert distilled.path == tmp_path / "run" / "distilled" / "child"
    assert puzzle.evaluate(distilled, data=found.validation).text["child"]
    assert "<table" in distilled._repr_html_()
    again = found.distill(text(), config=SHORT, out=tmp_path / "again")
    first, second = again.evaluations[0], distilled.history[-1]
    assert first["kl"] == pytest.approx(found.measured.child.kl, rel=1e-3)
    assert second["loss"] == pytest.approx(again.history[-1]["loss"], rel=1e-4)
    assert saved.report() == tmp_path / "run" / "report.html"
    exported = saved.export("vllm")
    assert exported.path == tmp_path / "run" / "for-vllm"
    assert exported.layout == puzzle.export(found, tmp_path / "other", engine="vllm").layout
    assert dataclasses.replace(saved, saved=tmp_path / "mine").place("report.html") == (
        tmp_path / "mine-report.html"
    )


@pytest.mark.slow
def test_a_result_is_checked_in_an_engine(found):
    checked = puzzle.serve_check(found, engine="transformers", new_tokens=4, speed=False)
    assert checked.passed


def test_the_seed_of_a_search_orders_its_text_and_a_dictionary_constrains_it(
    found, saved, tmp_path
):
    def run(**settings):
        config = dataclasses.replace(DATA, seed=settings.pop("order", None))
        return puzzle.search(
            saved,
            text(),
            constraints={"parameters": "0.8x"},
            scenario=SCENARIO,
            precision="float32",
            data=config,
            effort="fast",
            out=tmp_path / "run",
            **settings,
        )

    other, ordered = run(seed=7), run(order=7)
    assert not torch.equal(found.validation, other.validation)
    assert torch.equal(other.validation, ordered.validation)
    assert other.evidence.run["data"]["seed"] == 7
    assert str(other.evidence.constraints[0]) == "parameters <= 0.8x"
