"""serve_check(): does a child answer in a serving engine as it does in torch, and how fast?"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import puzzle.serving.runners
from puzzle.errors import ExportError, SettingError
from puzzle.hardware.guarding import guarded_process
from puzzle.hardware.threads import limit_threads
from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.checkpoint import open_checkpoint
from puzzle.models.pretrained import load_config, load_model
from puzzle.models.watched_files import unchanged_while_read
from puzzle.serving.exporting import export
from puzzle.serving.files import child_directory
from puzzle.serving.token_ids import FIRST, TokenIds
from puzzle.serving.writers.self_contained import is_self_contained
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.json_values import as_count, as_text
from puzzle.storage.plain_values import count_of, plain
from puzzle.storage.temporary_places import temporary_place
from search_space.engines import engine_named

TOP = 5
# The engines in which a budget of thought can be tried.
LIMITED = ("llama.cpp", "transformers", "vllm")
PROMPT = "The capital of France is"
TEXT = (
    "In the beginning the river was narrow, and the people who lived beside it crossed on stones. "
    "Later they built a bridge of wood, which burned in 1742, and then one of iron. "
    "A model that was changed inside should still say the same words as before, in every engine; "
    "so we ask for the next word after each of these, and compare the answers one by one."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """What an engine returned and how fast it was.

    Args:
        version: Of the engine.
        greedy: Token ids that continue the prompt.
        top: Per position, (token id, log-probability) of the likeliest next tokens.
        prefill: Prompt tokens per second, one value per repeat.
        decode: Generated tokens per second, likewise.
        limited: Greedy tokens with a budget of thought.
    """

    version: str
    greedy: tuple[int, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    prefill: tuple[float, ...] = ()
    decode: tuple[float, ...] = ()
    limited: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCheck:
    """A child in an engine compared with the same child in torch.

    Args:
        engine: The engine.
        version: Its version.
        path: The child's directory.
        positions: Positions whose next token was compared.
        agreement: Share of them at which engine and torch name the same most likely token.
        max_difference: Largest difference of the log-probability of a token among torch's most
            likely five, where the engine's list has it too.
        greedy_equal: Whether greedy text was the same to the last token.
        engine_text: Greedy text in the engine; token ids if there is no tokenizer.
        torch_text: Greedy text in torch, likewise.
        prefill: Median prompt tokens per second in the engine, if measured.
        decode: Median generated tokens per second in the engine, if measured.
        budget: Tokens after which the engine was to end a thought, if that was tried.
        thought: Tokens that stood between its start and its end; None if it did not end.
    """

    engine: str
    version: str
    path: Path
    positions: int
    agreement: float
    max_difference: float
    greedy_equal: bool
    engine_text: str
    torch_text: str
    prefill: float | None = None
    decode: float | None = None
    budget: int | None = None
    thought: int | None = None

    @property
    def passed(self) -> bool:
        """Whether at least 99 % of the positions agree, and a thought ended at its budget."""
        return self.agreement >= 0.99 and self.thought == self.budget

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "path": str(self.path), "passed": self.passed}

    def __str__(self) -> str:
        speed = ""
        if self.prefill is not None and self.decode is not None:
            speed = f"; prefill {self.prefill:.1f}, decode {self.decode:.1f} tokens/s"
        if self.budget is not None:
            speed += f"; a thought of at most {self.budget} tokens had {self.thought}"
        return (
            f"{self.version}: {'same as' if self.passed else 'DIFFERS from'} torch at "
            f"{self.agreement:.1%} of {self.positions} positions (log-probabilities within "
            f"{self.max_difference:.1e}), greedy text {'equal' if self.greedy_equal else 'differs'}"
            f"{speed}\n  {self.engine_text!r}"
        )


@own_torch_state()
def serve_check(
    directory: Any,
    *,
    engine: str,
    python: str | os.PathLike[str] | None = None,
    quantisation: str | None = None,
    dtype: str | None = "float32",
    exported: bool = True,
    prompt: str = PROMPT,
    text: str = TEXT,
    new_tokens: int = 24,
    speed: bool = True,
    repeats: int = 3,
    prompt_tokens: int = 128,
    threads: int = 1,
    timeout: float = 1800,
    budget: int | None = None,
) -> ServeCheck:
    """Loads a child in an engine, generates, compares with torch and measures tokens per second.

    The child is exported for the engine into a temporary directory, and the engine runs in a
    process of its own, so that it cannot take this one down with it.

    Args:
        directory: A child as `save_pretrained` or `SearchResult.save` wrote it, or the result of a
            search or distillation; a search's child that was not saved is, in a temporary place.
        engine: "vllm", "llama.cpp", "mlx" or "transformers".
        python: The interpreter of the environment the engine is installed in; this one if not
            given. That environment need not have puzzle.
        quantisation: For llama.cpp, as in `export`; "f32" if not given.
        dtype: For the others, number format of the weights; the child's own if not given. With
            "float32" the engine also computes in it, so that rounding explains no difference.
        exported: Whether the child is exported first. Without, the engine is given the directory
            as it was saved, which vLLM reads with puzzle in its environment, for every family.
        prompt: What greedy text continues.
        text: Text whose next tokens are compared.
        new_tokens: Tokens of greedy text.
        speed: Whether tokens per second are measured.
        repeats: How many times, of which the median is taken.
        prompt_tokens: Length of the prompt in that measurement; as many tokens are generated.
        threads: CPU threads of the engine.
        timeout: Seconds after which the engine is stopped.
        budget: For llama.cpp, transformers and vLLM: tokens after which a thought has to end; by
            default that is not tried. In llama.cpp it starts with the first token of the greedy
            text, whatever that is; to the prompt of the others `<think>` is added.

    Raises:
        SettingError: A number is out of range, or prompt or text have too few tokens.
        ExportError: The engine is missing (the message says what to install), cannot run the
            child, has no runner here, or fails; its last lines are then quoted.
        ParentError: The child was changed meanwhile.

    Example:
        >>> from puzzle import serve_check
        >>> print(serve_check("out/child", engine="llama.cpp"))  # doctest: +SKIP
    """
    sizes = {"new_tokens": new_tokens, "repeats": repeats, "prompt_tokens": prompt_tokens}
    _require_numbers({**sizes, "threads": threads}, timeout)
    limit_threads()
    runner = _runner(engine)
    _require_budget(engine, budget)
    _require_engine(engine, python)
    if engine == "llama.cpp":
        quantisation, dtype = quantisation or "f32", None
    elif quantisation is not None:
        raise ExportError(f"quantisation={quantisation!r} is for llama.cpp; {engine} takes dtype")
    exact = dtype == "float32" or quantisation == "f32"
    with (
        child_directory(directory) as directory,
        unchanged_while_read(directory),
        temporary_place() as place,
    ):
        # Whatever is wrong with the child is said by puzzle, not by an engine's last words.
        open_checkpoint(directory, load_config(directory, error=ExportError))
        ids = TokenIds(directory, prompt, text)
        _require_tokenizer(engine, directory, ids.tokenizer)
        path = directory
        if engine != "transformers" and exported:
            path = export(
                directory,
                place / "model",
                engine=engine,
                dtype=dtype,
                quantisation=quantisation,
            ).path
        request = {
            "model": str(path.absolute()),
            "prompt": ids.prompt,
            "text": ids.text,
            "first": FIRST,
            "top": TOP,
            "new_tokens": new_tokens,
            "speed": _speed(prompt_tokens, repeats) if speed else None,
            "context": _context(ids, prompt_tokens, new_tokens + (budget or 0)),
            "threads": threads,
            "end": next(iter(ids.ends), None),
            "exact": exact,
            "own_code": engine == "transformers" and is_self_contained(path),
        }
        reference = torch_run(directory, ids.prompt, ids.text, new_tokens)
        request["budget"] = ids.budget(budget, reference.greedy)
        answer = run_engine(runner, plain(request), python=python, timeout=timeout)
    check = compare_runs(engine, directory, answer, reference, ids)
    return replace(check, budget=budget, thought=ids.thought(answer.limited))


def _context(ids: TokenIds, prompt_tokens: int, generated: int) -> int:
    """Returns room for all that is asked, and for the tags of a thought."""
    return max(len(ids.text), len(ids.prompt), prompt_tokens) * 2 + generated + 64


def _speed(tokens: int, repeats: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "new_tokens": tokens, "repeats": repeats}


def _require_budget(engine: str, budget: int | None) -> None:
    if budget is not None and engine not in LIMITED:
        raise ExportError(
            f"budget={budget!r} cannot be tried in {engine}; allowed: {', '.join(LIMITED)}"
        )


def _require_numbers(counts: Mapping[str, int], timeout: float) -> None:
    for name, count in counts.items():
        count_of(name, count)
    if not 0 < timeout < math.inf:
        raise SettingError(f"timeout={timeout!r}; allowed: seconds above 0")


def _require_tokenizer(engine: str, directory: Path, tokenizer: Any) -> None:
    if engine == "llama.cpp" and tokenizer is None:
        what = "without which llama.cpp's server does not start; save the parent's beside the child"
        raise ExportError(f"{directory} has no tokenizer, {what}")


def _runner(engine: str) -> Path:
    try:
        engine_named(engine)
    except ValueError as error:
        raise ExportError(str(error)) from error
    name = f"run_{engine.replace('.', '_')}.py"
    file = Path(puzzle.serving.runners.__file__).with_name(name)
    if not file.is_file():
        raise ExportError(f"{engine} cannot be run from here; export for it and run it yourself")
    return file


def _require_engine(engine: str, python: str | os.PathLike[str] | None) -> None:
    module = {"llama.cpp": "xllamacpp", "mlx": "mlx_lm"}.get(engine, engine)
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    command = [os.fspath(python or sys.executable), "-c", code]
    try:
        done = subprocess.run(command, check=False, capture_output=True)
    except OSError as error:
        raise ExportError(f"python={str(python)!r} cannot be started: {error}") from error
    if done.returncode:
        raise ExportError(
            f"{engine} is not installed for {command[0]}; run: {engine_named(engine).install}. If "
            "it is in another environment, give that one's interpreter as python="
        )


def run_engine(
    runner: Path,
    request: Mapping[str, Any],
    *,
    python: str | os.PathLike[str] | None = None,
    timeout: float = 1800,
) -> EngineRun:
    """Runs one of the scripts of `puzzle.serving.runners` in a process of its own.

    Args:
        runner: The script.
        request: As that package's docstring says.
        python: The interpreter; this one if not given.
        timeout: Seconds after which it is stopped.

    Raises:
        ExportError: The engine failed or took too long; its last lines are quoted.
    """
    with temporary_place() as place:
        request_file, answer_file = place / "request.json", place / "answer.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        command = [
            os.fspath(python or sys.executable),
            "-P",
            str(runner),
            *map(str, (request_file, answer_file)),
        ]
        try:
            pipe = subprocess.PIPE
            with guarded_process(command, cwd=place, stdout=pipe, stderr=pipe) as process:
                output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{runner.stem} did not finish within {timeout:g} seconds") from error
        if process.returncode or not answer_file.is_file():
            last = "\n".join((output + errors).strip().splitlines()[-12:])
            raise ExportError(f"{runner.stem} failed with exit code {process.returncode}:\n{last}")
        answer = read_object(answer_file, "an engine's answer", error=ExportError)
    with interpreting(runner.stem, "a runner whose answer can be read", ExportError):
        return EngineRun(
            version=as_text(answer["version"], "version"),
            greedy=tuple(as_count(token, "a token") for token in answer["greedy"]),
            top=tuple(tuple((int(i), float(p)) for i, p in row) for row in answer["top"]),
            prefill=tuple(answer["prefill"]),
            decode=tuple(answer["decode"]),
            limited=tuple(as_count(token, "a token") for token in answer.get("limited", ())),
        )


@torch.no_grad()
def torch_run(
    directory: Path, prompt: Sequence[int], text: Sequence[int], new_tokens: int
) -> EngineRun:
    """Returns what a child says in torch, in float32; `top` without a cache.

    Args:
        directory: The child.
        prompt: Token ids that greedy text continues.
        text: Token ids whose next tokens are wanted.
        new_tokens: Tokens of greedy text.
    """
    model = load_model(directory, dtype=torch.float32)
    ids = torch.tensor([list(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    logits = model(torch.tensor([list(text)])).logits[0, FIRST - 1 :]
    values, tokens = torch.log_softmax(logits, -1).topk(TOP)
    rows = zip(tokens.tolist(), values.tolist(), strict=True)
    return EngineRun(
        version=f"torch {torch.__version__}",
        greedy=tuple(out[0, ids.shape[1] :].tolist()),
        top=tuple(tuple(zip(*row, strict=True)) for row in rows),
    )


def compare_runs(
    engine: str, path: Path, answer: EngineRun, reference: EngineRun, ids: TokenIds
) -> ServeCheck:
    """Compares what an engine returned with what torch returned."""
    same, largest = 0, 0.0
    engine_ids, torch_ids = ids.until_end(answer.greedy), ids.until_end(reference.greedy)
    for one, other in zip(answer.top, reference.top, strict=True):
        same += one[0][0] == other[0][0]
        own = dict(one)
        differences = [abs(own[token] - log) for token, log in other if token in own]
        largest = max([largest, *(d if math.isfinite(d) else math.inf for d in differences)])
    return ServeCheck(
        engine=engine,
        version=answer.version,
        path=path,
        positions=len(reference.top),
        agreement=same / len(reference.top),
        max_difference=largest,
        greedy_equal=engine_ids == torch_ids,
        engine_text=ids.decoded(engine_ids),
        torch_text=ids.decoded(torch_ids),
        prefill=statistics.median(answer.prefill) if answer.prefill else None,
        decode=statistics.median(answer.decode) if answer.decode else None,
    )
