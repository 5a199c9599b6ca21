"""Claims about what is taken for text: every container is read, or refused with the choice."""

import io
import itertools
import json
from collections import UserDict
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puzzle
from puzzle.errors import DataError
from puzzle.text.cells import hash_rows
from puzzle.text.data_config import DataConfig
from puzzle.text.packing import PackedStream
from puzzle.text.paragraphs import read_documents, split_documents
from puzzle.text.rows import open_rows
from puzzle.text.windows import documents, windows
from tests.factories.distillation import tokens
from tests.factories.parents import DATA, tokenizer
from tests.factories.parents import text as texts

CHAT = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def containers(tmp_path, rows):
    """The same documents in everything that holds some."""
    table = datasets.Dataset.from_dict({"text": rows, "id": list(range(len(rows)))})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    (tmp_path / "rows.txt").write_bytes("\r\n \t\r\n".join(rows).encode("utf-8-sig"))
    table.to_parquet(tmp_path / "rows.parquet")
    return {
        "string": "\n\n".join(rows),
        "list": rows,
        "tuple": tuple(rows),
        "rows": [{"text": row, "messages": None} for row in rows],
        "array": np.array(rows),
        "data set": table,
        "selected": table.select(range(len(rows))),
        "as tensors": table.with_format("torch"),
        "stream": table.to_iterable_dataset(),
        "one split": datasets.DatasetDict(test=table),
        "one streamed split": datasets.IterableDatasetDict(train=table.to_iterable_dataset()),
        "columns": {"text": rows, "id": list(range(len(rows)))},
        "frame": pandas.DataFrame({"text": rows}, index=[7] * len(rows)),
        "series": pandas.Series(rows),
        "generator": (row for row in rows),
        "map": map(str, rows),
        "jsonl": tmp_path / "rows.jsonl",
        "txt": tmp_path / "rows.txt",
        "parquet": tmp_path / "rows.parquet",
    }


ROWS = texts(count=80)
KINDS = (
    *("string", "list", "tuple", "rows", "array", "data set", "selected", "as tensors", "stream"),
    *("one split", "one streamed split", "columns", "frame", "series", "generator", "map"),
    *("jsonl", "txt", "parquet"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_gives_its_documents_to_search_and_to_distillation(kind, tmp_path):
    assert documents(containers(tmp_path, ROWS)[kind]) == ROWS
    cut = windows(containers(tmp_path, ROWS)[kind], tokenizer(), DATA)
    assert [len(part) for part in (cut.fit, cut.score, cut.validation)] == [32, 4, 4]
    stream = PackedStream(containers(tmp_path, ROWS)[kind], tokenizer(), length=21, resumable=False)
    expected = {tuple(tokenizer()(row)["input_ids"]) for row in ROWS}
    assert {tuple(window[:-1]) for window in stream.take(80).tolist()} == expected


def test_containers_that_can_be_indexed_and_files_give_the_same_windows(tmp_path):
    given = containers(tmp_path, ROWS)
    expected = windows(ROWS, tokenizer(), DATA)
    files = ("jsonl", "txt", "parquet")
    for kind in ("string", "rows", "data set", "selected", "one split", "columns", "frame", *files):
        cut = windows(given[kind], tokenizer(), DATA)
        assert [cut.hash(p) for p in ("fit", "score", "validation")] == [
            expected.hash(p) for p in ("fit", "score", "validation")
        ], kind


def table(**columns):
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (datasets.DatasetDict(train=table(text=["a"]), test=table(text=["b"])), r"data\['train'\]"),
        (datasets.DatasetDict(), "keys"),
        (table(content=["a"]), r"columns \['content'\].*rename"),
        (table(content=["a"]).to_iterable_dataset(), "rename"),
        (pandas.DataFrame({"body": ["a"]}), "DataFrame has the columns"),
        ({"train": ["a"], "test": ["b"]}, r"keys \['train', 'test'\]"),
        (UserDict(body=["a"]), "UserDict with the keys"),
        ({"text": ["a", "b"], "messages": [None]}, "differ in length"),
        ({"text": "one row"}, r"list of rows: \[row\]"),
        ({"messages": CHAT}, r"list of rows: \[row\]"),
        ({"text": 3}, "give a list of cells"),
        ({"a", "b"}, "no order"),
        (b"bytes", "data is a bytes"),
        (range(3), "data is a range"),
        (7, "data is a int"),
        (None, "data is a NoneType"),
        (io.StringIO("a\nb"), "open file"),
        ("corpus/train.jsonl", "pathlib.Path"),
        ("setup.cfg", "pathlib.Path"),
        ("no such corpus.jsonl", "none of that name here.* pathlib.Path"),
        ("~/corpus", "pathlib.Path"),
        ("../some text/corpus", "pathlib.Path"),
        (r"C:\texts\corpus", "pathlib.Path"),
        ("https://example.org/corpus.txt", "download it"),
        ("wikitext/wikitext-2", "load_dataset"),
        (["a.txt", "b.txt"], "paths of files"),
        ([Path("a.txt")], "row 0 .*path"),
        (["a", None], "row 1 .*null"),
        (["a", float("nan")], "row 1 .*null"),
        (pandas.DataFrame({"text": ["a", pandas.NA]}), "row 1 .*null"),
        (["a", 3], "row 1 .*it is 3"),
        ([{"text": None}], "row 0 .*'text' is null"),
        ([{"text": "a", "messages": CHAT}], "row 0 .*both"),
        ([{"prompt": "a"}], "row 0 .*'prompt'"),
        (["a", "b\ud800"], "row 1 .*surrogate at character 1"),
        ([{"messages": [{"role": "user", "content": "\udc00"}]}], "row 0 .*surrogate"),
        ([{"messages": []}], "row 0 .*empty"),
        ([{"messages": 3}], "row 0 .*list of turns"),
        ([{"messages": [{"from": "human", "value": "a"}]}], "rename 'from'"),
        ([{"messages": CHAT, "tools": 3}], "'tools' is 3"),
        (torch.zeros(2, 2), "token windows"),
    ],
)
def test_what_is_not_plainly_text_is_refused_with_what_to_do(data, match):
    with pytest.raises(DataError, match=match):
        documents(data)
    with pytest.raises(DataError, match=match):
        open_rows(data, 0)


