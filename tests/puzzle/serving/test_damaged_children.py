"""Claims about saved children of which a file was altered, cut or lost."""

import shutil

import pytest

import puzzle
from puzzle.errors import PuzzleError
from tests.factories.distillation import settings, tokens

WEIGHTS = "model.safetensors"
READERS = {
    "export": lambda child, out: puzzle.export(child, out, engine="vllm"),
    "evaluate": lambda child, out: puzzle.evaluate(child, data=tokens(2)),
    "load_result": lambda child, out: puzzle.load_result(child).child(),
    "distill": lambda child, out: puzzle.distill(
        child, child, tokens(), config=settings(), out=out
    ),
    "serve_check": lambda child, out: puzzle.serve_check(child, engine="transformers"),
}


@pytest.fixture
def child(saved_child, tmp_path):
    return shutil.copytree(saved_child, tmp_path / "child")


@pytest.mark.parametrize("reader", READERS)
def test_a_flipped_bit_is_refused_by_the_name_of_its_file(child, tmp_path, reader):
    file = child / WEIGHTS
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # in the last mantissa: the number stays finite
    file.write_bytes(data)
    with pytest.raises(PuzzleError, match=f"{WEIGHTS} is not what puzzle wrote"):
        READERS[reader](child, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize("reader", READERS)
def test_lost_weights_are_refused_by_name(child, tmp_path, reader):
    (child / WEIGHTS).unlink()
    with pytest.raises(PuzzleError, match=WEIGHTS):
        READERS[reader](child, tmp_path / "out")


def test_a_child_without_a_record_of_its_files_is_read(child, tmp_path):
    (child / "puzzle_files.json").unlink()
    assert puzzle.export(child, tmp_path / "out", engine="vllm").path.is_dir()
