"""Claims about the limits of chat templates, and that within them they render as ever."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from puzzle.errors import DataError
from puzzle.text import template_rendering
from puzzle.text.chat import render_chat, thinking_switch
from puzzle.text.template_rendering import TemplateProcess, apply_template
from tests.factories.parents import tokenizer
from tests.puzzle.text.test_chat import ARGUMENT, CHAT, PLAIN, SYSTEM

TOOLS = [{"type": "function", "function": {"name": "weather_at", "parameters": {}}}]
FULL = (
    "{{ bos_token }}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for d in documents or [] %}[{{ d.title }}]{% endfor %}" + PLAIN
)
ENDLESS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "a macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ range(9**9) | list }}{{ f() }}",
    "nested lists": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "a long text": "{{ 'a' * 10 ** 11 }}",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "padding": "{{ 'a' | center(10 ** 11) }}",
}


def request(template, **more):
    return {"conversations": [CHAT], "chat_template": template, **more}


@pytest.fixture(scope="module")
def process():
    limited = TemplateProcess(seconds=2, memory=2**28, most=10**6)
    yield limited
    limited.close()


@pytest.mark.parametrize("name", ENDLESS)
def test_no_template_runs_without_end_or_takes_all_memory(name, process):
    began = time.monotonic()
    with pytest.raises(DataError):
        process.render(request(ENDLESS[name]))
    # Two seconds, and the start of a process where the one before was ended.
    assert time.monotonic() - began < 60
    assert process.render(request(PLAIN)) == render_chat(CHAT, tokenizer(PLAIN))


def test_text_that_is_too_long_is_refused_though_it_fits_the_memory(process):
    with pytest.raises(DataError, match="characters of text, of which 1000000 are allowed"):
        process.render(request("{{ 'a' * 1000001 }}"))
    assert len(process.render(request("{{ 'a' * 1000000 }}"))) == 10**6


def test_threads_share_a_process_and_the_limit_holds_in_each(process):
    def one(number):
        if number % 4 == 3:
            with pytest.raises(DataError, match="longer than 2 seconds"):
                process.render(request(ENDLESS["nested loops"]))
            return True
        return process.render(request("{{ n }}", n=number)) == str(number)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(8)))
    assert threading.active_count() < 20


def test_errors_of_a_template_are_told_and_the_process_goes_on(process):
    process.render(request(PLAIN))
    running = process._process.pid
    for template, match in (
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{% for %}", "Expected"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages.append(1) }}", "unsafe|not safe|undefined"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ):
        with pytest.raises(DataError, match=match):
            process.render(request(template))
    assert process._process.pid == running


@pytest.mark.parametrize("template", [PLAIN, ARGUMENT, SYSTEM, FULL])
def test_what_is_rendered_equals_what_transformers_renders(template):
    cutter = tokenizer(template)
    cutter.bos_token = "<eos>"
    documents = [{"title": "a \u2028 \u00e9 \U0001f600", "text": "b"}]
    for prompt in (False, True):
        expected = cutter.apply_chat_template(
            CHAT, tokenize=False, add_generation_prompt=prompt, tools=TOOLS, documents=documents
        )
        given = {"prompt": prompt, "tools": TOOLS, "documents": documents}
        assert apply_template(cutter, CHAT, **given) == expected
    assert thinking_switch(cutter) == {ARGUMENT: "argument", SYSTEM: "system"}.get(template)


def test_a_hanging_template_of_a_tokenizer_is_refused(monkeypatch, process):
    monkeypatch.setattr(template_rendering, "_PROCESS", process)
    with pytest.raises(DataError, match=r"rejects turns of roles .*longer than 2 seconds"):
        render_chat(CHAT, tokenizer(ENDLESS["nested loops"]))


def test_the_template_tool_use_is_taken_for_rows_with_tools():
    cutter = tokenizer({"default": "no tools", "tool_use": "{{ tools[0].function.name }}"})
    assert render_chat(CHAT, cutter) == "no tools"
    assert render_chat(CHAT, cutter, tools=TOOLS) == "weather_at"
    assert render_chat(CHAT, cutter, tools=json.dumps(TOOLS)) == "weather_at"
    with pytest.raises(DataError, match="no default"):
        render_chat(CHAT, tokenizer({"other": "x"}))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs signals")
def test_the_process_ends_with_the_one_that_started_it():
    code = (
        "from puzzle.text.template_rendering import _PROCESS as p; import os, signal;"
        "p.render({'conversations': [[]], 'chat_template': 'x'});"
        "print(p._process.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    worker = int(done.stdout)
    for _ in range(200):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie":
            return
        time.sleep(0.1)
    pytest.fail("the process is still there")
