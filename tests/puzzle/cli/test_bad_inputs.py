"""Whatever is in a file that the command line is given, it ends with its own code and one line."""

import json
import random

import pytest

from puzzle.cli import main
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Roofline
from puzzle.errors import DataError
from puzzle.limits.scenario import Scenario
from puzzle.storage.hashing import content_hash
from search_space import ModelShape, SearchSpace
from tests.factories.damage import STRANGE, changed, nested

SHAPE = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2, ffn_width=16, vocab=32)
SPACE = SearchSpace.preset(SHAPE, "small")
PROFILE = Profile.take(
    Roofline("h100-sxm", SHAPE), SPACE, Scenario(), device={"name": "H100"}
).to_dict()
LABELS = [[block.label for block in SPACE.blocks(layer)] for layer in range(2)]
SCORES = {"layers": [{label: {"kl": 0.1} for label in row} for row in LABELS]}
BLOCK = {"stats": {"memory_mib": 4.0}, "metrics": {"kl_div": 0.1}}
TABLE = {f"layer_{i}": {"attention = no_op && ffn = no_op": BLOCK} for i in range(2)}
NAME = "attention = no_op && ffn = no_op"
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 32,
}
# Bytes that no kind of file may hold.
RAW = {
    "empty": b"",
    "cut": b'{"layers": [{"a',
    "not text": b"\xff\xfe\x00{}",
    "nested": b"[" * 100_000,
    "long integer": b'{"a": ' + b"9" * 5000 + b"}",
    "list": b"[]",
    "null": b"null",
    "text": b'"a"',
}
# What is no fault: by kind and place, the values of `STRANGE` that may stand there, or "gone".
KL = ("layers", 0, "gqa2+gated16", "kl")
HARMLESS = {
    "toml": {"empty"},
    "table": {f"{('layer_1',)} gone", f"{('layer_1', NAME, 'stats')} {{}}"},
    "scores": {f"{('layers', 0, 'gqa2+gated16')} gone"}
    | {f"{KL} {number}" for number in (-1, 0, 0.5, 10**12, 1e308, -1e308)},
    "config": {f"{(name,)} {10**12}" for name in ("intermediate_size", "vocab_size")},
}


def sealed(values):
    try:
        return {**values, "checksum": content_hash(values)}
    except (DataError, RecursionError):
        return {**values, "checksum": "none"}


def replaced(value, path):
    """Yields how the value at a path is another thing, nested or gone, and copies with that."""
    for strange in STRANGE:
        yield (
            str(strange)[:40],
            changed(value, path, lambda at, key, new=strange: at.__setitem__(key, new)),
        )
    yield "nested", changed(value, path, lambda at, key: at.__setitem__(key, nested(300)))
    yield "gone", changed(value, path, lambda at, key: at.pop(key))


def cases():
    """Returns (name, arguments before the file, bytes of the file) of each bad input."""
    label = LABELS[0][0]
    for name, raw in RAW.items():
        for kind in ("scores", "profile", "table", "config", "toml", "costs.json", "costs.csv"):
            yield kind, name, raw
    places = {
        "table": (TABLE, [(), ("layer_1",), ("layer_1", NAME), ("layer_1", NAME, "stats")]),
        "scores": (SCORES, [(), ("layers",), ("layers", 0), ("layers", 0, label)]),
        "profile": (PROFILE, [(part,) for part in PROFILE]),
        "config": (CONFIG, [(part,) for part in CONFIG if part != "model_type"]),
    }
    places["scores"][1].append(("layers", 0, label, "kl"))
    places["profile"][1].extend([("shape", "layers"), ("shape", "heads"), ("rows", 0, label)])
    for kind, (value, paths) in places.items():
        for path in paths:
            for how, damaged in replaced(value, path):
                written = sealed(damaged) if kind == "profile" else damaged
                yield kind, f"{path} {how}", json.dumps(written).encode()


@pytest.fixture
def run(tmp_path):
    """Runs the subcommand that reads a kind of file, with a file of these bytes."""
    good = {"scores.json": SCORES, "profile.json": sealed(PROFILE), "config.json": CONFIG}
    for name, value in good.items():
        (tmp_path / name).write_text(json.dumps(value))
    (tmp_path / "t.txt").write_text("Some text.\n\nMore of it.")
    profile = ["profile", str(tmp_path), "--out", str(tmp_path / "run"), "--hardware"]
    lines = {
        "scores": ("scores.json", ["solve", "FILE", "--profile", str(tmp_path / "profile.json")]),
        "profile": ("p.json", ["solve", str(tmp_path / "scores.json"), "--profile", "FILE"]),
        "table": ("table.json", ["solve", "FILE"]),
        "config": ("model/config.json", ["layouts", str(tmp_path / "model")]),
        "toml": ("c.toml", ["layouts", "--config", "FILE"]),
        "costs.json": ("costs.json", [*profile, "table:FILE"]),
        "costs.csv": ("costs.csv", [*profile, "table:FILE"]),
    }
    (tmp_path / "model").mkdir()

    def use(kind, raw):
        name, line = lines[kind]
        (tmp_path / name).write_bytes(raw)
        return main([part.replace("FILE", str(tmp_path / name)) for part in line])

    return use


def test_good_files_are_accepted(run, capsys):
    good = (("scores", SCORES), ("profile", sealed(PROFILE)), ("table", TABLE), ("config", CONFIG))
    for kind, value in good:
        assert run(kind, json.dumps(value).encode()) == 0, kind
    assert run("toml", b"") == 0


@pytest.mark.parametrize("share", [0.15, pytest.param(1.0, marks=pytest.mark.slow)])
def test_bad_files_end_with_their_code_and_one_line(share, run, capsys):
    every, accepted, harmless = list(cases()), {}, {}
    assert len(every) > 500
    chosen = random.Random(0).sample(every, int(share * len(every)))
    assert {kind for kind, _, _ in chosen} == {kind for kind, _, _ in every}
    for kind, name, raw in chosen:
        code = run(kind, raw)  # whatever is raised here would be a traceback
        error = capsys.readouterr().err
        assert code in ((0, 2) if kind == "toml" else (0, 1, 2, 3)), (kind, name)
        if code == 0:
            accepted.setdefault(kind, set()).add(name)
        else:
            assert len(error.strip().splitlines()) == 1, (kind, name, error)
        if name in RAW and kind not in ("toml", "costs.json", "costs.csv"):
            assert code == 1, (kind, name)
    for kind, name, _ in chosen:
        if name in HARMLESS.get(kind, ()):
            harmless.setdefault(kind, set()).add(name)
    assert accepted == harmless
