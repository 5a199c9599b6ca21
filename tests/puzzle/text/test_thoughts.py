"""Claims about thoughts: how they are split from answers, and what each mode shows of them."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzle.errors import DataError
from puzzle.text.chat import render_chat, thinking_switch
from puzzle.text.thoughts import named_mode, split_thought
from puzzle.text.windows import documents, row_text
from tests.factories.templates import Template

THOUGHT, ANSWER = "first 2 and then 2 more", "It is four."
QUESTION = {"role": "user", "content": "two and two"}
TRL = importlib.util.find_spec("trl")
FILES = sorted(Path(TRL.origin).with_name("chat_templates").glob("*.jinja")) if TRL else []
SWITCHED = [file for file in FILES if "enable_thinking" in file.read_text(encoding="utf-8")]
# Of these, in a comment only.
UNSWITCHED = ("qwen3_instruct_2507_training",)


def turn(content, **fields):
    return {"role": "assistant", "content": content, **fields}


INLINE = [QUESTION, turn(f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}")]
FIELD = [QUESTION, turn(ANSWER, reasoning_content=THOUGHT)]
PLAIN = [QUESTION, turn(ANSWER)]

HEAD = (
    "{% for m in messages %}{% if m.role != 'assistant' %}<{{ m.role }}>{{ m.content }}<end>"
    "{% else %}<assistant>"
)
TAIL = "<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>"
OFF = "enable_thinking is defined and not enable_thinking"
# The shapes of families' templates, reduced to what they do with thoughts.
SHAPES = {
    # The off prompt has an empty block, and so has the last answer without a thought.
    "empty block": HEAD
    + "{% set t = m.reasoning_content or '' %}{% if loop.last %}<think>\n{{ t }}\n</think>\n\n"
    "{% endif %}{{ m.content }}" + TAIL + f"{{% if {OFF} %}}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
    # The prompt opens the thought; what is inline is shown as it is.
    "opened": HEAD + "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n"
    f"{{% elif {OFF} %}}<think></think>{{% endif %}}{{{{ m.content }}}}"
    + TAIL
    + f"{{% if {OFF} %}}<think></think>{{% else %}}<think>\n{{% endif %}}{{% endif %}}",
    # Thoughts are cut from all answers, the last one too, and only the prompt has the switch.
    "cut": HEAD
    + "{{ m.content.split('</think>')[-1] | trim }}"
    + TAIL
    + f"{{% if {OFF} %}}<think></think>{{% else %}}<think>\n{{% endif %}}{{% endif %}}",
    # Thoughts stand in another field and between other marks.
    "channel": HEAD
    + "{% if m.thinking %}[THINK]{{ m.thinking }}[/THINK]{% endif %}{{ m.content }}"
    + TAIL
    + f"{{% if {OFF} %}}[THINK][/THINK]{{% endif %}}{{% endif %}}",
}


def check(template):
    """Claims about any template with a switch."""
    tokenizer = Template(template)
    assert thinking_switch(tokenizer)
    prompts = {
        mode: tokenizer.apply_chat_template(
            [QUESTION], tokenize=False, add_generation_prompt=True, enable_thinking=mode == "on"
        )
        for mode in ("on", "off")
    }
    off = render_chat(PLAIN, tokenizer, thinking="off")
    on = render_chat(FIELD, tokenizer, thinking="on")
    assert off.startswith(prompts["off"])
    assert on.startswith(prompts["on"])
    for row in (INLINE, FIELD):
        assert render_chat(row, tokenizer, thinking="off") == off
        assert render_chat(row, tokenizer, thinking="on") == on
    assert THOUGHT not in off
    assert (on.count(THOUGHT), on.count(ANSWER), off.count(ANSWER)) == (1, 1, 1)
    assert on.index(THOUGHT) < on.index(ANSWER)
    # The thought is closed between the two, and there is no empty block before it.
    between = on[on.index(THOUGHT) + len(THOUGHT) : on.index(ANSWER)]
    assert between.strip()
    assert on.count("<think>") <= 1
    with pytest.raises(DataError, match="'on' needs a thought"):
        render_chat(PLAIN, tokenizer, thinking="on")


@pytest.mark.parametrize("name", SHAPES)
def test_each_mode_shows_what_belongs_to_it_in_every_shape_of_template(name):
    check(SHAPES[name])


@pytest.mark.skipif(not FILES, reason="TRL, whose copies of templates are read, is not installed")
@pytest.mark.parametrize("file", SWITCHED, ids=lambda file: file.stem)
def test_each_mode_shows_what_belongs_to_it_in_the_template_of_a_family(file):
    template = file.read_text(encoding="utf-8")
    if file.stem in UNSWITCHED:
        assert thinking_switch(Template(template)) is None
    else:
        check(template)


def test_earlier_thoughts_go_where_the_template_leaves_them():
    history = [
        *INLINE,
        {"role": "user", "content": "and one"},
        turn("Five.", reasoning_content="x"),
    ]
    for name in SHAPES:
        tokenizer = Template(SHAPES[name])
        assert THOUGHT not in render_chat(history, tokenizer, thinking="off")
    for name in ("empty block", "cut"):
        assert THOUGHT not in render_chat(history, Template(SHAPES[name]), thinking="on")


def test_a_system_prompt_is_a_switch_where_it_is_given():
    prompts = {"on": "detailed thinking on", "off": "detailed thinking off"}
    tokenizer = Template(HEAD + "{{ m.content }}" + TAIL + "{% endif %}")
    assert thinking_switch(tokenizer) is None
    how = {"system_prompts": prompts}
    off = render_chat(INLINE, tokenizer, thinking="off", **how)
    expected = "<system>detailed thinking off<end><user>two and two<end><assistant>It is four.<end>"
    assert off == expected
    on = render_chat(INLINE, tokenizer, thinking="on", **how)
    thought = f"<think>\n{THOUGHT}\n</think>\n\n"
    assert on == off.replace("off", "on").replace(ANSWER, thought + ANSWER)
    system = {"role": "system", "content": "Be kind."}
    both = render_chat([system, *PLAIN], tokenizer, thinking="off", **how)
    assert both == expected.replace("off<", "off\n\nBe kind.<")
    # A row that has one of the prompts already is an example of that mode.
    row = [{"role": "system", "content": prompts["on"]}, *INLINE]
    assert render_chat(row, tokenizer, **how) == on
    assert row_text({"messages": row}, tokenizer, thinking="off", **how) == ""


def test_a_row_is_read_in_the_mode_that_it_names_and_no_other():
    tokenizer = Template(SHAPES["opened"])
    for names in (
        {"reasoning": "off"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        row = {"messages": INLINE, **names}
        off = render_chat(PLAIN, tokenizer, thinking="off")
        assert documents([row], tokenizer) == [off]
        assert row_text(row, tokenizer, thinking="off") == off
        assert row_text(row, tokenizer, thinking="on") == ""
    assert row_text({"messages": INLINE, "reasoning": "I think"}, tokenizer, thinking="on")
    with pytest.raises(DataError, match="keep one"):
        named_mode({"reasoning": "on", "chat_template_kwargs": {"enable_thinking": False}})


words = st.text("ab1+ \n", max_size=12)


@given(words, words)
def test_a_thought_and_an_answer_are_split_as_they_were_joined(thought, answer):
    parts = thought.strip(), answer.strip()
    assert split_thought(f"<think>{thought}</think>{answer}") == parts
    assert split_thought(f"{thought}</think>{answer}") == parts
    assert split_thought(answer) == ("", answer)
    assert split_thought(f"<think>{thought}") == (parts[0], None)


@pytest.mark.parametrize("content", ["<think>and so on", "<think>only thought</think>", ""])
@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_row_without_an_answer_is_no_example_of_either_mode(content, mode):
    with pytest.raises(DataError, match="the answer after it"):
        render_chat([QUESTION, turn(content)], Template(SHAPES["opened"]), thinking=mode)
