"""Claims about the door for text under any containers, cells and turns: windows or our error."""

from pathlib import Path

import numpy as np
import pandas
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puzzle.errors import DataError, PuzzleError
from puzzle.text.cells import hash_rows, parse_row
from puzzle.text.data_config import DataConfig
from puzzle.text.packing import PackedStream
from puzzle.text.windows import row_text, windows
from tests.factories.parents import tokenizer

CELLS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.sampled_from(["w1 w2", "\ud800", "\ufeffw3", pandas.NA, np.int64(3), Path("x")]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "from"]), inner
        )
        | st.tuples(inner)
    ),
    max_leaves=12,
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]) | CELLS},
    optional={"content": st.text(max_size=6) | CELLS, "tool_calls": CELLS},
)
ROWS_OF_ANY_KIND = (
    st.text(max_size=12)
    | CELLS
    | st.fixed_dictionaries({"text": st.text(max_size=9) | CELLS})
    | st.fixed_dictionaries(
        {"messages": st.lists(TURNS, max_size=3) | CELLS},
        optional={"tools": CELLS, "documents": CELLS, "text": CELLS},
    )
)
WRAPS = (
    list,
    tuple,
    iter,
    lambda rows: np.array([*rows, None], dtype=object)[:-1],
    lambda rows: pandas.Series(rows, dtype=object),
    lambda rows: {"text": rows},
    lambda rows: {"messages": rows, "tools": rows},
    lambda rows: pandas.DataFrame({"text": pandas.Series(rows, dtype=object)}),
    lambda rows: rows[0] if rows else None,
    lambda rows: dict(enumerate(rows)),
)
FEW = DataConfig(window=2, fit_tokens=2, score_tokens=2, validation_tokens=2)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(ROWS_OF_ANY_KIND, max_size=6), wrap=st.sampled_from(WRAPS))
def test_whatever_is_given_there_are_windows_or_an_error_of_ours(rows, wrap):
    cutter = tokenizer()
    for read in (
        lambda data: windows(data, cutter, FEW).fit,
        lambda data: PackedStream(data, cutter, length=2, resumable=False).take(2),
        lambda data: PackedStream(data, cutter, length=2).take(2),
    ):
        try:
            cut = read(wrap(rows))
        except PuzzleError:
            continue
        assert cut.dtype == torch.int64
        assert cut.shape[1] == 2


@settings(max_examples=300, deadline=None)
@given(ROWS_OF_ANY_KIND)
def test_a_row_that_can_be_parsed_is_text_that_can_be_written_and_hashed(row):
    try:
        parse_row(row)
        text = row_text(row)
    except DataError:
        return
    text.encode()
    assert hash_rows([row]) == hash_rows([row])
