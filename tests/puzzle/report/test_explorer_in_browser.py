"""Claims about the explorer's page as it is used: by keys, by mouse, in the dark, on a phone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from puzzle.report.solved_layouts import solved_layouts
from tests.factories import browser

pytestmark = pytest.mark.slow


def used(page, **environment):
    """What is seen of a page that is used."""
    pytest.importorskip("PySide6.QtWebEngineWidgets")
    done = subprocess.run(
        [sys.executable, browser.__file__, str(page)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_keys_and_mouse_pick_the_best_solved_layout(found, tmp_path):
    page = found.explore(tmp_path / "explore.html")
    points = solved_layouts(found)
    steps = [sorted({p.shares[name] for p in points}) for name in points[0].shares]

    def best(values):
        budgets = [own[int(value)] for own, value in zip(steps, values, strict=True)]
        kept = [
            point
            for point in points
            if all(s <= b for s, b in zip(point.shares.values(), budgets, strict=True))
        ]
        return min(kept, key=lambda point: point.kl).constraints

    seen = used(page)
    last = [len(own) - 1 for own in steps]
    assert points[0].constraints in seen["start"]["card"]
    assert int(seen["keys"]["values"][0]) == last[0] - 3
    assert 0 < int(seen["drag"]["values"][0]) < last[0] - 3
    for step in ("keys", "drag"):
        assert best(seen[step]["values"]) in seen[step]["card"]
    (pointed,) = [p for p in points if seen["tooltip"].startswith(p.constraints)]
    assert f"{pointed.kl:.4f} nats per token" in seen["tooltip"]
    # The sliders follow what is picked.
    assert pointed.constraints in seen["click"]["card"]
    assert best(seen["click"]["values"]) == pointed.constraints
    assert seen["phone"]["overflow"] <= 0
    assert seen["phone"]["chart"][1] > 300


def test_a_range_without_a_layout_is_said_in_the_dark_too(found, tmp_path):
    page = Path(found.explore(tmp_path / "explore.html"))
    text = page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    name, *others = data["resources"]
    one, other = ({**each, "chosen": not at} for at, each in enumerate(data["layouts"][:2]))
    # Either is best in one resource, so that none keeps the least of both.
    one["shares"] = {each: 0.9 for each in data["resources"]} | {name: 0.5}
    other["shares"] = {each: 0.5 for each in data["resources"]} | {name: 0.9}
    data["layouts"] = [one, other]
    written = json.dumps(data).replace("</", "<\\/")
    page.write_text(re.sub(r'(?s)(id="data">).*?(?=</script>)', lambda m: m[1] + written, text))
    assert others
    flags = f"{browser.FLAGS} --blink-settings=preferredColorScheme=0"
    lowest = "&".join(f"{each}=0" for each in data["resources"])
    seen = used(f"{page}#{lowest}", QTWEBENGINE_CHROMIUM_FLAGS=flags)
    assert seen["start"]["dark"]
    assert max(map(int, re.findall(r"\d+", seen["start"]["ground"]))) < 64
    assert seen["start"]["none"]
    assert not seen["start"]["keep"]
    assert seen["start"]["card"].strip() == ""
