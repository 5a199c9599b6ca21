"""Claims about the Space in `examples/space`: it picks as the program does, and serves it."""

import importlib.util
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

SPACE = Path(__file__).parents[3] / "examples" / "space"


def module(name):
    spec = importlib.util.spec_from_file_location(name, SPACE / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def layouts(found, tmp_path_factory):
    return found.explore(tmp_path_factory.mktemp("space") / "layouts.json")


@pytest.mark.slow
def test_the_best_layout_within_budgets_is_that_of_all_who_keep_them(layouts):
    explored = module("explored")
    data = explored.read(layouts)
    names = data["resources"]
    for budgets in product(*([explored.steps(data, n)[i] for i in (0, -1)] for n in names)):
        at = explored.best(data, budgets)
        kept = [
            each["kl"]
            for each in data["layouts"]
            if all(100 * each["shares"][n] <= b for n, b in zip(names, budgets, strict=True))
        ]
        assert (at is None) == (not kept)
        if at is not None:
            assert data["layouts"][at]["kl"] == min(kept)
            assert data["layouts"][at]["constraints"] in explored.card(data, at).replace(
                "&gt;", ">"
            ).replace("&lt;", "<")
    assert explored.best(data, [0.0] * len(names)) is None
    assert "None of the solved layouts" in explored.card(data, None)


# In a process of its own: a server's threads and loops outlive a test.
SERVE = """
import app
from gradio_client import Client

page = app.build()
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True)
client = Client(url, verbose=False)
budgets = [app.steps(app.data, name)[-1] for name in app.resources]
plot, words = client.predict(app.resources[0], *budgets, api_name="/pick")
assert words == app.card(app.data, app.best(app.data, budgets))
assert plot["type"] == "plotly"
assert client.predict(words, api_name="/keep") == words
page.close()
print("served")
"""


@pytest.mark.slow
def test_the_space_serves_what_it_picks(layouts):
    pytest.importorskip("gradio")
    done = subprocess.run(
        [sys.executable, "-c", SERVE],
        env={**os.environ, "LAYOUTS": str(layouts), "PYTHONPATH": str(SPACE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "served" in done.stdout
