"""Chat templates rendered within limits of time, memory and size."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from puzzle.errors import DataError
from puzzle.text import template_worker

SECONDS = 10
MEMORY_BYTES = 2**30
MOST_CHARACTERS = 2**24
# Importing transformers takes seconds, on a machine that is busy many.
START_SECONDS = 120


class TemplateProcess:
    """A process that renders chat templates; it is ended, and started anew, at a limit.

    Any thread may call it, one at a time. It ends when this process does.

    Args:
        seconds: Time for one conversation.
        memory: Bytes that a template may take.
        most: Characters that it may write.
    """

    def __init__(
        self,
        seconds: int = SECONDS,
        memory: int = MEMORY_BYTES,
        most: int = MOST_CHARACTERS,
    ) -> None:
        self.seconds, self.memory, self.most = seconds, memory, most
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()

    def render(self, request: Mapping[str, Any]) -> str:
        """Returns what a template writes.

        Args:
            request: Arguments of transformers' `render_jinja_template`, as JSON values.

        Raises:
            DataError: The template fails, or goes beyond a limit.
        """
        line = json.dumps(request, default=str)
        with self._lock:
            answer = self._ask(line)
        if answer is None:
            raise DataError(
                f"it takes longer than {self.seconds} seconds, or more memory than "
                f"{self.memory // 2**20} MiB; use a tokenizer with another chat_template"
            )
        if "limit" in answer:
            raise DataError(f"it takes {answer['limit']}; use a tokenizer with another template")
        if "error" in answer:
            raise DataError(answer["error"])
        return str(answer["text"])

    def _ask(self, line: str) -> dict[str, str] | None:
        """Returns the answer of the process, None if it died of the request."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        # The process has an alarm of its own where the system has alarms.
        timer = threading.Timer(self.seconds + 2, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        except BaseException:  # an answer that nobody waited for must not be the next one's
            self._end()
            raise
        finally:
            timer.cancel()
        if not answer.endswith("\n"):
            self._end()
            return None
        parsed: dict[str, str] = json.loads(answer)
        return parsed

    def _running(self) -> subprocess.Popen[str]:
        if self._owner != os.getpid():  # a fork: the process is our parent's
            if self._process is not None:
                self._process.returncode = 0
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = self._started()
        return self._process

    def _started(self) -> subprocess.Popen[str]:
        limits = (self.seconds, self.memory, self.most)
        process = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(template_worker.__file__), *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        assert process.stdout is not None
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        ready = process.stdout.readline()
        timer.cancel()
        if not ready:
            raise DataError("the process that renders chat templates does not start")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def close(self) -> None:
        """Ends the process; the next request starts another."""
        with self._lock:
            if self._owner == os.getpid():
                self._end()


_PROCESS = TemplateProcess()
atexit.register(_PROCESS.close)


def apply_template(
    tokenizer: Any,
    turns: Sequence[Mapping[str, Any]],
    *,
    prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Returns what a tokenizer's `apply_chat_template` gives, within the limits.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template, or several by name. One with an
            `apply_chat_template` of its own is trusted to run no template.
        turns: The conversation.
        prompt: Whether the beginning of an answer is added.
        tools: Tools that the template describes.
        documents: Documents that it shows.
        arguments: Further variables of the template.

    Raises:
        DataError: The template rejects the conversation, or goes beyond a limit.
    """
    given: dict[str, Any] = {"tools": tools, "documents": documents}
    given = {name: value for name, value in given.items() if value is not None}
    given["add_generation_prompt"] = prompt
    try:
        if not _is_stock(tokenizer):
            return str(
                tokenizer.apply_chat_template(
                    list(turns), tokenize=False, **given, **(arguments or {})
                )
            )
        request = {
            "conversations": [list(turns)],
            "chat_template": tokenizer.get_chat_template(tools=tools),
            **given,
            **tokenizer.special_tokens_map,
            **(arguments or {}),
        }
        return _PROCESS.render(request)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = [turn["role"] for turn in turns]
        raise DataError(
            f"the tokenizer's chat template rejects turns of roles {roles}: {error}"
        ) from error


def _is_stock(tokenizer: Any) -> bool:
    from transformers import PreTrainedTokenizerBase

    own = getattr(type(tokenizer), "apply_chat_template", None)
    return own is PreTrainedTokenizerBase.apply_chat_template


def rendered_tokens(tokenizer: Any, text: str) -> list[int]:
    """Returns the tokens of a text that has been rendered, and so has its special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
