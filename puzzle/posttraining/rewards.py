"""Rewards for reinforcement learning: answers that are right, consistent and brief.

Each is an object that TRL's GRPO and RLOO call and that can be pickled. All but `Formed` give a
wrong answer 0 and a right one 0 or more: whatever their weights, no wrong answer is ever above a
right one. `correct_reward` and its like are for `trl grpo --reward_funcs`, which takes names alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from puzzle.errors import DataError
from puzzle.evaluation.answers import Scorer, same_text
from puzzle.evaluation.consistency import consistency
from puzzle.storage.plain_values import count_of
from puzzle.text.chat import FLAGS, mode_of_system
from puzzle.text.thoughts import CLOSE, MODES, OPEN, split_thought


def math_equal(answer: str, right: Any) -> float:
    """Returns 1 for an answer that math-verify finds equal to the right one, else 0.

    It needs the extra `[posttrain]`. Its limits of time work in the main thread only.
    """
    from math_verify import parse, verify

    return float(verify(parse(str(right)), parse(answer)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reward:
    """What rewards have in common.

    Args:
        scorer: Given an answer, without its thought, and the `answer` of its row; an answer is
            right if it returns exactly 1.
        thinking: The mode of prompts without `/think` or `/no_think` in a message: with "on", an
            answer is what follows a thought that ends.
        system_prompts: The system prompt of each mode, for a model whose switch that is.
    """

    scorer: Scorer = same_text
    thinking: str = "on"
    # Rewards are keys of their weights.
    system_prompts: Mapping[str, str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.thinking not in MODES:
            raise DataError(f"thinking={self.thinking!r}; allowed: {MODES}")

    @property
    def __name__(self) -> str:
        """The name in the trainer's log."""
        return type(self).__qualname__.lower()

    def _parts(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[Any]:
        """Returns thought and answer of each completion.

        There is no answer where a thought goes on, and none after a thought that was not wanted:
        were it paid for, a model would learn to think whatever it is told.
        """
        parts = []
        for prompt, completion in zip(prompts, completions, strict=True):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            off = self._mode(prompt) == "off"
            thought, answer = split_thought(text) if off or CLOSE in text else (text, None)
            parts.append((thought, None if off and thought.strip() else answer))
        return parts

    def _mode(self, prompt: Any) -> str:
        """Returns the mode that a prompt asks for."""
        messages = [{"content": prompt}] if isinstance(prompt, str) else prompt
        if not self.system_prompts:
            return _flagged_mode(messages, self.thinking)
        return mode_of_system(messages, self.system_prompts) or self.thinking

    def _right(self, parts: Sequence[Any], answers: Sequence[Any]) -> list[bool]:
        return [
            answer is not None and self.scorer(answer, right) == 1
            for (_, answer), right in zip(parts, answers, strict=True)
        ]


def _flagged_mode(messages: Sequence[Mapping[str, Any]], default: str) -> str:
    """Returns the mode that the last flag in a prompt's messages asks for."""
    modes = {flag: mode for mode, flag in FLAGS.items()}
    for message in reversed(messages):
        if message.get("role", "user") in ("system", "user"):
            words = str(message["content"]).split()
            for word in (*words[-1:], *words[:1]):
                if word in modes:
                    return modes[word]
    return default


@dataclass(frozen=True, slots=True, kw_only=True)
class Correct(_Reward):
    """1 for a right answer, else 0.

    A thought that does not end has no answer, and one where none is wanted has no right one.

    Example:
        >>> Correct()(prompts=["1+1="], completions=["1+1=2</think>2"], answer=["2"])
        [1.0]
    """

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **_: Any
    ) -> list[float]:
        """Returns the reward of each completion.

        Args:
            prompts: As TRL gives them: texts, or lists of messages.
            completions: Likewise.
            answer: The column of that name.
        """
        return [float(each) for each in self._right(self._parts(prompts, completions), answer)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistent(_Reward):
    """How far a right answer follows from its thought, as `consistency` says; 0 for a wrong one.

    Example:
        >>> Consistent()(prompts=["1+1="], completions=["1+1=3</think>2"], answer=["2"])
        [0.0]
    """

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **_: Any
    ) -> list[float]:
        """Returns the reward of each completion; as `Correct`."""
        parts = self._parts(prompts, completions)
        right = self._right(parts, answer)
        return [
            consistency(thought, given) if each else 0.0
            for (thought, given), each in zip(parts, right, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief(_Reward):
    """How short a right answer is among the right ones to the same prompt; 0 for a wrong one.

    The shortest right answer has the share of right answers of its group, the longest 0. So there
    is no pressure on prompts that are seldom solved, and none to be short and wrong.

    Args:
        num_generations: Answers to each prompt, as the trainer is told; None, in one process alone,
            for as many as there are beside each other.

    Example:
        >>> brief = Brief(num_generations=2)
        >>> brief(["1+1="] * 2, ["1+1=2</think>2", "so </think>2"], answer=["2", "2"])
        [0.0, 1.0]
    """

    num_generations: int | None = None

    def __post_init__(self) -> None:
        _Reward.__post_init__(self)
        if self.num_generations is not None:
            count_of("num_generations", self.num_generations, least=2)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        answer: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **_: Any,
    ) -> list[float]:
        """Returns the reward of each completion.

        Args:
            prompts: As TRL gives them: texts, or lists of messages.
            completions: Likewise.
            answer: The column of that name.
            completion_ids: Their tokens, by which they are measured; by default by characters.

        Raises:
            DataError: The answers to a prompt are not all here.
        """
        size = self.num_generations or _group_size(prompts)
        starts = range(0, len(prompts), size)
        if len(prompts) % size or any(
            prompt != prompts[start] for start in starts for prompt in prompts[start : start + size]
        ):
            raise DataError(
                f"the {len(prompts)} completions of this process are no whole groups of {size}: "
                "make per_device_train_batch_size a multiple of num_generations, and give the "
                "reward the trainer's num_generations"
            )
        lengths = _lengths(completions, completion_ids)
        right = self._right(self._parts(prompts, completions), answer)
        return [
            reward
            for start in starts
            for reward in _brevity(right[start : start + size], lengths[start : start + size])
        ]


def _group_size(prompts: Sequence[Any]) -> int:
    """Returns how many equal prompts stand beside each other, of the smallest group.

    Raises:
        DataError: There are several processes, so that no one of them can tell.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise DataError(
            "with several processes, a group may be split between two of them: give Brief the "
            "trainer's num_generations"
        )
    runs = [1]
    for before, prompt in pairwise(prompts):
        runs = [*runs, 1] if prompt != before else [*runs[:-1], runs[-1] + 1]
    return max(2, min(runs))


def _lengths(
    completions: Sequence[Any], completion_ids: Sequence[Sequence[int]] | None
) -> list[int]:
    """Returns the tokens of each completion, or else its characters."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [len(each) for each in (completion_ids if completion_ids is not None else texts)]


def _brevity(right: Sequence[bool], lengths: Sequence[int]) -> list[float]:
    own = [length for length, each in zip(lengths, right, strict=True) if each]
    if not own or max(own) == min(own):
        return [0.0] * len(right)
    rate, longest, spread = len(own) / len(right), max(own), max(own) - min(own)
    return [
        rate * (longest - length) / spread if each else 0.0
        for length, each in zip(lengths, right, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlong(_Reward):
    """Whether a right answer stays away from the limit of tokens; 0 for a wrong one.

    It is 1 up to `most - buffer` tokens, and falls to 0 at `most`: an answer that is all but cut
    off is worth less before any is.

    Args:
        most: The trainer's `max_completion_length`.
        buffer: Over how many tokens it falls.

    Example:
        >>> overlong = Overlong(most=8, buffer=4, thinking="off")
        >>> overlong(["q"], ["2"], answer=["2"], completion_ids=[[0] * 6])
        [0.5]
    """

    most: int
    buffer: int

    def __post_init__(self) -> None:
        _Reward.__post_init__(self)
        count_of("buffer", self.buffer)
        count_of("most", self.most, least=self.buffer)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        answer: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **_: Any,
    ) -> list[float]:
        """Returns the reward of each completion; as `Brief`."""
        right = self._right(self._parts(prompts, completions), answer)
        lengths = _lengths(completions, completion_ids)
        return [
            min(1.0, max(0.0, (self.most - length) / self.buffer)) if each else 0.0
            for each, length in zip(right, lengths, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Formed(_Reward):
    """1 for an answer in the form of its mode, right or wrong, else 0.

    With thinking on that is a thought that ends once, with something in it, and an answer; off, an
    answer without a tag. It is the one reward that pays wrong answers: give it a lower weight than
    `Correct`, which `rl` sees to.

    Example:
        >>> Formed()(["q"] * 3, ["so</think>2", "</think>2", "so"])
        [1.0, 0.0, 0.0]
    """

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        """Returns the reward of each completion."""
        texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
        return [
            float(_is_formed(text, self._mode(prompt)))
            for prompt, text in zip(prompts, texts, strict=True)
        ]


def _is_formed(text: str, mode: str) -> bool:
    parts, rest = [text.strip()], text
    if mode == "on":
        thought, _, answer = text.strip().removeprefix(OPEN).partition(CLOSE)
        parts, rest = [thought.strip(), answer.strip()], thought + answer
    return all(parts) and OPEN not in rest and CLOSE not in rest


correct_reward, math_reward = Correct(), Correct(scorer=math_equal)
consistent_reward, brief_reward, formed_reward = Consistent(), Brief(), Formed()
