"""Claims about conversations rendered by chat templates, with and without a thinking switch."""

import datasets
import pytest
from jinja2 import Environment
from transformers import AutoTokenizer

from puzzle.errors import DataError
from puzzle.serving.files import save_tokenizer
from puzzle.text.chat import _warn_once, render_chat, thinking_switch
from puzzle.text.windows import documents
from tests.factories.parents import tokenizer
from tests.factories.templates import Template

PLAIN = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
# As Qwen3 does it: the switch shows in the prompt for the next answer only.
ARGUMENT = PLAIN.replace(
    "<|assistant|>{% endif %}",
    "<|assistant|>{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}",
)
# As the Nemotron models do it: the system message holds the switch, which is stripped.
SYSTEM = """{% set ns = namespace(off=false) %}{% for m in messages %}\
{% if '/no_think' in m.content %}{% set ns.off = true %}{% endif %}\
<|{{ m.role }}|>{{ m.content | replace('/no_think', '') | replace('/think', '') | trim }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>\
{% if ns.off %}<think></think>{% else %}<think>{% endif %}{% endif %}"""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
    PLAIN
)
CHAT = [
    {"role": "user", "content": "two and two"},
    {"role": "assistant", "content": "four"},
]
THOUGHT = [CHAT[0], {"role": "assistant", "content": "<think>2+2=4</think>four"}]


@pytest.mark.parametrize(
    ("template", "expected"),
    [(PLAIN, None), (ARGUMENT, "argument"), (SYSTEM, "system"), (NO_SYSTEM, None), (None, None)],
)
def test_the_switch_is_found_by_trying_it(template, expected):
    assert thinking_switch(Template(template)) == expected


def test_a_plain_template_renders_as_jinja_does_whatever_the_mode():
    expected = Environment().from_string(PLAIN).render(messages=CHAT)
    for mode in (None, "on", "off"):
        assert render_chat(CHAT, Template(PLAIN), thinking=mode) == expected


def test_a_switch_in_the_prompt_stands_before_the_last_answer():
    tokenizer = Template(ARGUMENT)
    off = render_chat(CHAT, tokenizer, thinking="off")
    assert off == "<|user|>two and two<|end|>\n<|assistant|><think></think>four<|end|>\n"
    on = render_chat(THOUGHT, tokenizer, thinking="on")
    thought = "<think>\n2+2=4\n</think>\n\n"
    assert on == off.replace("<think></think>", thought)
    assert render_chat(THOUGHT, tokenizer, thinking="off") == off
    # A conversation that ends with a question has no answer to put it before.
    assert "<think>" not in render_chat(CHAT[:1], tokenizer, thinking="off")


def test_a_switch_in_the_system_message_is_put_there_and_stripped():
    for system in ([], [{"role": "system", "content": "Be brief."}]):
        off = render_chat([*system, *CHAT], Template(SYSTEM), thinking="off")
        assert "no_think" not in off
        assert off.endswith("<|assistant|><think></think>four<|end|>\n")
        assert off.startswith("<|system|>Be brief." if system else "<|system|><|end|>")
        on = render_chat([*system, *THOUGHT], Template(SYSTEM), thinking="on")
        assert on.endswith("<|assistant|><think>2+2=4\n</think>\n\nfour<|end|>\n")
        assert render_chat([*system, *THOUGHT], Template(SYSTEM), thinking="off") == off


def test_a_search_reads_conversations_through_the_template():
    rows = [{"messages": CHAT}, "plain text"]
    rendered = render_chat(CHAT, Template(PLAIN))
    assert documents(rows, Template(PLAIN)) == [rendered, "plain text"]
    assert documents(rows) == ["user: two and two\nassistant: four", "plain text"]


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        (["hello"], "'role' and 'content'"),
        ([{"role": "user"}], "no 'content'"),
        ([{"role": "system", "content": "x"}, *CHAT], "rejects turns of roles"),
    ],
)
def test_a_bad_conversation_is_named(messages, match):
    with pytest.raises(DataError, match=match):
        render_chat(messages, Template(NO_SYSTEM))


def test_an_unknown_mode_is_named():
    with pytest.raises(DataError, match="'on', 'off'"):
        render_chat(CHAT, Template(PLAIN), thinking="both")


def test_parts_of_text_are_joined_and_other_parts_named():
    parts = [{"type": "text", "text": "two and "}, "two", {"type": "text", "text": "?"}]
    rows = [{"role": "user", "content": parts}, CHAT[1]]
    joined = [{"role": "user", "content": "two and two?"}, CHAT[1]]
    for template in (None, PLAIN):
        assert render_chat(rows, Template(template)) == render_chat(joined, Template(template))
    image = [{"role": "user", "content": [*parts, {"type": "image", "url": "x"}]}]
    with pytest.raises(DataError, match="part of type 'image'"):
        render_chat(image, Template(PLAIN))


CALLS = [
    {"role": "user", "content": "Rain in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"a": 1}}}
        ],
    },
]
WITH_CALLS = (
    "{% for t in tools or [] %}<{{ t.name }}>{% endfor %}{% for m in messages %}[{{ m.role }}]"
    "{{ m.content or (m.tool_calls | tojson) }}{% endfor %}"
)


def test_tools_documents_and_tool_calls_reach_the_template():
    expected = (
        '<w>[user]Rain in Oslo?[assistant][{"type": "function", "function": '
        '{"name": "weather", "arguments": {"a": 1}}}]'
    )
    assert render_chat(CALLS, Template(WITH_CALLS), tools=[{"name": "w"}]) == expected
    rag = "{{ documents[0].text }}"
    assert render_chat(CHAT, Template(rag), documents=[{"text": "here"}]) == "here"
    row = {"messages": CALLS, "tools": [{"name": "w"}]}
    assert documents([row], Template(WITH_CALLS)) == [expected]


def test_without_a_template_nothing_is_left_out():
    text = render_chat(CALLS, None, tools=[{"name": "w"}], documents=[{"text": "here"}])
    for part in ('tools: [{"name": "w"}]', 'documents: [{"text": "here"}]', "Rain", '"weather"'):
        assert part in text


def test_what_arrow_fills_in_is_not_rendered():
    tools = [
        {"name": "w", "parameters": {"place": "text"}},
        {"name": "v", "parameters": {"n": "1"}},
    ]
    rows = [{"messages": CHAT, "tools": [tool]} for tool in tools]
    table = datasets.Dataset.from_list(rows)
    assert None in table[0]["tools"][0]["parameters"].values()
    template = Template("{{ tools | tojson }}")
    for data in (table, table.to_iterable_dataset()):
        assert documents(data, template) == documents(rows, template)


def test_a_template_that_does_not_read_tools_is_warned_of(caplog):
    _warn_once.cache_clear()
    render_chat(CHAT, Template(PLAIN), tools=[{"name": "w"}])
    assert "'tools', which the tokenizer's chat template does not read" in caplog.text


def test_named_templates_are_kept_beside_a_saved_tokenizer(tmp_path):
    templates = {"default": PLAIN, "tool_use": "{{ tools }}"}
    cutter = tokenizer(templates)
    save_tokenizer(cutter, tmp_path / "new")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert loaded.chat_template == templates
    save_tokenizer(loaded, tmp_path / "copied")
    assert AutoTokenizer.from_pretrained(tmp_path / "copied").chat_template == templates
