"""Peak memory of a search and of saving its child, by depth: anonymous memory must not grow.

Searches random Llama models that differ in depth alone, each in a process of its own, and samples
the anonymous memory of the process (what no file on disk backs):

    python benchmarks/scale.py
    python benchmarks/scale.py --effort default --layers 4 48

With `--live`, glibc gives each block of 64 KiB or more back to the system when it is freed (it
otherwise keeps some of them, and how many depends on the order in which they were freed), so that
the peaks are those of what is alive.

With `--jobs`, the seconds of a library in this process and on two processes of one thread each,
which have to be at least 1.6 times as fast where two cores are idle:

    OMP_NUM_THREADS=1 python benchmarks/scale.py --jobs
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

from common.machine import print_machine

HIDDEN, WIDTH, VOCAB = 160, 512, 512
HARDWARE, MB = "roofline:h100-sxm", 1e6
# glibc maps larger blocks by themselves, and does not raise the size as it else does.
LIVE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# Bytes of a layer in float32: queries, output, half as many keys and values, gate, up and down.
LAYER = 4 * (3 * HIDDEN * HIDDEN + 3 * HIDDEN * WIDTH)


def anonymous() -> int:
    """Returns the bytes of this process's memory that no file backs."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")


class Peak:
    """The largest anonymous memory while it is entered, above that at the start."""

    def __init__(self) -> None:
        self.start = self.most = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, anonymous())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def bytes(self) -> int:
        """The peak above the start."""
        return self.most - self.start


def make_parent(
    directory: Path, layers: int, *, hidden: int = HIDDEN, width: int = WIDTH, tokens: int = 7680
) -> None:
    """Writes a random parent with a tokenizer, and a text beside it.

    Args:
        directory: Where to.
        layers: Its layers.
        hidden: Its hidden size.
        width: Channels of its FFNs.
        tokens: Words of the text.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = [f"w{i}" for i in range(VOCAB - 2)]
    inner = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<eos>", "<unk>", *words])}, "<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=width,
        vocab_size=VOCAB,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory / "parent")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    tokenizer.save_pretrained(directory / "parent")
    rows = torch.randint(0, len(words), (tokens // 32, 32)).tolist()
    text = "\n\n".join(" ".join(words[i] for i in row) for row in rows)
    (directory / "text.txt").write_text(text, encoding="utf-8")


def measure(directory: Path, effort: str) -> dict[str, float]:
    """Returns the peaks of a search of the parent in a directory, and of saving its child."""
    import puzzle

    peaks, started = {}, time.process_time()
    with Peak() as peak:
        result = puzzle.search(
            directory / "parent",
            directory / "text.txt",
            constraints=["parameters <= 0.8x"],
            hardware=HARDWARE,
            effort=effort,
            data=puzzle.DataConfig(
                window=32, fit_tokens=1024, score_tokens=128, validation_tokens=128
            ),
            precision="float32",
            out=directory / "run",
        )
    peaks["search"] = peak.bytes
    with Peak() as peak:
        result.save(directory / "child")
    peaks["save"] = peak.bytes
    peaks["cpu_seconds"] = round(time.process_time() - started, 1)
    return peaks


def import_what_jobs_need() -> None:
    """Imports the modules of a layer's job."""
    import_module("puzzle.library.build")


def time_jobs() -> None:
    """Prints the seconds of a library in one process and on two, which are started before."""
    from puzzle.executors.local_processes import Processes
    from puzzle.library.build import BlockLibrary
    from puzzle.library.layers import LibrarySpec
    from puzzle.models.parent import open_parent
    from puzzle.stages import Run
    from puzzle.storage.workspace import Workspace
    from puzzle.text.data_config import DataConfig
    from puzzle.text.windows import windows
    from search_space import SearchSpace

    data = DataConfig(window=32, fit_tokens=4096, score_tokens=128, validation_tokens=128)
    seconds = []
    with tempfile.TemporaryDirectory() as name, Processes(2, threads=1) as pool:
        make_parent(Path(name), 8, hidden=256, width=1024)
        for executor in (None, pool):
            workspace = Workspace(Path(name) / f"run-{len(seconds)}")
            parent = open_parent(Path(name) / "parent", workspace=workspace, dtype="float32")
            cut = windows(Path(name) / "text.txt", parent.tokenizer, data)
            spec = LibrarySpec(space=SearchSpace.preset(parent.shape, "small"))
            if executor is not None:
                # Workers start before the clock does, with all that a job imports.
                for call in ((import_what_jobs_need,), (time.sleep, 1)):
                    for future in [executor.submit(*call) for _ in range(2)]:
                        future.result()
            started = time.perf_counter()
            Run(workspace=workspace, parent=parent, windows=cut, executor=executor).get(
                BlockLibrary(spec=spec)
            )
            seconds.append(time.perf_counter() - started)
    one, two = seconds
    print(f"library of 8 layers: {one:.1f} s, on two processes {two:.1f} s: {one / two:.2f} times")


def measured(layers: int, effort: str, live: bool) -> dict[str, float]:
    """Returns what `measure` finds in a process of its own."""
    environment = {**os.environ, **(LIVE if live else {})}
    with tempfile.TemporaryDirectory() as name:
        for step in ("--make", "--measure"):
            command = [sys.executable, __file__, step, name, "--effort", effort]
            command += ["--layers", str(layers)]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment
            )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Prints the peaks at each depth, and how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 48])
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--live", action="store_true", help="freed memory is given back at once")
    parser.add_argument("--jobs", action="store_true", help="time two jobs at once instead")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.make:
        make_parent(Path(chosen.make), chosen.layers[0])
    elif chosen.measure:
        print(json.dumps(measure(Path(chosen.measure), chosen.effort)))
    elif chosen.jobs:
        print_machine(seed=0)
        time_jobs()
    else:
        peaks = {depth: measured(depth, chosen.effort, chosen.live) for depth in chosen.layers}
        if chosen.json:
            print(json.dumps({"layer": LAYER, "peaks": peaks}))
            return
        print_machine(seed=0)
        print(f"a layer is {LAYER / MB:.1f} MB, effort {chosen.effort}")
        for depth, found in peaks.items():
            print(
                f"{depth} layers: search {found['search'] / MB:.1f} MB, "
                f"save {found['save'] / MB:.1f} MB, {found['cpu_seconds']} CPU-s"
            )


if __name__ == "__main__":
    main()
