"""Claims about files that a user names: whole or not at all, and `~` is the home directory."""

import pytest

from search_space import Layout, ModelShape, SearchSpace, plot_layout
from search_space.user_files import save_file

SHAPE = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2, ffn_width=16, vocab=32)
LAYOUT = Layout.parent(SHAPE)


def test_a_file_that_cannot_be_finished_leaves_what_was_there(tmp_path):
    LAYOUT.save(tmp_path / "layout.json")

    def stopped(path):
        path.write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        save_file(tmp_path / "layout.json", stopped)
    with pytest.raises(ValueError, match="Format 'docx' is not supported"):
        plot_layout(LAYOUT, tmp_path / "layout.docx")
    assert Layout.load(tmp_path / "layout.json") == LAYOUT
    assert [each.name for each in tmp_path.iterdir()] == ["layout.json"]


def test_a_path_may_start_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    LAYOUT.save("~/layout.json")
    plot_layout(LAYOUT, "~/picture")
    assert Layout.load("~/layout.json") == LAYOUT
    assert {each.name for each in tmp_path.iterdir()} == {"layout.json", "picture.png"}
    with pytest.raises(ValueError, match="without ~"):
        Layout.load("~nobody-of-this-name/layout.json")


STRANGE = [None, True, 5, 0.5, "x", b"x", [], {}, [[1]], [None], object(), {5: 5}, {0: {"a": 1}}]
# Nothing of a kind, or the usual.
HARMLESS = {
    "options": [None],
    "keep": [[], {}, {0: {"a": 1}}],
    "exceptions": [None, {}],
    "attention": [[], {}],
    "kv_heads": [None, [], {}],
    "ffn_shares": [[], {}],
    "ffns": [[], {}],
}


@pytest.mark.parametrize(
    "name",
    ["shape", "options", "keep", "exceptions", "attention", "kv_heads", "ffn_shares", "ffns"],
)
def test_options_of_another_type_are_a_value_error(name):
    make = SearchSpace.uniform if name == "ffns" else SearchSpace.from_options
    accepted = []
    for value in STRANGE:
        shape, given = (value, {}) if name == "shape" else (SHAPE, {name: value})
        try:
            make(shape, **given)
        except ValueError:
            continue
        accepted.append(value)
    assert accepted == HARMLESS.get(name, [])


def test_a_layer_may_be_kept_without_a_list_and_a_text_is_one_key():
    deep = ModelShape(**{**SHAPE.to_dict(), "layers": 14})
    for keep in (12, "12", ["12"], range(12, 13)):
        space = SearchSpace.from_options(deep, keep=keep)
        assert [i for i in range(14) if len(space.blocks(i)) == 1] == [12]
    for shape, name in ((None, "small"), (SHAPE, None), (SHAPE, [])):
        with pytest.raises(ValueError, match=r"shape=None|search space"):
            SearchSpace.preset(shape, name)
