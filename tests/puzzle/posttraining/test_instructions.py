"""Claims about verifiable instructions: they judge as IFEval's own checkers do."""

import importlib
import importlib.metadata
import random
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from puzzle.errors import DataError
from puzzle.posttraining.instructions import INSTRUCTIONS, instructions_followed

ARGUMENTS = {
    "keywords:existence": [{"keywords": ["one", "two"]}],
    "keywords:frequency": [
        {"keyword": "one", "frequency": 2, "relation": each} for each in ("at least", "less than")
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["one", "my"]}],
    "keywords:letter_frequency": [
        {"letter": "o", "let_frequency": 3, "let_relation": each}
        for each in ("at least", "less than")
    ],
    "length_constraints:number_words": [
        {"num_words": 6, "relation": each} for each in ("at least", "less than")
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": 2}],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "one"}
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": 2}],
    "detectable_content:postscript": [
        {"postscript_marker": "P.S."},
        {"postscript_marker": "P.P.S"},
    ],
    "detectable_format:number_bullet_lists": [{"num_bullets": 2}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": 2}],
    "detectable_format:multiple_sections": [{"section_spliter": "Section", "num_sections": 2}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "One two"}],
    "startend:end_checker": [{"end_phrase": "one."}],
    "change_case:capital_word_frequency": [
        {"capital_frequency": 2, "capital_relation": each} for each in ("at least", "less than")
    ],
}
PIECES = [
    *(
        "one",
        "One",
        "ONE",
        "ONE-TWO",
        "two",
        "One two",
        "my",
        "stone",
        ". ",
        ", ",
        " ",
        "\n",
        "\n\n",
        '"',
    ),
    *(
        "***",
        "\n***\n",
        "******",
        "*",
        "**",
        "*a*",
        "**b**",
        "\n* x",
        "\n- y",
        "[a]",
        "[b c]",
        "[]",
    ),
    *("P.S. so", "P.P.S so", "p. p. s", "Section 1", "\nSection 2\n", "<<t>>", "<< >>", '{"a": 1}'),
    *("```json\n", "```", "My answer is yes.", "My answer is no.", "one.", "'one'", "7", "_"),
]


@pytest.fixture
def reference(monkeypatch):
    """IFEval's checkers, without the packages that only the kinds left out need."""
    words = SimpleNamespace(tokenize=lambda text: re.findall(r"\w+", text))
    nltk = ModuleType("nltk")
    nltk.data = SimpleNamespace(find=lambda name: name)
    nltk.tokenize = SimpleNamespace(RegexpTokenizer=lambda pattern: words)
    # Punctuation apart, as far as capitals can tell.
    nltk.word_tokenize = lambda text: re.findall(r"\w+(?:-\w+)*|[^\w\s]", text)
    langdetect = ModuleType("langdetect")
    langdetect.detect = lambda text: "en"
    langdetect.LangDetectException = RuntimeError
    immutabledict = ModuleType("immutabledict")
    immutabledict.immutabledict = dict
    for module in (nltk, langdetect, immutabledict):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    known = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "3.9.1" if name == "nltk" else known(name)
    )
    pytest.importorskip("lm_eval", reason="it is in the extra [eval]")
    yield importlib.import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        del sys.modules[name]


def test_every_kind_judges_random_answers_as_the_reference_does(reference):
    assert set(reference) - set(INSTRUCTIONS) == {
        "language:response_language",
        "length_constraints:number_sentences",
    }
    generator = random.Random(0)
    answers = ["".join(generator.choices(PIECES, k=generator.randint(1, 9))) for _ in range(400)]
    for pieces in ((), ("one", " "), ("ONE", "."), ('"', "one"), ("one two, ",)):
        answers += ["".join(generator.choices(pieces, k=k)) for k in (1, 3, 5) if pieces]
    answers += ['{"a": 1}', '```json\n{"a": 1}\n```', "one\n***\ntwo", "one******two", '"one"']
    for name in INSTRUCTIONS:
        for given in ARGUMENTS.get(name, [{}]):
            checker = reference[name](name)
            checker.build_description(**given)
            right = {"instruction_id_list": [name], "kwargs": [given]}
            verdicts = set()
            for answer in filter(str.strip, answers):
                verdict = instructions_followed(answer, right)
                assert verdict == float(bool(checker.check_following(answer))), (given, answer)
                verdicts.add(verdict)
            assert verdicts == {0.0, 1.0}, name


def test_all_instructions_of_a_row_have_to_be_followed_and_unknown_ones_are_refused():
    names = ["punctuation:no_comma", "keywords:existence"]
    right = {"instruction_id_list": names, "kwargs": [{"relation": None}, {"keywords": ["one"]}]}
    for answer, score in (("one", 1), ("one, two", 0), ("two", 0), ("", 0)):
        assert instructions_followed(answer, right) == score
    for names, kwargs in (["language:x"], [{}]), (["keywords:existence"], [{}]), (["a"], []):
        with pytest.raises(DataError):
            instructions_followed("x", {"instruction_id_list": names, "kwargs": kwargs})
