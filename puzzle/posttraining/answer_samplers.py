"""Answers sampled from a model in memory, or from a server that speaks OpenAI's protocol."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import LogitsProcessorList

from puzzle.errors import DataError, EngineError
from puzzle.evaluation.answer_writing import token_ends
from puzzle.models.thinking_budget import ThinkingBudget
from puzzle.posttraining.opened_model import opened_with_tokenizer
from puzzle.posttraining.stage_settings import SampleSettings
from puzzle.storage.hashing import content_hash, hash_tensors
from puzzle.text.chat import render_prompt, with_system_prompt
from puzzle.text.template_rendering import rendered_tokens
from puzzle.text.thoughts import (
    CLOSE,
    OPEN,
    THOUGHT_FIELDS,
    check_system_prompts,
    split_thought,
)

Turns = list[dict[str, Any]]
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One answer of a model.

    Args:
        thought: Its thought, empty if there is none.
        answer: None where thought or answer do not end.
        tokens: Tokens of both, as far as they are known; else 0.
    """

    thought: str
    answer: str | None
    tokens: int = 0


class Sampler(Protocol):
    """What answers prompts in a mode."""

    @property
    def identity(self) -> str:
        """What the answers depend on, beside prompts and settings."""
        ...

    def sample(
        self, prompts: Sequence[Turns], mode: str, settings: SampleSettings, *, seed: int
    ) -> list[list[Sampled]]:
        """Returns the answers to each prompt."""
        ...


