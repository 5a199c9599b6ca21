"""Whatever is wrong with a JSON file, one error names it; nothing else comes out."""

import json

import pytest

from puzzle.errors import CostModelError, DataError
from puzzle.storage.json_files import interpreting, read_json, read_object


def test_a_sound_file_is_read_with_and_without_a_byte_order_mark(tmp_path):
    value = {"größe": [1, 2.5, None]}
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.json").write_text(json.dumps(value), encoding=encoding)
        assert read_object(tmp_path / "a.json", "a value") == value


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{}", b'{"a": 1} {', b"[" * 100_000, b"nul", b'"\\ud8'],
    ids=["empty", "cut", "not-utf8", "twice", "nested", "word", "escape"],
)
def test_a_damaged_file_is_named(tmp_path, content):
    file = tmp_path / "scores.json"
    file.write_bytes(content)
    with pytest.raises(CostModelError, match=r"scores\.json is not a table of costs"):
        read_json(file, "a table of costs", error=CostModelError)


def test_what_cannot_be_read_or_is_too_large_is_named(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for name in ("folder.json", "absent.json"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            read_json(tmp_path / name, "a table")
    (tmp_path / "large.json").write_text(json.dumps("x" * 100))
    with pytest.raises(DataError, match=r"large\.json has 102 bytes; a table has at most 50"):
        read_json(tmp_path / "large.json", "a table", most_bytes=50)


@pytest.mark.parametrize("value", [[], "a", 1, 1.5, True, None])
def test_another_kind_of_value_is_no_object(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"instead of an object"):
        read_object(tmp_path / "a.json", "a table")


@pytest.mark.parametrize(
    "use",
    [
        lambda v: v["missing"],
        lambda v: v["rows"]["x"],
        lambda v: v["rows"][3],
        lambda v: v["rows"].items(),
        lambda v: int(v["name"]),
        lambda v: list(range(v["count"])),
        lambda v: int(v["inf"]),
    ],
)
def test_values_of_another_shape_give_the_error_that_names_their_source(use):
    values = {"rows": [1], "name": "seven", "count": 2**80, "inf": float("inf")}
    with (
        pytest.raises(DataError, match=r"^run/scores\.json is not a table of scores: "),
        interpreting("run/scores.json", "a table of scores"),
    ):
        use(values)


def test_an_error_that_names_the_source_passes_and_one_that_does_not_is_given_it():
    with (
        pytest.raises(CostModelError, match=r"^a\.json has no rows$"),
        interpreting("a.json", "a table"),
    ):
        raise CostModelError("a.json has no rows")
    with pytest.raises(DataError, match=r"^a\.json: no rows$"), interpreting("a.json", "a table"):
        raise CostModelError("no rows")
