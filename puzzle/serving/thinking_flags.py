"""How each engine is told whether a model thinks, and for how long: one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puzzle.errors import ExportError
from puzzle.storage.plain_values import count_of
from puzzle.text.thoughts import CLOSE, MODES, OPEN
from search_space.engines import engine_named

BUDGET = "BUDGET"
_TAGS = json.dumps({"reasoning_start_str": OPEN, "reasoning_end_str": CLOSE})


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingFlags:
    """What an engine is given so that a model thinks or does not, and no longer than a budget.

    Args:
        server: Options of its server, as for `subprocess`.
        request: Fields of a request for a chat completion.
        note: What else there is to know.
        tried: Whether the budget was run, rather than read in the engine's code or documentation.
    """

    server: tuple[str, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    tried: bool = False


# How each engine is given a budget; "BUDGET" stands for the number. The switch is the same
# everywhere, `chat_template_kwargs` of a request.
BUDGETS: Mapping[str, ThinkingFlags | None] = {
    "transformers": ThinkingFlags(
        note="generate(..., logits_processor=[puzzle.ThinkingBudget(tokenizer, BUDGET)])",
        tried=True,
    ),
    "vllm": ThinkingFlags(
        server=("--reasoning-config", _TAGS),
        request={"thinking_token_budget": BUDGET},
        note="exact in 0.32 where each tag is one token; of tags cut into several, more is let "
        "through; in extra_args of Python's SamplingParams it is ignored",
        tried=True,
    ),
    "llama.cpp": ThinkingFlags(
        server=("--jinja", "--reasoning-budget", BUDGET),
        note="of the whole server; the mechanism was run through xllamacpp, serve_check(budget=)",
        tried=True,
    ),
    "sglang": ThinkingFlags(
        server=("--reasoning-parser", "qwen3", "--enable-strict-thinking"),
        request={"custom_params": {"thinking_budget": BUDGET}},
        note="the parser of <think> tags; without strict thinking a template ignores the number",
    ),
    "mlx": None,
    "tensorrt-llm": ThinkingFlags(
        note="tensorrt_llm.llmapi.ThinkingBudgetLogitsProcessor(BUDGET, start ids, end ids)",
    ),
}


def serving_flags(
    engine: str, *, thinking: str | None = None, budget: int | None = None
) -> ThinkingFlags:
    """Returns how an engine is told whether a model thinks, and for how many tokens at most.

    Args:
        engine: "vllm", "llama.cpp" and so on.
        thinking: "on" or "off", for a chat template that reads `enable_thinking`; None for the
            template's default.
        budget: The most tokens of a thought; None for no limit.

    Raises:
        ExportError: The engine is unknown, or cannot limit a thought.
        DataError: The mode or the number is not allowed.

    Example:
        >>> flags = serving_flags("llama.cpp", thinking="on", budget=512)
        >>> flags.server
        ('--jinja', '--reasoning-budget', '512')
        >>> flags.request
        {'chat_template_kwargs': {'enable_thinking': True}}
    """
    try:
        name = engine_named(engine).name
    except ValueError as error:
        raise ExportError(str(error)) from error
    if thinking not in (None, *MODES):
        raise ExportError(f"thinking={thinking!r}; allowed: 'on', 'off', None")
    limit = ThinkingFlags(tried=True)
    if budget is not None:
        known = BUDGETS.get(name)
        if known is None:
            raise ExportError(
                f"{name} cannot limit a thought: its server takes no such number; allowed: "
                f"{sorted(each for each, flags in BUDGETS.items() if flags)}"
            )
        limit = _filled(known, count_of("budget", budget, least=0, error=ExportError))
    switch = {} if thinking is None else {"enable_thinking": thinking == "on"}
    request = {**limit.request, **({"chat_template_kwargs": switch} if switch else {})}
    return ThinkingFlags(server=limit.server, request=request, note=limit.note, tried=limit.tried)


def _filled(flags: ThinkingFlags, budget: int) -> ThinkingFlags:
    text = json.dumps(flags.request).replace(f'"{BUDGET}"', str(budget))
    return ThinkingFlags(
        server=tuple(str(budget) if option == BUDGET else option for option in flags.server),
        request=json.loads(text),
        note=flags.note.replace(BUDGET, str(budget)),
        tried=flags.tried,
    )
