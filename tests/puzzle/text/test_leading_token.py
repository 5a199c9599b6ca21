"""Windows start with the token that the tokenizer puts before a text, and hold all the text."""

from tokenizers.processors import TemplateProcessing

from puzzle.text.data_config import DataConfig
from puzzle.text.packing import PackedStream
from puzzle.text.windows import leading_token, windows
from tests.factories.parents import text, tokenizer

DATA = DataConfig(window=8, fit_tokens=64, score_tokens=32, validation_tokens=32)


def with_leading_token():
    """The tokenizer of the tests, which now puts its token 61 before every text."""
    made = tokenizer()
    made.bos_token = "w59"
    bos = made.bos_token_id
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="w59 $A", special_tokens=[("w59", bos)]
    )
    return made, bos


def test_the_token_is_the_one_that_is_put_before_a_text():
    made, bos = with_leading_token()
    assert leading_token(made) == bos
    assert leading_token(tokenizer()) is None
    quiet = tokenizer()
    quiet.bos_token = "w59"  # it has one, and does not use it
    assert leading_token(quiet) is None


def test_windows_of_a_search_start_with_it_and_go_on_where_the_last_ended():
    made, bos = with_leading_token()
    cut, plain = windows(text(), made, DATA), windows(text(), tokenizer(), DATA)
    for part in ("fit", "score", "validation"):
        rows, others = getattr(cut, part), getattr(plain, part)
        assert rows.shape == others.shape
        assert (rows[:, 0] == bos).all()
        count = rows[:, 1:].numel()
        assert rows[:, 1:].flatten().tolist() == others.flatten().tolist()[:count]


def test_windows_of_distillation_start_with_it_and_lose_no_token():
    made, bos = with_leading_token()
    documents = text()
    stream = PackedStream(documents, made, length=8)
    plain = PackedStream(documents, tokenizer(), length=7)
    rows, others = stream.take(20), plain.take(20)
    assert (rows[:, 0] == bos).all()
    assert rows[:, 1:].tolist() == others.tolist()
