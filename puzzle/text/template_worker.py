"""A process of its own that renders chat templates: JSON lines in, JSON lines out.

Templates come with models, and one may loop for ever or fill the memory. Here the operating system
can stop it: time and memory are limited for each process, and the templates see no more than what
they are given. Run by `puzzle.text.template_rendering`; imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

from jinja2 import TemplateError

# What a template can raise; anything else ends the process.
_OF_TEMPLATES = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError),
    *(TemplateError, TypeError, ValueError),
)


def render_request(request: dict[str, Any], most: int) -> dict[str, str]:
    """Returns the text of a request, or the error of its template."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, _ = render_jinja_template(**request)
        text = str(texts[0])
    except MemoryError:
        return {"limit": "more memory than is allowed"}
    except _OF_TEMPLATES as error:
        return {"error": f"{str(error) or type(error).__name__}"[:500]}
    if len(text) > most:
        return {"limit": f"{len(text)} characters of text, of which {most} are allowed"}
    return {"text": text}


def limit_memory(added: int) -> None:
    """Limits the memory of this process to what it has and some more."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + added, now + added))
    except (ImportError, OSError, ValueError):
        return  # not on this system; the time limit stands


def answer_requests(seconds: int, memory: int, most: int) -> None:
    """Answers requests until the input ends.

    Args:
        seconds: Time of one request; the system kills the process then.
        memory: Bytes that templates may take.
        most: Characters that a template may write.
    """
    # A path of our own for the answers: whatever is printed goes elsewhere.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.modules["torch"] = None  # type: ignore[assignment]  # takes seconds and is not needed
    with contextlib.suppress(ImportError):
        render_request({"conversations": [[]], "chat_template": ""}, most)
    limit_memory(memory)
    alarm = getattr(signal, "alarm", None)
    # An interrupt is for whoever started this process, and who ends it by closing the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        if alarm is not None:
            alarm(seconds)
        answer = render_request(json.loads(line), most)
        if alarm is not None:
            alarm(0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    answer_requests(*map(int, sys.argv[1:4]))
