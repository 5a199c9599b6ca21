"""Exchanges as tokens in both modes, with the loss on what the model writes itself."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puzzle.errors import DataError
from puzzle.posttraining.conversation_rows import Exchange
from puzzle.posttraining.stage_settings import PairSettings
from puzzle.text.chat import render_conversation, render_prompt
from puzzle.text.template_rendering import rendered_tokens
from puzzle.text.thoughts import CLOSE
from puzzle.text.turns import Conversation

_IGNORED = -100  # what the loss leaves out


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Tokens of a prompt and its answer, and those of them that the loss is on."""

    mode: str
    ids: list[int]
    labels: list[int]


def pair_rows(
    exchanges: Sequence[Exchange], tokenizer: Any, settings: PairSettings, longest: int
) -> tuple[list[TokenRow], dict[str, int]]:
    """Returns the rows of both modes in the order of training, and what was counted.

    Args:
        exchanges: The data.
        tokenizer: Of the model, with a switch for thinking.
        settings: How rows are made.
        longest: The most tokens of a row.

    Raises:
        DataError: The template has no switch, or rejects an exchange.
    """
    generator = random.Random(settings.seed)
    by_mode: dict[str, list[TokenRow]] = {"on": [], "off": []}
    counts: Counter[str] = Counter()
    for number, exchange in enumerate(exchanges):
        for mode in exchange.modes:
            cut = mode == "on" and generator.random() < settings.cut_share
            try:
                row = _token_row(exchange, mode, tokenizer, settings, generator if cut else None)
            except DataError as error:
                raise DataError(f"row {number} (from 0): {error}") from error
            if len(row.ids) > longest:
                counts["rows that are too long"] += 1
                continue
            counts["rows with a cut thought"] += cut
            by_mode[mode].append(row)
    if not any(by_mode.values()):
        raise DataError(f"no row has at most {longest} tokens; give a higher max_length")
    if settings.balanced and all(by_mode.values()):
        least = min(map(len, by_mode.values()))
        for mode, found in by_mode.items():
            counts["rows left out for balance"] += len(found) - least
            kept = sorted(generator.sample(range(len(found)), least))
            by_mode[mode] = [found[place] for place in kept]
    for mode, found in by_mode.items():
        counts[f"rows, thinking {mode}"] = len(found)
    made = _ordered(by_mode, generator, sort=settings.curriculum)
    counts["tokens"] = sum(len(row.ids) for row in made)
    counts["tokens with a loss"] = sum(n != _IGNORED for row in made for n in row.labels)
    return made, dict(counts)


def _ordered(
    by_mode: Mapping[str, list[TokenRow]], generator: random.Random, *, sort: bool
) -> list[TokenRow]:
    """Returns rows such that every stretch has its share of both modes."""
    placed = []
    for found in by_mode.values():
        rows = list(found)
        generator.shuffle(rows)  # so that rows of one length are in no order of the data's
        if sort:
            rows.sort(key=lambda row: len(row.ids))
        placed += [((place + 0.5) / len(rows), row) for place, row in enumerate(rows)]
    return [row for _, row in sorted(placed, key=lambda pair: pair[0])]


def _token_row(
    exchange: Exchange,
    mode: str,
    tokenizer: Any,
    settings: PairSettings,
    cuts: random.Random | None,
) -> TokenRow:
    prompts = settings.system_prompts
    prompt = render_prompt(exchange.prompt, tokenizer, thinking=mode, system_prompts=prompts)
    turns = [*exchange.prompt, exchange.completion(mode)]
    whole = render_conversation(
        Conversation.of(turns), tokenizer, thinking=mode, system_prompts=prompts
    )
    if whole is None or not whole.startswith(prompt):
        raise DataError(
            f"the chat template does not start the conversation with the prompt for its last "
            f"answer, with thinking {mode}: the prompt ends with {prompt[-40:]!r}"
        )
    ids = rendered_tokens(tokenizer, prompt)
    written = whole[len(prompt) :].rstrip("\n")
    unlearned, learned = [], rendered_tokens(tokenizer, written)
    if cuts is not None and CLOSE in written:
        thought, _, answer = written.partition(CLOSE)
        tokens = rendered_tokens(tokenizer, thought.rstrip())
        unlearned = tokens[: cuts.randrange(1, max(2, len(tokens)))] + rendered_tokens(
            tokenizer, CLOSE
        )
        learned = rendered_tokens(tokenizer, answer)
    end = tokenizer.eos_token_id
    if end is not None and end not in learned:
        learned = [*learned, end]
    before = [*ids, *unlearned]
    return TokenRow(mode, [*before, *learned], [*[_IGNORED] * len(before), *learned])
