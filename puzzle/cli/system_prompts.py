"""The option for models whose switch for thinking is a system prompt."""

from __future__ import annotations

from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import named_values
from puzzle.cli.subcommand import UsageError

SYSTEM_PROMPT = Option(
    name="system-prompt",
    parameter="system_prompts",
    many=True,
    help="on=TEXT and off=TEXT, the system prompts of a model whose switch these are",
)


def system_prompts_of(given: Given) -> dict[str, str] | None:
    """Returns the system prompt of each mode, None if none is given.

    Raises:
        UsageError: One is missing, or written differently.
    """
    written = given.get("system-prompt")
    if not written:
        return None
    prompts = named_values("system-prompt", written, "on=TEXT and off=TEXT")
    if set(prompts) != {"on", "off"}:
        raise UsageError(f"--system-prompt {written}: write on=TEXT and off=TEXT")
    return prompts
