"""Why number formats are chosen by device: CPU-seconds with and without bfloat16 products.

Run it with `python benchmarks/number_formats.py`; it needs the demo model. A CPU with AVX2 only is
emulated: `ONEDNN_MAX_CPU_ISA=AVX2` takes its products of bfloat16 away. Every stage runs in a
process of its own with one thread, on the demo's parent and a child without four of its
attentions, both stored in bfloat16. It prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = ("products", "distill", "evaluate", "serve-check")
SETS = {"all instructions": {}, "as AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}
WITHOUT_ATTENTION = (5, 11, 17, 23)


def make_models(folder: Path) -> None:
    """Writes parent, child and text."""
    import torch

    from puzzle.demo import demo_text, fetch_demo_model
    from puzzle.models.assembling import assemble
    from puzzle.models.parent import open_parent
    from puzzle.storage.workspace import Workspace
    from search_space import Block, Layout

    parent = open_parent(
        fetch_demo_model(), workspace=Workspace(folder / "unpacked"), dtype="bfloat16"
    )
    layout, tensors = Layout.parent(parent.shape), parent.state_dict()
    block = Block.from_label(f"none+gated{parent.shape.ffn_width}")
    gone = []
    for index in WITHOUT_ATTENTION:
        layout = layout.replace(index, block)
        prefix = parent.family.layer_prefix.format(index)
        gone += [prefix + "self_attn", prefix + "input_layernorm"]
    kept = {name: t for name, t in tensors.items() if not name.startswith(tuple(gone))}
    assemble(parent.config, layout, kept, dtype=torch.bfloat16).save_pretrained(folder / "child")
    parent.tokenizer.save_pretrained(folder / "child")
    (unpacked,) = (folder / "unpacked" / "parent").iterdir()
    unpacked.rename(folder / "parent")
    (folder / "text.txt").write_text("\n\n".join(demo_text()[:60]), encoding="utf-8")


def run_stage(stage: str, folder: Path) -> object:
    """Runs one stage and returns what it says."""
    import puzzle
    from puzzle.hardware.format_speed import fast_format

    child, parent, text = folder / "child", folder / "parent", folder / "text.txt"
    if stage == "products":
        return str(fast_format())
    if stage == "distill":
        config = puzzle.DistillConfig(
            tokens=2048, length=256, batch=2, micro_batch=2, validation_windows=2
        )
        with tempfile.TemporaryDirectory() as out:
            return puzzle.distill(
                child, parent, text, config=config, validation=text, out=out
            ).history[-1]["loss"]
    if stage == "evaluate":
        return puzzle.evaluate(child, parent=parent, data=text, windows=4, length=256).to_dict()
    return str(puzzle.serve_check(child, engine="transformers"))


def main() -> None:
    """Runs every stage with each set of instructions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(run_stage(options.stage, Path(options.folder))))
        return
    report = {}
    with tempfile.TemporaryDirectory() as name:
        make_models(Path(name))
        for label, settings in SETS.items():
            for stage in STAGES:
                environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
                command = [sys.executable, __file__, "--stage", stage, "--folder", name]
                before = os.times()
                done = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, check=True, text=True
                )
                after = os.times()
                seconds = (after.children_user + after.children_system) - (
                    before.children_user + before.children_system
                )
                said = json.loads(done.stdout.splitlines()[-1])
                report[f"{stage}, {label}"] = {"cpu_seconds": round(seconds, 1), "said": said}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
