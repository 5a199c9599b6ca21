"""Whether a change of the code leaves layouts and weights as they were, bit for bit.

Searches with one revision and with the working tree, at the same inputs, number format and seed,
and compares the layouts and every file of weights. Costs come from a roofline model, so that no
timing decides. Start it from the root of a clone:

    python benchmarks/same_child.py REVISION
    python benchmarks/same_child.py REVISION --demo
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common.machine import print_machine

ROOT = Path(__file__).parents[1]
HARDWARE = "roofline:h100-sxm"
TINY = ["--window", "32", "--fit-tokens", "2048", "--score-tokens", "256"]
TINY += ["--validation-tokens", "256", "--space", "default"]
BLD = ["--bld", "--bld-tokens", "4096"]
CASES = {
    "tiny, fast, float32": ["--effort", "fast", "--dtype", "float32"],
    "tiny, fast, bfloat16": ["--effort", "fast", "--dtype", "bfloat16"],
    "tiny, default, float32": ["--effort", "default", "--dtype", "float32"],
    "tiny, thorough, float32": ["--effort", "thorough", "--dtype", "float32"],
    "tiny, distilled, float32": ["--effort", "fast", "--dtype", "float32", *BLD],
}


def make_parent(directory: Path) -> Path:
    """Writes a tiny random parent with a tokenizer, and a text beside it; returns its path."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = [f"w{i}" for i in range(120)]
    inner = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<eos>", "<unk>", *words])}, "<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(
        num_hidden_layers=4,
        hidden_size=64,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=128,
        vocab_size=128,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(directory / "parent")
    PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(directory / "parent")
    rows = torch.randint(0, len(words), (240, 24)).tolist()
    text = "\n\n".join(" ".join(words[i] for i in row) for row in rows)
    (directory / "text.txt").write_text(text, encoding="utf-8")
    return directory / "parent"


def fingerprint(source: Path, arguments: list[str], out: Path) -> dict[str, str]:
    """Returns the layout and the hash of each file of weights that a checkout's search writes."""
    command = [sys.executable, "-m", "puzzle.cli", "search", *arguments]
    command += ["--hardware", HARDWARE, "--out", str(out)]
    # One thread: several add up in another order, and so round to other bits.
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=source, env=environment, check=True, stdout=subprocess.DEVNULL)
    values = json.loads((out / "child" / "puzzle_layout.json").read_text(encoding="utf-8"))
    kl = values["measured"]["child"]["kl"]
    parts = {"layout": json.dumps(values["layout"]), "kl": repr(kl)}
    for path in sorted((out / "child").glob("*.safetensors")):
        parts[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return parts


def main() -> int:
    """Compares, prints a line for each case and returns how many differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--demo", action="store_true", help="the demo, in float32, as well")
    chosen = parser.parse_args()
    print_machine(seed=0)
    differ = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "base"
        worktree = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*worktree, "add", "-q", "--detach", str(base), chosen.revision], check=True)
        try:
            parent = make_parent(folder)
            tiny = [str(parent), "--text", str(folder / "text.txt"), *TINY]
            tiny += ["--constraint", "throughput >= 1.4x"]
            cases = {case: [*tiny, *options] for case, options in CASES.items()}
            if chosen.demo:
                demo = ["--demo", "--dtype", "float32", "--constraint", "throughput >= 1.25x"]
                cases["demo, float32"] = demo
            for number, (case, arguments) in enumerate(cases.items()):
                runs = [
                    fingerprint(source, arguments, folder / f"run-{number}-{source.name}")
                    for source in (base, ROOT)
                ]
                same = runs[0] == runs[1]
                differ += not same
                print(f"{case}: {'the same' if same else 'DIFFERENT'}, KL {runs[1]['kl']}")
                if not same:
                    print(
                        "\n".join(
                            f"  {key}: {runs[0].get(key)} / {runs[1].get(key)}"
                            for key in {**runs[0], **runs[1]}
                        )
                    )
        finally:
            subprocess.run([*worktree, "remove", "--force", str(base)], check=True)
    return differ


if __name__ == "__main__":
    sys.exit(main())
