"""Claims about children with delta nets in unmodified vLLM, as they were saved.

vLLM's CPU kernel of delta nets computes in bfloat16 alone, with heads of 128 channels.
"""

import json
import logging
import os
import subprocess

import pytest
import torch

from puzzle import export
from search_space import Block, Layout
from tests.factories import vllm_answers
from tests.factories.families import family_child

logger = logging.getLogger(__name__)
VLLM_PYTHON = os.environ.get("PUZZLE_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VLLM_PYTHON is None, reason="benchmarks/serve_vllm.sh runs these"),
]
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "num_hidden_layers": 9,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 3,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
}
FAMILIES = {
    "qwen3_5_text": (
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
                "mrope_section": [4, 2, 2],
            }
        },
        [
            "deltanet+gated64",
            "none+gated128",
            "gqa1h2+gated128",
            "deltanet+none",
            "linear+gated96",
            "gqa1w20+linear",
            "none+none",
            "deltanet+gated96",
            "gqa2+none",
        ],
    ),
    "qwen3_next": (
        {},
        [
            "deltanet+moe4x24k2",
            "none+gated64",
            "gqa1h2+moe6x16k2",
            "deltanet+none",
            "linear+moe6x24k1",
            "gqa1w20+linear",
            "none+none",
            "deltanet+moe6x24k2",
            "gqa2+none",
        ],
    ),
}
TOP = 5


def random_child(family, labels_of):
    """A child in bfloat16 whose maps are small enough for rounding to stay small, too."""
    changes, labels = FAMILIES[family]

    def layout_of(parent):
        blocks = map(Block.from_label, labels_of([b.label for b in parent.blocks], labels))
        return Layout(parent.shape, tuple(blocks))

    model = family_child(family, layout_of, **{**SIZES, **changes})
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 0.5
    return model.to(torch.bfloat16)


@pytest.fixture
def vllm_scores(tmp_path):
    """Returns what vLLM gives the likeliest tokens after each prefix of some texts."""

    def scores(directory, prompts):
        settings = {"dtype": "bfloat16"}
        request = {"model": str(directory), "adapter": None, "prompts": prompts, "tokens": 1}
        source, target = tmp_path / "request.json", tmp_path / "answer.json"
        source.write_text(json.dumps({**request, "settings": settings, "top": TOP}))
        command = [VLLM_PYTHON, "-P", vllm_answers.__file__, str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        if "No module named 'torchvision'" in done.stderr:
            pytest.skip("vLLM's module of Qwen 3.5 imports torchvision")
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(target.read_text())["scores"]

    return scores


def texts():
    # Shorter than a chunk of the kernel's, one chunk, a little more, and several.
    generator = torch.Generator().manual_seed(0)
    lengths = (30, 64, 65, 170)
    return [torch.randint(96, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_child_has_every_bit_of_vllms_own_class_where_that_can_run_it(
    family, tmp_path, vllm_scores
):
    # Layers that are removed are absent of the plain checkpoint, which vLLM's own class runs.
    model = random_child(family, lambda own, _: [*own[:3], *["none+none"] * 3, *own[6:]])
    model.save_pretrained(tmp_path / "child")
    export(model, tmp_path / "plain", engine="plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == (family, 6)
    own, stock = (vllm_scores(tmp_path / name, texts()) for name in ("child", "plain"))
    assert own == stock


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_mixed_blocks_are_no_farther_from_float32_than_torch_is_in_bfloat16(
    family, tmp_path, vllm_scores
):
    model = random_child(family, lambda _, labels: labels)
    model.save_pretrained(tmp_path)
    rows = [row for text in vllm_scores(tmp_path, texts()) for row in text]
    places, tokens = zip(*[(i, int(t)) for i, row in enumerate(rows) for t in row], strict=True)
    answers = {"vllm": torch.tensor([log for row in rows for log in row.values()])}
    for dtype in (torch.bfloat16, torch.float32):
        model = model.to(dtype)
        logits = torch.cat([model(torch.tensor([text])).logits[0, :-1] for text in texts()])
        answers[dtype] = torch.log_softmax(logits.float(), -1)[places, tokens]
    # The median, since a router that changes its mind changes a whole answer.
    off, rounding = (
        float((answers[name] - answers[torch.float32]).abs().median())
        for name in ("vllm", torch.bfloat16)
    )
    logger.info("%s: vLLM %.4f, torch in bfloat16 %.4f", family, off, rounding)
    assert 0 < off < 1.2 * rounding
