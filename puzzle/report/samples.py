"""What parent and child write after the same prompts, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from puzzle.evaluation.evaluating import opened_model
from puzzle.models.generation import Prompt, generated_text
from puzzle.progress.bars import counted

# Where a search's own text is no longer there to take prompts from.
PROMPTS = (
    "The first thing to know about the sea is that",
    "Water boils at a lower temperature on a mountain because",
    "Once upon a time, in a village by the river,",
)
PROMPT_TOKENS, WRITTEN_TOKENS = 24, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What parent and child write after one prompt.

    Args:
        prompt: The prompt, or the last turn of a chat.
        parent: The parent's text.
        child: The child's text.
    """

    prompt: str
    parent: str
    child: str


def samples_of(
    given: bool | Sequence[Prompt], parent: Any, child: Any, tokenizer: Any, validation: Any
) -> tuple[Sample, ...]:
    """Returns what parent and child write after the prompts of a report.

    Args:
        given: As for `prompts_of`.
        parent: Where the parent is.
        child: The child as a causal language model.
        tokenizer: Their tokenizer; None for the one beside the parent.
        validation: As for `prompts_of`.
    """
    opened, own = opened_model(parent)
    tokenizer = tokenizer or own
    return written_samples(opened, child, tokenizer, prompts_of(given, validation, tokenizer))


def prompts_of(given: bool | Sequence[Prompt], validation: Any, tokenizer: Any) -> list[Prompt]:
    """Returns the prompts of a report.

    Args:
        given: The prompts, or True for three.
        validation: Windows of text that nothing was chosen with, whose beginnings are the three;
            None for general ones.
        tokenizer: The tokenizer.
    """
    if not isinstance(given, bool):
        return [given] if isinstance(given, str) else list(given)
    if validation is None or tokenizer is None:
        return list(PROMPTS)
    count = len(PROMPTS)
    rows = validation[:: max(1, len(validation) // count)][:count, :PROMPT_TOKENS]
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def written_samples(
    parent: Any, child: Any, tokenizer: Any, prompts: Sequence[Prompt]
) -> tuple[Sample, ...]:
    """Returns what both models write after prompts, always the most likely next token.

    Args:
        parent: The parent as a causal language model.
        child: The child.
        tokenizer: Their tokenizer.
        prompts: The prompts.

    Raises:
        DataError: As `generated_text`.
    """
    options = {"max_new_tokens": WRITTEN_TOKENS, "do_sample": False}
    rows = []
    for prompt in counted(prompts, "samples", "prompt"):
        both = [generated_text(each, tokenizer, prompt, **options) for each in (parent, child)]
        shown = prompt if isinstance(prompt, str) else str(list(prompt)[-1].get("content", ""))
        rows.append(Sample(prompt=shown, parent=both[0], child=both[1]))
    return tuple(rows)
