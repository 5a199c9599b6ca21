"""How long a model's answers are with and without thinking, as the workload of a search."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from puzzle.errors import DataError, SettingError
from puzzle.evaluation.answers import AnswerTask
from puzzle.evaluation.evaluating import evaluate
from puzzle.hardware.torch_state import own_torch_state
from puzzle.limits.scenario import Scenario, Workload
from puzzle.models.given_child import given_child
from puzzle.models.pretrained import load_tokenizer
from puzzle.text.chat import render_prompt
from puzzle.text.template_rendering import rendered_tokens
from puzzle.text.thoughts import MODES


@own_torch_state()
def answer_workload(
    model: Any,
    questions: Sequence[str],
    *,
    shares: Mapping[str, float],
    tokenizer: Any = None,
    batch: int = 1,
    budget: int | None = None,
    max_tokens: int = 1024,
    system_prompts: Mapping[str, str] | None = None,
) -> Workload:
    """Measures a model's answers in both modes; what `seconds_per_answer` is then a constraint on.

    Each mode becomes a scenario: prompts and answers of median length, weighted by its share.

    Args:
        model: The parent, or a child to search again for; as for `puzzle.evaluate`.
        questions: What users ask.
        shares: How many of the requests are made in each mode, such as {"on": 0.3, "off": 0.7}; a
            mode that is left out has none.
        tokenizer: By default the one beside the model. Its template has a switch for thinking,
            unless there are system prompts.
        batch: Requests that are served together.
        budget: The most tokens of a thought.
        max_tokens: The most tokens of thought and answer.
        system_prompts: The system prompt of each mode, for a model whose switch that is.

    Returns:
        The scenarios "on" and "off", for `scenario=` of `puzzle.search`.

    Raises:
        SettingError: A mode is none, or has no share above zero.
        DataError: There are no questions, no tokenizer, or no switch.

    Example:
        >>> workload = answer_workload("parent", questions,
        ...     shares={"on": 0.3, "off": 0.7})  # doctest: +SKIP
        >>> puzzle.search("parent", text, scenario=workload,
        ...     constraints="seconds_per_answer <= 0.6x")  # doctest: +SKIP
    """
    if not shares or not set(shares) <= set(MODES) or not all(s > 0 for s in shares.values()):
        raise SettingError(f"shares={dict(shares)}; give 'on', 'off' or both a share above zero")
    source, tokenizer = given_child(model, tokenizer)
    if tokenizer is None:
        if not isinstance(source, str) and not hasattr(source, "__fspath__"):
            raise DataError("there is no tokenizer beside the model; give one with tokenizer=")
        tokenizer = load_tokenizer(source)
    task = AnswerTask(name="questions", questions=questions, answers=[""] * len(questions))
    thinking = "both" if len(shares) > 1 else next(iter(shares))
    found = evaluate(
        model,
        tasks=[task],
        tokenizer=tokenizer,
        thinking=thinking,
        budget=budget,
        max_tokens=max_tokens,
        system_prompts=system_prompts,
    ).answers["child"]
    scenarios = {}
    for mode, share in shares.items():
        prompts = [
            render_prompt(question, tokenizer, thinking=mode, system_prompts=system_prompts)
            for question in questions
        ]
        lengths = [len(rendered_tokens(tokenizer, p)) for p in prompts]
        scenario = Scenario(
            batch=batch,
            prompt_tokens=round(statistics.median(lengths)),
            # The token that ends an answer is generated as well.
            generated_tokens=round(found[task.name, mode].quantile(0.5)) + 1,
        )
        scenarios[mode] = (scenario, share)
    return Workload.of(scenarios)
