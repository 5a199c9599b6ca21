"""Claims about the table of how engines are told to think, and for how long."""

import json

import pytest

from puzzle import serve_check
from puzzle.errors import ExportError
from puzzle.serving.thinking_flags import BUDGETS, serving_flags
from search_space.engines import ENGINES
from tests.factories.children import byte_level_tokenizer, child_of


def test_the_table_has_every_engine_of_the_table_of_engines():
    # "plain" is what any engine reads.
    assert set(BUDGETS) == set(ENGINES) - {"plain"}


@pytest.mark.parametrize("engine", BUDGETS)
def test_a_budget_is_in_what_the_engine_is_given_or_refused(engine):
    if BUDGETS[engine] is None:
        with pytest.raises(ExportError, match=r"cannot limit a thought.*allowed"):
            serving_flags(engine, budget=777)
    else:
        flags = serving_flags(engine, thinking="off", budget=777)
        text = f"{flags.server} {json.dumps(dict(flags.request))} {flags.note}"
        assert "777" in text
        assert "BUDGET" not in text
        assert flags.request["chat_template_kwargs"] == {"enable_thinking": False}
    assert serving_flags(engine).request == {}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"engine": "vlm"}, "vllm"),
        ({"engine": "vllm", "thinking": "both"}, "'on', 'off'"),
        ({"engine": "vllm", "budget": -1}, "budget=-1"),
    ],
)
def test_what_there_is_not_is_refused(given, match):
    with pytest.raises(ExportError, match=match):
        serving_flags(**given)


def test_llama_cpp_ends_a_thought_at_exactly_its_budget(tmp_path):
    pytest.importorskip("xllamacpp", reason=ENGINES["llama.cpp"].install)
    child_of(["gqa3+gated64", "gqa1+none", "none+gated9"]).save_pretrained(tmp_path)
    byte_level_tokenizer(eos_token="!").save_pretrained(tmp_path)
    for budget in (0, 5):
        found = serve_check(
            tmp_path,
            engine="llama.cpp",
            prompt="abc",
            text="abcdefgh",
            new_tokens=4,
            speed=False,
            budget=budget,
        )
        assert (found.thought, found.passed) == (budget, True)
        assert f"a thought of at most {budget} tokens had {budget}" in str(found)


@pytest.mark.slow
def test_transformers_ends_a_thought_at_exactly_its_budget(tmp_path):
    child_of(["gqa3+gated64", "gqa1+none", "none+gated9"]).save_pretrained(tmp_path)
    byte_level_tokenizer(eos_token="!").save_pretrained(tmp_path)
    found = serve_check(
        tmp_path,
        engine="transformers",
        prompt="abc",
        text="abcdefgh",
        new_tokens=4,
        speed=False,
        budget=5,
    )
    assert (found.thought, found.passed) == (5, True)


def test_a_budget_that_cannot_be_tried_is_refused(tmp_path):
    child_of(["gqa3+gated64", "gqa1+none", "none+gated9"]).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="needs a tokenizer beside the child"):
        serve_check(tmp_path, engine="transformers", new_tokens=1, speed=False, budget=5)
    with pytest.raises(
        ExportError, match=r"cannot be tried in mlx; allowed: llama\.cpp, transformers"
    ):
        serve_check(tmp_path, engine="mlx", budget=5)
