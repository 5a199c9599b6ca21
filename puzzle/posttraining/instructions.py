"""Instructions that can be verified, by the names and arguments that IFEval gives them.

Of its 25 kinds, two are left out: the number of sentences and the language, which need a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from puzzle.errors import DataError

_PLACEHOLDER = re.compile(r"\[[^\[\]]*\]")


def instructions_followed(answer: str, right: Any) -> float:
    """Returns 1 if an answer follows all instructions of a row of IFEval, else 0.

    It is a scorer for `rl` and `traces`, and its share over tasks is IFEval's strict accuracy of
    prompts for the kinds that it knows.

    Args:
        answer: The answer, without its thought.
        right: A mapping with `instruction_id_list` and `kwargs`, or the same as JSON; further
            columns of a row may stand beside them. The row's `prompt` is only needed where an
            instruction is to repeat it and does not say so itself.

    Raises:
        DataError: An instruction is unknown, or lacks an argument.

    Example:
        >>> right = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        >>> instructions_followed("No comma here.", right)
        1.0
    """
    values = json.loads(right) if isinstance(right, str) else right
    try:
        names, arguments = values["instruction_id_list"], values["kwargs"]
        pairs = list(zip(names, arguments, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{values!r:.80} has no 'instruction_id_list' and 'kwargs' of one length"
        ) from error
    return float(bool(answer.strip()) and all(_follows(answer, *pair) for pair in pairs))


def _follows(answer: str, name: str, given: Mapping[str, Any] | None) -> bool:
    if name not in INSTRUCTIONS:
        raise DataError(f"the instruction {name!r} is unknown; known: {', '.join(INSTRUCTIONS)}")
    arguments = {key: value for key, value in (given or {}).items() if value is not None}
    try:
        return INSTRUCTIONS[name](answer, arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the instruction {name!r} cannot be read from {arguments}") from error


def _related(count: int, given: Mapping[str, Any], relation: str, number: str) -> bool:
    least = {"at least": True, "less than": False}[given[relation]]
    return count >= int(given[number]) if least else count < int(given[number])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _count(word: str, text: str, *, whole: bool = False) -> int:
    edge = r"\b" if whole else ""
    return len(re.findall(f"{edge}{re.escape(word)}{edge}", text, re.IGNORECASE))


def _paragraph_starts(answer: str, given: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in re.split(r"\n\n", answer)]
    place = int(given["nth_paragraph"])
    filled = [part for part in parts if part]
    if len(filled) != int(given["num_paragraphs"]) or place > len(parts) or not parts[place - 1]:
        return False
    first = parts[place - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", first)[0].lower() == str(given["first_word"]).lower()


def _postscript(answer: str, given: Mapping[str, Any]) -> bool:
    marker = str(given["postscript_marker"]).strip()
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = spaced.get(marker, re.escape(marker.lower()))
    return re.search(pattern, answer.lower()) is not None


def _sections(answer: str, given: Mapping[str, Any]) -> bool:
    mark = rf"\s?{re.escape(str(given['section_spliter']))}\s?\d+\s?"
    return len(re.split(mark, answer)) - 1 >= int(given["num_sections"])


def _paragraphs(answer: str, given: Mapping[str, Any]) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", answer)
    inner = parts[1:-1]
    if not all(part.strip() for part in inner):
        return False
    return len([part for part in parts if part.strip()]) == int(given["num_paragraphs"])


def _highlights(answer: str, given: Mapping[str, Any]) -> bool:
    single = [each for each in re.findall(r"\*[^\n\*]*\*", answer) if each.strip("*").strip()]
    double = re.findall(r"\*\*[^\n\*]*\*\*", answer)
    filled = [each for each in double if each.removeprefix("**").removesuffix("**").strip()]
    return len(single) + len(filled) >= int(given["num_highlights"])


def _bullets(answer: str, given: Mapping[str, Any]) -> bool:
    lines = re.findall(r"^\s*\*[^\*].*$", answer, re.MULTILINE)
    lines += re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(lines) == int(given["num_bullets"])


def _json(answer: str, given: Mapping[str, Any]) -> bool:
    text = answer.strip()
    for mark in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(mark)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def _two_answers(answer: str, given: Mapping[str, Any]) -> bool:
    parts = answer.split("******")
    inner = all(part.strip() for part in parts[1:-1])
    filled = [part.strip() for part in parts if part.strip()]
    return inner and len(filled) == 2 and filled[0] != filled[1]


def _quoted(answer: str, given: Mapping[str, Any]) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _repeated(answer: str, given: Mapping[str, Any]) -> bool:
    return answer.strip().lower().startswith(str(given["prompt_to_repeat"]).strip().lower())


def _letters(answer: str, given: Mapping[str, Any]) -> bool:
    count = answer.lower().count(str(given["letter"]).lower())
    return _related(count, given, "let_relation", "let_frequency")


def _capitals(answer: str, given: Mapping[str, Any]) -> bool:
    # Hyphenated words are one; IFEval's own, NLTK's rule for words has more exceptions.
    words = re.findall(r"\w+(?:-\w+)*", answer)
    count = sum(word.isupper() for word in words)
    return _related(count, given, "capital_relation", "capital_frequency")


def _ending(answer: str, given: Mapping[str, Any]) -> bool:
    text = answer.strip().strip('"').lower()
    return text.endswith(str(given["end_phrase"]).strip().lower())


def _options(answer: str, given: Mapping[str, Any]) -> bool:
    known = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
    return any(each in answer.strip() for each in known)


def _all(values: Sequence[str], answer: str) -> bool:
    return all(_count(word, answer) for word in values)


INSTRUCTIONS: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "keywords:existence": lambda answer, given: _all(given["keywords"], answer),
    "keywords:frequency": lambda answer, given: _related(
        _count(given["keyword"], answer), given, "relation", "frequency"
    ),
    "keywords:forbidden_words": lambda answer, given: (
        not any(_count(word, answer, whole=True) for word in given["forbidden_words"])
    ),
    "keywords:letter_frequency": _letters,
    "length_constraints:number_words": lambda answer, given: _related(
        len(_words(answer)), given, "relation", "num_words"
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _paragraph_starts,
    "detectable_content:number_placeholders": lambda answer, given: (
        len(_PLACEHOLDER.findall(answer)) >= int(given["num_placeholders"])
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _options,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda answer, given: any(
        each.lstrip("<").rstrip(">").strip() for each in re.findall(r"<<[^\n]+>>", answer)
    ),
    "combination:two_responses": _two_answers,
    "combination:repeat_prompt": _repeated,
    "startend:end_checker": _ending,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda answer, given: answer.isupper(),
    "change_case:english_lowercase": lambda answer, given: answer.islower(),
    "punctuation:no_comma": lambda answer, given: "," not in answer,
}
