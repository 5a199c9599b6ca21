"""Claims about the notebooks: they run from top to bottom, here on a tiny random parent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories.parents import save_parent, text

ROOT = Path(__file__).parents[1]
PARAMETERS = """
from pathlib import Path
data = puzzle.DataConfig(window=16, fit_tokens=512, score_tokens=64, validation_tokens=64)
parent, text = {parent!r}, Path({text!r}).read_text()
scenario = puzzle.Scenario(
    batch=2, prompt_tokens=4, generated_tokens=2, weight_dtype="float32"
)
constraints = ["parameters <= 0.8x"]
"""
# In a process of its own, for a kernel's client leaves sockets and loops to the interpreter.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
assert len(cells) == 1
cells[0].source = open(sys.argv[2]).read()
nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.mark.parametrize(
    "name", ["quickstart", pytest.param("custom_hardware", marks=pytest.mark.slow)]
)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    pytest.importorskip("nbclient", reason="nbclient is in the extra [test]")
    pytest.importorskip("ipykernel", reason="ipykernel is in the extra [test]")
    saved = save_parent(tmp_path / "parent")
    (tmp_path / "text.txt").write_text("\n\n".join(text()))
    cell = PARAMETERS.format(parent=str(saved), text=str(tmp_path / "text.txt"))
    (tmp_path / "cell.py").write_text(cell)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = str(ROOT / "examples" / f"{name}.ipynb")
    command = [sys.executable, "-c", EXECUTE, notebook, "cell.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    executed = (tmp_path / "executed.ipynb").read_text()
    assert '"output_type": "execute_result"' in executed
    assert '"output_type": "error"' not in executed
    shown = json.loads(executed)["cells"]
    for cell in shown:
        if "plot_frontier" in "".join(cell["source"]):
            (output,) = cell["outputs"]
            assert "image/png" in output["data"]


@pytest.mark.parametrize("name", ["quickstart", "custom_hardware"])
def test_a_notebook_is_kept_without_outputs(name):
    content = (ROOT / "examples" / f"{name}.ipynb").read_text()
    assert '"output_type"' not in content
    assert '"execution_count": null' in content
