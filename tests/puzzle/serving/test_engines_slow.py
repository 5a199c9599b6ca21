"""Claims about children of the real SmolLM2 in real, unmodified engines, against torch."""

import functools
import importlib.util
import os

import pytest
import torch

from puzzle import serve_check
from puzzle.demo import demo_model, demo_text
from puzzle.errors import PuzzleError
from puzzle.library.build import build_library
from puzzle.models.assembling import assemble
from puzzle.models.parent import open_parent
from puzzle.serving.exporting import export
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import ENGINES, Block, LayerOptions, Layout, SearchSpace

pytestmark = pytest.mark.slow

POSITIONS = 500
MODULES = {"llama.cpp": "xllamacpp", "mlx": "mlx_lm"}
# vLLM lives in an environment of its own; benchmarks/serve_vllm.sh makes one and sets this.
VLLM_PYTHON = os.environ.get("PUZZLE_VLLM_PYTHON")
EVERY_CHILD = os.environ.get("PUZZLE_EVERY_CHILD")
EVERYTHING = LayerOptions(
    attention=("gqa", "groups", "linear", "none"), ffn_shares=(0.5, 0.066), multiple=1
)
# By layer of 30: every kind of each half, in the first layer, the last, and next to each other.
CHILDREN = {
    "no attention first, no FFN last": {
        0: "none+gated1536",
        11: "gqa1+gated768",
        12: "gqa3+gated101",
        13: "linear+gated1536",
        29: "gqa3+none",
    },
    "nothing first and last, runs of nothing": {
        0: "none+none",
        1: "none+gated1536",
        12: "none+none",
        13: "none+none",
        14: "gqa3+none",
        28: "none+none",
        29: "none+none",
    },
    "linear maps first and last, and together": {
        0: "linear+linear",
        1: "gqa1+linear",
        13: "linear+linear",
        14: "linear+none",
        28: "none+linear",
        29: "linear+none",
    },
    "heads removed first, last and between others": {
        0: "gqa1h3+gated1536",
        11: "gqa2h6+gated768",
        12: "gqa2h6+none",
        13: "gqa1+gated1536",
        14: "gqa1h3+linear",
        29: "gqa2h6+none",
    },
    "mixed": {
        0: "none+linear",
        1: "gqa1+none",
        11: "none+gated1536",
        12: "none+gated768",
        14: "linear+gated101",
        28: "gqa1+gated1536",
        29: "none+linear",
    },
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    try:
        source, text = demo_model(), demo_text()
    except PuzzleError as error:
        pytest.skip(str(error))
    workspace = Workspace(tmp_path_factory.mktemp("run"))
    parent = open_parent(source, workspace=workspace, dtype="float32")
    data = DataConfig(window=64, fit_tokens=1024, score_tokens=128, validation_tokens=128)
    changed = sorted({layer for blocks in CHILDREN.values() for layer in blocks})
    space = SearchSpace.from_options(
        parent.shape,
        LayerOptions(attention=(), ffn=()),
        exceptions=dict.fromkeys(changed, EVERYTHING),
    )
    cut = windows(text, parent.tokenizer, data)
    return build_library(parent, space, cut, workspace=workspace)


@pytest.fixture(scope="module")
def saved(library, tmp_path_factory):
    """Returns the directory of a child by name, made once."""

    @functools.cache
    def save(name):
        parent, layout = library.parent, Layout.parent(library.parent.shape)
        for layer, label in CHILDREN[name].items():
            layout = layout.replace(layer, Block.from_label(label))
        tensors = library.child_tensors(layout)
        model = assemble(parent.config, layout, tensors, dtype=torch.float32)
        directory = tmp_path_factory.mktemp("child")
        model.save_pretrained(directory)
        parent.tokenizer.save_pretrained(directory)
        return directory

    return save


@functools.cache
def english(positions):
    """Returns text of the demo that has about as many tokens as positions and a few more."""
    return " ".join(" ".join(demo_text()[100:110]).split()[: int(positions * 0.85)])


def test_the_children_hold_every_variant_in_every_special_place():
    blocks = [(layer, label) for at in CHILDREN.values() for layer, label in at.items()]
    for layer in (0, 29):
        attentions, ffns = zip(*(b.split("+") for at, b in blocks if at == layer), strict=True)
        assert {"none", "linear"} <= set(attentions)
        assert {"none", "linear"} <= set(ffns)
    halves = {half for _, label in blocks for half in label.split("+")}
    assert {"gqa1", "linear", "none", "gated768", "gated101"} <= halves


@pytest.mark.parametrize("name", CHILDREN)
@pytest.mark.parametrize("engine", [*MODULES, "vllm"])
def test_an_engine_says_what_torch_says(engine, name, saved):
    python = VLLM_PYTHON if engine == "vllm" else None
    if engine == "mlx" and name != "mixed" and not EVERY_CHILD:
        pytest.skip("mlx-lm is slow on a CPU; PUZZLE_EVERY_CHILD=1 runs the other children in it")
    if python is None and importlib.util.find_spec(MODULES.get(engine, engine)) is None:
        pytest.skip(f"{engine} is not installed: {ENGINES[engine].install}")
    found = serve_check(
        saved(name), engine=engine, python=python, text=english(POSITIONS), speed=False
    )
    assert found.positions >= POSITIONS
    assert found.agreement >= 0.99, str(found)
    assert found.greedy_equal, str(found)
    assert found.max_difference < 5e-3, str(found)


@pytest.mark.skipif(VLLM_PYTHON is None, reason="benchmarks/serve_vllm.sh runs it")
def test_vllm_serves_a_child_as_it_was_saved(saved):
    found = serve_check(
        saved("mixed"),
        engine="vllm",
        python=VLLM_PYTHON,
        exported=False,
        text=english(POSITIONS),
        speed=False,
    )
    assert found.agreement >= 0.99, str(found)
    assert found.greedy_equal, str(found)
    assert found.max_difference < 5e-3, str(found)


def test_llama_cpp_reads_the_tokenizer_and_the_chat_template(saved, tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp", reason=ENGINES["llama.cpp"].install)
    from transformers import AutoTokenizer

    directory = saved("mixed")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for kind, options in {"own": {}, "copied": {"tokenizer_from": demo_model()}}.items():
        done = export(directory, tmp_path / kind, engine="llama.cpp", **options)
        params = xllamacpp.CommonParams()
        params.model.path = str(done.path)
        params.n_ctx, params.cpuparams.n_threads, params.warmup = 512, 1, False
        params.use_jinja = True
        server = xllamacpp.Server(params)
        text = "In 1742 he said: 'don't', twice  over.\n\n<|im_start|>user\nHello, wörld!<|im_end|>"
        answer = server.handle_completions({"prompt": text, "n_predict": 1})
        assert answer["usage"]["prompt_tokens"] == len(tokenizer(text)["input_ids"])
        messages = [{"role": "user", "content": "Hello"}]
        answer = server.handle_chat_completions({"messages": messages, "max_tokens": 1})
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert answer["usage"]["prompt_tokens"] == len(rendered["input_ids"])


@pytest.mark.parametrize("kind", ["q8_0", "q6_k"])
def test_quantised_llama_cpp_stays_near_torch(kind, saved):
    pytest.importorskip("xllamacpp", reason=ENGINES["llama.cpp"].install)
    name = "no attention first, no FFN last"
    found = serve_check(
        saved(name), engine="llama.cpp", quantisation=kind, text=english(100), speed=False
    )
    assert found.agreement >= 0.8, str(found)
