"""A teacher that answers over HTTP: the log-probabilities of each next token of a prompt."""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from puzzle.errors import EngineError, PuzzleError, SettingError
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_list, as_number, as_object, as_text
from puzzle.storage.plain_values import count_of

TRIES, TOGETHER = 3, 8
# Beyond any reply: some hundred bytes for each token of a window and each of k.
MOST_BYTES = 2**31


class TeacherServer:
    """A server with vLLM's completions: `prompt_logprobs` of a prompt given as token numbers.

    Args:
        url: Such as "http://localhost:8000"; the server's own path `/v1` may be left out.
        model: The model's name there; by default the first that the server lists.
        seconds: How long a reply may take.

    Raises:
        SettingError: The URL is none of HTTP.
        EngineError: It does not answer, or not in this form.
    """

    def __init__(self, url: str, *, model: str | None = None, seconds: float = 600.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingError(f"teacher={url!r}; allowed: a URL of http or https, or a directory")
        self.url, self.seconds = url.rstrip("/").removesuffix("/v1"), seconds
        self.model = model or self._first_model()

    @property
    def identity(self) -> str:
        """The name under which its answers are kept."""
        return f"{self.url} {self.model}"

    def top(self, tokens_BL: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the k likeliest next tokens at every position, and their log-probabilities.

        Args:
            tokens_BL: Token windows.
            k: How many.

        Returns:
            Two tensors of (windows, length, k).
        """
        count_of("k", k)
        with ThreadPoolExecutor(TOGETHER) as pool:
            rows = list(pool.map(lambda row: self._window(row, k), tokens_BL.tolist()))
        ids = torch.tensor([row[0] for row in rows], dtype=torch.int32)
        return ids, torch.tensor([row[1] for row in rows], dtype=torch.float32)

    def _window(self, tokens: list[int], k: int) -> tuple[list[list[int]], list[list[float]]]:
        # What follows the last token is told of one more prompt token, whichever that is.
        body = {
            "model": self.model,
            "prompt": [*tokens, tokens[-1]],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": k,
        }
        reply = self._asked("/v1/completions", body)
        with interpreting(self.url, "a reply with prompt_logprobs", EngineError):
            (choice,) = as_list(as_object(reply, "a reply")["choices"], "choices")
            told = as_list(as_object(choice, "a choice")["prompt_logprobs"], "prompt_logprobs")
            if len(told) != len(tokens) + 1:
                raise ValueError(f"{len(told)} positions for a prompt of {len(tokens) + 1} tokens")
            pairs = [_largest(as_object(each, "a position"), k) for each in told[1:]]
        return [[t for t, _ in row] for row in pairs], [[p for _, p in row] for row in pairs]

    def _first_model(self) -> str:
        reply = self._asked("/v1/models", None)
        with interpreting(self.url, "a list of models", EngineError):
            models = as_list(as_object(reply, "a reply")["data"], "data")
            return as_text(as_object(models[0], "a model")["id"], "id")

    def _asked(self, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"Content-Type": "application/json"}
        )
        problem = ""
        for _ in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self.seconds) as reply:
                    return json.loads(reply.read(MOST_BYTES))
            except urllib.error.HTTPError as error:
                problem = f"{error} {error.read(300).decode(errors='replace')}"
                if error.code < 500 and error.code != 429:
                    break
            except (OSError, ValueError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
        raise EngineError(
            f"{self.url}{path} does not answer: {problem}; it has to be a server with "
            "prompt_logprobs such as vLLM's, started with --max-logprobs of k or more and "
            "--max-model-len of two tokens more than a window"
        )


def _largest(position: Mapping[str, Any], k: int) -> list[tuple[int, float]]:
    """Returns the k likeliest tokens: a server adds the prompt's own where it is not among them."""
    pairs = []
    for token, each in position.items():
        value = each["logprob"] if isinstance(each, dict) else each
        pairs.append((int(token), max(as_number(value, "logprob"), -9999.0)))
    if len(pairs) < k:
        raise ValueError(f"{len(pairs)} log-probabilities where {k} were asked for")
    if not all(token >= 0 and math.isfinite(value) and value < 1e-3 for token, value in pairs):
        raise PuzzleError("a log-probability above 0, or a token below 0")
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]
