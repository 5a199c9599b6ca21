"""Ways to damage a file that somebody else wrote, drawn by hypothesis."""

import copy
import json

from hypothesis import strategies as st

from puzzle.errors import PuzzleError

# What may stand where another value is expected.
STRANGE = (
    None,
    True,
    "",
    "x",
    "inf",
    -1,
    0,
    0.5,
    10**12,
    10**400,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"a": {}},
    ["x"] * 3,
)


def places(value, path=()):
    """Returns the path of every value inside a JSON value, its own included."""
    paths = [path]
    pairs = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else pairs:
        paths += places(item, (*path, key))
    return paths


def changed(value, path, change):
    """Returns a copy in which `change(container, key)` was done to the value at a path."""
    whole = copy.deepcopy({"": value})
    at, steps = whole, ("", *path)
    for step in steps[:-1]:
        at = at[step]
    change(at, steps[-1])
    return whole.get("")


def nested(depth):
    """Returns lists within lists."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def damaged_values(draw, value, times=2):
    """Draws a JSON value with one or two parts dropped, renamed, doubled, nested or replaced."""
    for _ in range(draw(st.integers(1, times))):
        path = draw(st.sampled_from(places(value)))
        way = draw(st.sampled_from(("replace", "drop", "rename", "double", "nest")))
        strange = draw(st.sampled_from(STRANGE))

        def change(at, key, way=way, strange=strange):
            if way == "drop":
                at.pop(key)
            elif way == "rename" and isinstance(at, dict):
                at[f"{key}?"] = at.pop(key)
            elif way == "double" and isinstance(at, list):
                at.append(copy.deepcopy(at[key]))
            elif way == "nest":
                at[key] = [at[key]] if isinstance(strange, int) else nested(300)
            else:
                at[key] = copy.deepcopy(strange)

        value = changed(value, path, change)
    return value


@st.composite
def damaged_bytes(draw, content):
    """Draws a file's bytes cut, with one flipped, or with a part replaced by other bytes."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    way = draw(st.sampled_from(("cut", "flip", "insert", "repeat")))
    if way == "cut":
        return content[:at]
    if way == "flip":
        return content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
    if way == "repeat":
        return content[:at] + content[at : at + 20] * 3 + content[at:]
    return content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at:]


def damaged_files(value):
    """Draws the bytes of a JSON file that was damaged, in its values or in its bytes."""
    return st.one_of(
        damaged_values(value).map(lambda each: json.dumps(each).encode()),
        damaged_bytes(json.dumps(value).encode()),
    )


def read_or_error(read, *arguments):
    """Returns what `read` returns, or the PuzzleError it raises; anything else passes."""
    try:
        return read(*arguments)
    except PuzzleError as error:
        return error


def is_read_or_named(read, file, content):
    """Reads a file of some bytes, which may end in one error of one line that names it."""
    file.write_bytes(content)
    value = read_or_error(read, file)
    if isinstance(value, PuzzleError):
        assert str(file) in str(value)
        assert "\n" not in str(value)
        return None
    return value