def test_a_null_far_into_the_data_is_named_before_any_token_is_cut():
    rows = texts(count=400)
    rows[377] = None
    data = table(text=rows)
    for whole in (rows, data, data.select(range(400)), pandas.DataFrame({"text": rows})):
        with pytest.raises(DataError, match="row 377"):
            PackedStream(whole, tokenizer(), length=8)
    # Among the selected rows it has another number, or none.
    with pytest.raises(DataError, match="row 7 "):
        PackedStream(data.select(range(370, 380)), tokenizer(), length=8)
    PackedStream(data.select(range(377)), tokenizer(), length=8).take(4)


def test_training_goes_on_past_a_null_of_a_stream_and_says_so(caplog, tmp_path):
    rows = [*ROWS[:9], None, *ROWS[9:20]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    for data in (table(text=rows).to_iterable_dataset(), path):
        caplog.clear()
        stream = PackedStream(data, tokenizer(), length=21, buffer=1)
        assert len(stream.take(20)) == 20
        assert "row 9 (from 0): its 'text' is null" in caplog.text
        # What is read before work begins is refused instead.
        with pytest.raises(DataError, match="row 9 "):
            PackedStream(data, tokenizer(), length=21, resumable=False).take(20)
    with pytest.raises(DataError, match="row 0 "):
        PackedStream(table(text=[None, "w1"]).to_iterable_dataset(), tokenizer(), length=2).take(1)


def test_a_token_outside_the_vocabulary_is_refused_with_its_row():
    for data in (ROWS, (row for row in ROWS)):
        with pytest.raises(DataError, match="vocabulary of 20"):
            windows(data, tokenizer(), DATA, vocab=20)
    with pytest.raises(DataError, match=r"row 0 .*vocabulary of 20"):
        PackedStream(["w30"], tokenizer(), length=2, vocab=20).take(1)
    with pytest.raises(DataError, match="vocabulary of 3"):
        PackedStream(tokens(30, 8), None, length=2, vocab=3)


class Counted:
    """An endless stream of documents that knows how many were read."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for number in itertools.count():
            self.read += 1
            yield ROWS[number % len(ROWS)]


def test_an_endless_stream_is_read_to_the_need_and_no_further():
    wanted = sum(DATA.windows(part) * DATA.window for part in ("fit", "score", "validation"))
    for wrap in (iter, lambda rows: ({"text": row} for row in rows)):
        source = Counted()
        windows(wrap(source), tokenizer(), DATA)
        # Each part may end within a document of 21 tokens.
        assert wanted / 21 <= source.read <= wanted / 21 + 3
    source = Counted()
    PackedStream(iter(source), tokenizer(), length=21, resumable=False).take(5)
    assert source.read == 5
    with pytest.raises(DataError, match="10000 rows in a row"):
        windows(itertools.repeat(" "), tokenizer(), DATA)


def test_of_rows_that_can_be_indexed_only_the_needed_ones_are_read():
    class Rows(list):
        read = 0

        def __getitem__(self, place):
            self.read += isinstance(place, int)
            return super().__getitem__(place)

    rows = Rows(ROWS * 100)
    windows(rows, tokenizer(), DATA)
    assert rows.read < 40


def test_a_stream_shares_no_document_between_parts_and_fills_them_at_one_rate():
    config = DataConfig(window=20, fit_tokens=400, score_tokens=100, validation_tokens=200)
    words = tokenizer().get_vocab()
    stream = (f"w{number % 60}" for number in itertools.count())
    cut = windows((f"{row} " * 19 for row in stream), tokenizer(), config)
    order = {part: getattr(cut, part)[:, 0].tolist() for part in ("validation", "score", "fit")}
    numbers = {part: [token - words["w0"] for token in row] for part, row in order.items()}
    assert sorted(itertools.chain(*numbers.values())) == list(range(35))
    assert max(numbers["validation"]) > 25
    assert max(numbers["score"]) > 25


@pytest.mark.parametrize("gap", ["\n\n", "\r\n\r\n", "\r\r", "\n \n", "\n\t\r\n \n", "\r\n\x0c\n"])
def test_a_blank_line_is_blank_however_it_is_written(gap, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(("\ufeff" + gap.join(ROWS)).encode())
    assert split_documents("\ufeff" + gap.join(ROWS)) == ROWS
    assert list(read_documents(path)) == ROWS


def test_a_line_end_is_no_blank_line():
    assert split_documents("a\r\nb\rc\nd") == ["a\r\nb\rc\nd"]


@given(st.text(st.sampled_from("ab \t\r\n\x0b\x0c\x1c\x85\u2028\ufeff"), max_size=40))
def test_a_file_and_a_string_have_the_same_documents(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "text.txt"
    path.write_bytes(content.encode())
    universal = content.replace("\r\n", "\n").replace("\r", "\n")
    assert list(read_documents(path)) == split_documents(universal)
    assert [d.replace("\r\n", "\n").replace("\r", "\n") for d in split_documents(content)] == (
        split_documents(universal)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b'{"text": "w1"}\n{"text"'),
        ("rows.json", b"not json"),
        ("rows.parquet", b"PAR1 but no more"),
        ("rows.txt", b"w1\n\n\xff\xfe\n\nw2"),
        ("rows.jsonl", b'{"text": "w1"}\n{"text": 3}\n[]\n'),
        ("rows.jsonl", b""),
        ("rows.txt", b""),
    ],
)
def test_a_damaged_file_is_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    for read in (documents, lambda path: windows(path, tokenizer(), DATA)):
        with pytest.raises(DataError):
            read(tmp_path / name)
    with pytest.raises(DataError):
        PackedStream(tmp_path / name, tokenizer(), length=2, resumable=False).take(9)


def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path):
    (tmp_path / "rows.pickle").write_bytes(b"")
    for name, match in (
        ("absent.txt", "there is no text file"),
        ("rows.pickle", "not read as text"),
        (".", "is a directory"),
    ):
        with pytest.raises(DataError, match=f"{match}.*; give the path of plain text"):
            documents(tmp_path / name)
    (tmp_path / "notes").write_text("\n\n".join(ROWS))
    assert documents(tmp_path / "notes") == ROWS


def test_the_identity_of_rows_covers_every_byte_that_is_read_and_nothing_else(tmp_path):
    rows = texts(count=40)
    changed = [*rows[:33], rows[33] + "!", *rows[34:]]
    kinds = ("list", "rows", "data set", "columns", "frame", "series", "jsonl", "txt", "parquet")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for kind in kinds:
        one, same, other = (
            open_rows(containers(tmp_path / place, given)[kind], 0).identity
            for place, given in (("a", rows), ("b", rows), ("b", changed))
        )
        assert one == same != other, kind
    long = np.arange(5000)
    first = {"messages": CHAT, "documents": [{"n": long.tolist()}], "unread": object()}
    second = {"messages": CHAT, "documents": [{"n": [*long[:2500], 0, *long[2501:]]}]}
    assert hash_rows([first]) == hash_rows([{**first, "unread": 1}]) != hash_rows([second])


def test_a_stream_that_changed_behind_its_first_rows_is_refused_on_resuming():
    rows = texts(count=40)
    changed = [*rows[:20], rows[20] + " w1", *rows[21:]]

    def opened(given):
        data = table(text=given).to_iterable_dataset(num_shards=2)
        return PackedStream(data, tokenizer(), length=21, buffer=1)

    for taken in (19, 30, 50):
        stream = opened(rows)
        stream.take(taken)
        state = stream.state()
        opened(rows).restore(*state)
        if taken == 19:  # the change has not been read yet
            opened(changed).restore(*state)
            continue
        with pytest.raises(DataError, match="does not give the rows"):
            opened(changed).restore(*state)


def test_a_file_that_changes_while_it_is_read_is_refused_before_anything_is_stored(tmp_path):
    path = containers(tmp_path, ROWS)["jsonl"]
    stream = PackedStream(path, tokenizer(), length=21, buffer=1)
    stream.take(2)
    stream.state()
    path.write_text(path.read_text() + json.dumps({"text": "w1"}) + "\n")
    with pytest.raises(DataError, match="changed while it was read"):
        stream.state()
    with pytest.raises(DataError, match="changed while it was read"):
        stream.take(200)


def test_a_file_name_is_text_to_none_of_the_functions_that_take_text(tmp_path, monkeypatch):
    """Refused before the models are opened: there are none here."""
    monkeypatch.chdir(tmp_path)
    for name in ("corpus.jsonl", "my corpus.txt", "./corpus"):
        for call in (
            lambda text: puzzle.search("parent", text, constraints="parameters <= 0.5x"),
            lambda text: puzzle.distill("child", "parent", text),
            lambda text: puzzle.distill("child", "parent", ["w1"], validation=text),
            lambda text: puzzle.evaluate("child", data=text),
        ):
            with pytest.raises(DataError, match=r"give pathlib.Path\("):
                call(name)
            with pytest.raises(DataError, match="there is no text file"):
                call(Path(name))
    assert not list(tmp_path.glob("distilled"))


def test_text_that_is_too_short_is_used_down_to_a_stated_least(caplog):
    """The parts keep their shares, no document is in two parts, and nothing is invented."""
    config = DataConfig(window=16, fit_tokens=4096, score_tokens=512, validation_tokens=512)
    cut = windows(ROWS, tokenizer(), config, shorten=True)
    sizes = {part: len(getattr(cut, part)) for part in ("fit", "score", "validation")}
    assert "less certain; give more text" in caplog.text
    assert sizes["fit"] > 4 * sizes["score"] > 8
    assert sum(sizes.values()) * 16 > 0.75 * sum(len(tokenizer()(row)["input_ids"]) for row in ROWS)
    runs = [
        {tuple(run) for run in getattr(cut, part).unfold(1, 8, 1).reshape(-1, 8).tolist()}
        for part in sizes
    ]
    assert not runs[0] & (runs[1] | runs[2])
    assert not runs[1] & runs[2]
    for same in (iter(ROWS), "\n\n".join(ROWS)):
        assert len(windows(same, tokenizer(), config, shorten=True).score) >= 2
    with pytest.raises(DataError, match="too short"):
        windows(ROWS, tokenizer(), config)
    with pytest.raises(DataError, match="give about 192 tokens in at least three documents"):
        windows(ROWS[:8], tokenizer(), config, shorten=True)
    full = windows(ROWS, tokenizer(), DATA)
    assert windows(ROWS, tokenizer(), DATA, shorten=True).hash("fit") == full.hash("fit")
