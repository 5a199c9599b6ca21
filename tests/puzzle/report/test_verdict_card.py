"""Claims about the card that a report begins with, and about the texts that it shows."""

import dataclasses
import html
import re

import puzzle
from puzzle.models.generation import generated_text
from puzzle.report.samples import PROMPT_TOKENS, WRITTEN_TOKENS, prompts_of, written_samples
from puzzle.report.verdict_card import conditions, tiles
from tests.factories.parents import parent_model


def named(record):
    return {tile.name: tile for tile in tiles(record)}


def test_the_card_says_what_was_measured_and_where(found):
    card, measured = named(found), found.measured
    speed = card.get("faster") or card["slower"]
    assert speed.figure == f"{measured.ratio('throughput'):.2f}\u00d7"
    assert speed.good == (measured.ratio("throughput") >= 1)
    assert card["smaller"].figure == f"{100 * (1 - measured.ratio('memory')):.0f} %"
    assert card["quality kept"].figure == f"{100 * measured.child.agreement:.0f} %"
    assert card["constraints met"].figure == "2 of 2"
    device, date = found.evidence.run["device"], found.evidence.run["date"]
    assert device["torch"] in conditions(found)
    assert date[:10] in conditions(found)


def test_a_missed_and_an_unmeasured_constraint_are_counted(found):
    parameters, throughput = found.evidence.constraints
    strict = dataclasses.replace(throughput, value=9.0)
    evidence = dataclasses.replace(found.evidence, constraints=(parameters, strict))
    missed = named(dataclasses.replace(found, evidence=evidence))["constraints met"]
    assert (missed.figure, missed.good) == ("1 of 2", False)
    bare = {
        who: dataclasses.replace(
            getattr(found.measured, who), prefill_seconds=None, decode_seconds=None, seconds=None
        )
        for who in ("parent", "child")
    }
    untimed = dataclasses.replace(found, measured=puzzle.Comparison(**bare))
    card = named(untimed)
    assert "predicted" in (card.get("faster") or card["slower"]).words
    unknown = card["constraints met"]
    assert (unknown.figure, unknown.words, unknown.good) == ("1 of 2", "1 not measured", None)


def test_the_page_shows_what_parent_and_child_write_after_the_same_prompts(found, tmp_path):
    tokenizer, prompt = found.tokenizer, "w1 w2 w3"
    text = found.report(tmp_path / "report.html", samples=[prompt]).read_text()
    options = {"max_new_tokens": WRITTEN_TOKENS, "do_sample": False}
    models = (parent_model(), found.child())
    texts = [generated_text(model, tokenizer, prompt, **options) for model in models]
    assert texts[0] != texts[1]
    shown = re.findall(r"<h3>(?:parent|child)</h3><p>(.*?)</p>", text, re.DOTALL)
    assert shown == list(map(html.escape, texts))
    limits = re.search(r'<ul class="limits">(.*?)</ul>', text, re.DOTALL)[1]
    assert re.findall(r">(met|missed|not measured)<", limits) == ["met", "met"]


def test_three_prompts_are_beginnings_of_text_that_nothing_was_chosen_with(found):
    prompts = prompts_of(True, found.validation, found.tokenizer)
    starts = {
        found.tokenizer.decode(row[:PROMPT_TOKENS], skip_special_tokens=True)
        for row in found.validation
    }
    assert len(prompts) == 3
    assert set(prompts) <= starts
    assert len(prompts_of(True, None, None)) == 3
    assert prompts_of("one", found.validation, None) == ["one"]
    (sample,) = written_samples(parent_model(), parent_model(), found.tokenizer, [prompts[0]])
    assert (sample.prompt, sample.parent) == (prompts[0], sample.child)
