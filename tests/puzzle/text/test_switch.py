"""Claims about the thinking switch that is put around a chat template."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from puzzle.errors import DataError
from puzzle.text.chat import render_chat, thinking_switch
from puzzle.text.switch import add_thinking_switch
from tests.factories.posttraining import TEMPLATE, character_tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ 'S: You help.\n' }}{% endif %}"
    "{{ '[' + message['role'] + '\n' + message['content'] + ']\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant\n' }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": "Two and two"},
    {"role": "assistant", "content": "<think>2+2</think>Four."},
    {"role": "user", "content": "and one"},
]
ANSWER = {"role": "assistant", "content": "Five.", "reasoning_content": "4+1"}


def shown(tokenizer, turns, **arguments):
    return tokenizer.apply_chat_template(turns, tokenize=False, **arguments)


@pytest.mark.parametrize("template", [TEMPLATE, CHATML])
def test_the_switch_shows_where_thought_and_answer_stand_and_nowhere_else(template):
    plain, switched = character_tokenizer(template), None
    switched = add_thinking_switch(plain)
    assert thinking_switch(switched) == "argument"
    assert plain.chat_template == template
    history = [TURNS[0], {**TURNS[1], "content": "Four."}, TURNS[2]]
    expected = shown(plain, history, add_generation_prompt=True)
    endings = {True: "<think>\n", False: "<think></think>"}
    for mode, ending in endings.items():
        given = {"add_generation_prompt": True, "enable_thinking": mode}
        assert shown(switched, TURNS, **given) == expected + ending
    for mode, written in (
        ("on", "<think>\n4+1\n</think>\n\nFive."),
        ("off", "<think></think>Five."),
    ):
        answer = {"role": "assistant", "content": written}
        assert render_chat([*TURNS, ANSWER], switched, thinking=mode) == shown(
            plain, [*history, answer]
        )


@pytest.mark.parametrize("template", [TEMPLATE, CHATML])
@pytest.mark.parametrize("mode", [True, False])
def test_markers_are_around_what_the_assistant_writes_and_change_no_text(template, mode):
    plain = add_thinking_switch(character_tokenizer(template))
    marked = add_thinking_switch(character_tokenizer(template), generation_markers=True)
    given = {"enable_thinking": mode}
    for turns in (TURNS, [*TURNS, ANSWER], [{"role": "system", "content": "/think"}, *TURNS]):
        assert shown(marked, turns, **given) == shown(plain, turns, **given)
    found = marked.apply_chat_template(
        [*TURNS, ANSWER], return_dict=True, return_assistant_tokens_mask=True, **given
    )
    kept = [
        token if masked else 0
        for token, masked in zip(found["input_ids"], found["assistant_masks"], strict=True)
    ]
    end = "<eos>" if template == TEMPLATE else ""
    written = [f"Four.{end}", f"4+1\n</think>\n\nFive.{end}" if mode else f"Five.{end}"]
    runs = [part for part in marked.decode(kept).split("<pad>") if part]
    assert runs == written
    twice = template.replace("{% endfor %}", "{% generation %}{% endgeneration %}{% endfor %}")
    with pytest.raises(DataError, match="which has no"):
        add_thinking_switch(character_tokenizer(twice), generation_markers=True)


@pytest.mark.parametrize("default", ["on", "off"])
def test_flags_in_messages_do_what_the_argument_does_and_are_not_shown(default):
    tokenizer = add_thinking_switch(character_tokenizer(), default=default)
    prompt = {"add_generation_prompt": True}
    by_argument = {m: shown(tokenizer, TURNS, enable_thinking=m, **prompt) for m in (True, False)}
    assert shown(tokenizer, TURNS, **prompt) == by_argument[default == "on"]
    for flag, mode in (("/think", True), ("/no_think", False)):
        for text in (f"and one {flag}", f"{flag} and one", f"{flag}\nand one"):
            turns = [*TURNS[:2], {"role": "user", "content": text}]
            assert shown(tokenizer, turns, **prompt) == by_argument[mode]
            # The last one counts, over the argument too.
            other = {True: "/no_think", False: "/think"}[mode]
            first = {"role": "user", "content": f"Two and two {other}"}
            given = {**prompt, "enable_thinking": not mode}
            assert shown(tokenizer, [first, *turns[1:]], **given) == by_argument[mode]
    link = [{"role": "user", "content": "see a/no_think or b/think."}]
    assert "a/no_think or b/think." in shown(tokenizer, link, **prompt)


def test_a_template_that_cannot_take_the_switch_is_refused():
    with pytest.raises(DataError, match="has no chat template"):
        add_thinking_switch(character_tokenizer(None))
    with pytest.raises(DataError, match="has a thinking switch already"):
        add_thinking_switch(add_thinking_switch(character_tokenizer()))
    # Its prompt for an answer is not how it shows one.
    other = TEMPLATE.replace("}}<|assistant|>{%", "}}<|assistant|>!{%").replace(
        "%}<|assistant|>{% endif", "%}<|assistant|>?{% endif"
    )
    with pytest.raises(DataError, match="does not start a conversation with the prompt"):
        add_thinking_switch(character_tokenizer(other))


def test_a_tokenizer_that_joins_the_prompts_end_with_the_answer_is_refused():
    tokenizer = character_tokenizer()
    vocabulary = tokenizer.get_vocab() | {">3": len(tokenizer)}
    # Pairs are joined, the digit with what stands before it.
    inner = Tokenizer(models.BPE(vocabulary, merges=[(">", "3")], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    joined = type(tokenizer)(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>", chat_template=TEMPLATE
    )
    with pytest.raises(DataError, match="with thinking off, the tokens of a prompt are not"):
        add_thinking_switch(joined)