class ModelSampler:
    """Answers of a model in memory.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, whose template has a switch.
        system_prompts: The system prompt of each mode, for a model whose switch that is.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, system_prompts: Mapping[str, str] | None = None
    ) -> None:
        if tokenizer is None:
            raise DataError("the model has no tokenizer beside it; give one with tokenizer=")
        check_system_prompts(system_prompts)
        self.model, self.tokenizer, self.system_prompts = model, tokenizer, system_prompts

    @property
    def identity(self) -> str:
        """Hash of weights, template and system prompts."""
        tensors = {name: each.detach() for name, each in self.model.state_dict().items()}
        return content_hash(
            {
                "weights": hash_tensors({k: v.cpu().contiguous() for k, v in tensors.items()}),
                "template": str(self.tokenizer.chat_template),
                "system_prompts": dict(self.system_prompts or {}),
            }
        )

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Turns], mode: str, settings: SampleSettings, *, seed: int
    ) -> list[list[Sampled]]:
        """Returns the answers to each prompt, drawn with a seed of their own."""
        texts = [
            render_prompt(turns, self.tokenizer, thinking=mode, system_prompts=self.system_prompts)
            for turns in prompts
        ]
        repeated = [text for text in texts for _ in range(settings.samples)]
        with torch.random.fork_rng(devices=[] if self.model.device.type == "cpu" else None):
            torch.manual_seed(seed)
            found = self._written(repeated, settings)
        return [found[n : n + settings.samples] for n in range(0, len(found), settings.samples)]

    def _written(self, prompts: Sequence[str], settings: SampleSettings) -> list[Sampled]:
        rows = [rendered_tokens(self.tokenizer, each) for each in prompts]
        length = max(map(len, rows))
        device = self.model.device
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        ends = token_ends(self.model, self.tokenizer)
        draws = settings.temperature > 0
        limits = LogitsProcessorList()
        if settings.budget is not None:
            limits.append(ThinkingBudget(self.tokenizer, settings.budget))
        out = self.model.generate(
            ids,
            attention_mask=mask.to(device),
            max_new_tokens=settings.max_tokens,
            do_sample=draws,
            temperature=settings.temperature if draws else None,
            top_p=settings.top_p if draws else None,
            top_k=0 if draws else None,
            eos_token_id=sorted(ends) or None,
            pad_token_id=min(ends, default=0),
            logits_processor=limits,
        )
        found = []
        for prompt, row in zip(prompts, out[:, length:].tolist(), strict=True):
            place = next((n for n, token in enumerate(row) if token in ends), None)
            opened = OPEN if prompt.rstrip().endswith(OPEN) else ""
            text = opened + self.tokenizer.decode(row[:place], skip_special_tokens=False)
            tokens = len(row) if place is None else place
            found.append(_sampled(text, tokens, ended=place is not None))
        return found


class ChatServer:
    """Answers of a server that speaks OpenAI's protocol, such as vLLM, SGLang or llama.cpp.

    The mode is given as `chat_template_kwargs` of each request. Thoughts are read from
    `reasoning_content` or its like, or between the tags.

    Args:
        url: Up to the version: "http://localhost:8000/v1".
        model: The name of the model there.
        api_key: Sent as a bearer token, if given.
        system_prompts: The system prompt of each mode, for a model whose switch that is.
        seconds: The most that one request may take.

    Raises:
        DataError: The address is not of HTTP.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        system_prompts: Mapping[str, str] | None = None,
        seconds: float = 600.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise DataError(f"url={url!r}; give an address such as http://localhost:8000/v1")
        check_system_prompts(system_prompts)
        self.url, self.model, self._key = url.rstrip("/"), model, api_key
        self.system_prompts, self.seconds = dict(system_prompts or {}), seconds

    @property
    def identity(self) -> str:
        """The model's name there; the address may change between two calls."""
        return content_hash({"server": self.model, "system_prompts": self.system_prompts})

    def sample(
        self, prompts: Sequence[Turns], mode: str, settings: SampleSettings, *, seed: int
    ) -> list[list[Sampled]]:
        """Returns the answers to each prompt.

        Raises:
            EngineError: The server cannot be reached, or refuses a request.
        """
        jobs = [
            (turns, mode, settings, seed + number)
            for number, turns in enumerate(t for t in prompts for _ in range(settings.samples))
        ]
        with ThreadPoolExecutor(max_workers=settings.batch) as pool:
            found = list(pool.map(lambda job: self._one(*job), jobs))
        return [found[n : n + settings.samples] for n in range(0, len(found), settings.samples)]

    def _one(self, turns: Turns, mode: str, settings: SampleSettings, seed: int) -> Sampled:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": turns,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "seed": seed,
        }
        if self.system_prompts:
            body["messages"] = with_system_prompt(turns, mode, self.system_prompts)
        else:
            body["chat_template_kwargs"] = {"enable_thinking": mode == "on"}
        reply = self._post(body)
        try:
            choice = reply["choices"][0]
            message, ended = choice["message"], choice["finish_reason"] == "stop"
            tokens = int(reply.get("usage", {}).get("completion_tokens", 0))
            content = message.get("content") or ""
            thought = next((message[k] for k in THOUGHT_FIELDS if message.get(k)), "")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError(f"{self.url} answers {reply!r:.200}, no chat completion") from error
        if thought:
            answer = content.strip() if ended and content.strip() else None
            return Sampled(thought=str(thought).strip(), answer=answer, tokens=tokens)
        # A template that opens the thought in the prompt leaves its end to be seen.
        opened = OPEN if mode == "on" and CLOSE in content and OPEN not in content else ""
        return _sampled(opened + content, tokens, ended=ended)

    def _post(self, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers
        )
        problem = ""
        for _ in range(_TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self.seconds) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                problem = f"{error} {error.read(300).decode(errors='replace')}"
                if error.code < 500 and error.code != 429:
                    break
            except (OSError, ValueError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
        raise EngineError(f"{self.url} does not answer: {problem}")


def sampler_of(teacher: Any, tokenizer: Any, system_prompts: Mapping[str, str] | None) -> Sampler:
    """Returns what answers for a model, its directory, a `ChatServer` or another sampler.

    Raises:
        DataError: There is no tokenizer, or a server is given one.
    """
    if isinstance(teacher, ChatServer):
        if system_prompts is not None or tokenizer is not None:
            raise DataError(
                "a ChatServer has its own tokenizer and system_prompts: give them to it"
            )
        return teacher
    if hasattr(teacher, "sample") and hasattr(teacher, "identity"):
        return teacher
    model, own = opened_with_tokenizer(teacher, tokenizer)
    return ModelSampler(model, own, system_prompts=system_prompts)


def _sampled(text: str, tokens: int, *, ended: bool) -> Sampled:
    thought, answer = split_thought(text)
    return Sampled(thought=thought, answer=answer if ended else None, tokens=tokens)
