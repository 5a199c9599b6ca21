"""One method of the 2SSP repository on one model: a pruned model in, figures and weights out.

Runs in an environment of its own, without puzzle: `python run_peer.py REQUEST.json`. The request
holds

- repository: a clone of the repository, whose code is imported from there;
- model: a Hugging Face directory of a Llama in float32;
- texts: safetensors with `calibration` (samples x tokens) and `validation` (windows x tokens);
- method: "shortgpt", "window", "blockpruner", "2ssp" or "slicegpt";
- share: of the parameters of the layers that may be kept;
- seed, and out: a directory for answer.json and, where halves of layers or channels were removed,
  weights.safetensors with the names of the model.

Removal of whole layers keeps the least number of layers that reaches the share, to the benefit of
the method. The answer holds `kl` by window of validation text, `agreement`, `loss`, `parameters` of
the layers and of the model as stored, `cpu_seconds` of the method, and per layer what is left of
it: [attention kept or not, width].
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
sys.path.insert(0, request["repository"])
# Its evaluation module imports its own copy of lm-eval, which nothing here uses.
sys.modules["lm_eval"] = types.ModuleType("lm_eval")

from src import evaluation, pruning, utilities  # noqa: E402


def layers_to_drop(model: Any, share: float) -> int:
    """Returns the number of layers whose removal leaves at least the share, and least above it."""
    layers = len(model.model.layers)
    return math.floor(round(layers * (1 - share), 9))


def removed(model: Any, share: float, calibration: list[torch.Tensor]) -> tuple[Any, Any]:
    """Returns the masks of attentions and FFNs that a method removes."""
    number, method = layers_to_drop(model, share), request["method"]
    if method == "blockpruner":
        return pruning.blockpruner(model, number, calibration[0])
    choose = {"shortgpt": pruning.shortGPT, "window": pruning.window_based}[method]
    mask = choose(model, number, calibration)
    return mask, mask


def sliced(model: Any, share: float, calibration: list[torch.Tensor]) -> Any:
    """Returns the model sliced to a hidden size whose layers and shortcuts fit the share."""
    from src.slicegpt_utils import layernorm_fusion, rotate
    from src.slicegpt_utils.adapters.llama_adapter import LlamaModelAdapter
    from src.slicegpt_utils.slicing_scheduler import ConstSlicingScheduler

    model.config.torch_dtype = torch.float32
    adapter = LlamaModelAdapter(model)
    whole = sum(p.numel() for p in adapter.model.model.layers.parameters())
    config = adapter.config
    heads = config.hidden_size + 2 * config.num_key_value_heads * config.head_dim
    rows = heads + config.hidden_size + 3 * config.intermediate_size
    layernorm_fusion.replace_layers(adapter)
    layernorm_fusion.fuse_modules(adapter)
    size = config.hidden_size
    while size > 8 and config.num_hidden_layers * (rows * size + 2 * size**2) > share * whole:
        size -= 8
    rotate.rotate_and_slice(
        adapter,
        calibration,
        ConstSlicingScheduler(size),
        final_orientation="random",
        apply_mask=False,
    )
    return adapter.model


def pruned(model: Any, share: float, calibration: list[torch.Tensor]) -> tuple[Any, Any]:
    """Returns the pruned model and what is left of each layer, or None where layers are whole."""
    method, layers = request["method"], len(model.model.layers)
    if method == "slicegpt":
        return sliced(model, share, calibration), None
    if method == "2ssp":
        kept = pruning.two_stage_2ssp(model, calibration, 1 - share)
        # Attention modules that were removed have lost their maps.
        left = [
            [hasattr(layer.self_attn, "q_proj"), layer.mlp.down_proj.in_features]
            for layer in kept.model.layers
        ]
        return kept, left
    attention, ffn = removed(model, share, calibration)
    utilities.maskModel(model, attnMask=attention, mlpMask=ffn)
    width = model.config.intermediate_size
    return model, [[not attention[i], 0 if ffn[i] else width] for i in range(layers)]


def kept_tensors(model: Any, left: list[list[Any]]) -> dict[str, torch.Tensor]:
    """Returns the tensors that a checkpoint of what is left has to hold."""
    gone: list[str] = []
    for index, (attention, width) in enumerate(left):
        prefix = f"model.layers.{index}."
        if not attention:
            gone += [prefix + "self_attn.", prefix + "input_layernorm."]
        if not width:
            gone += [prefix + "mlp.", prefix + "post_attention_layernorm."]
    tensors = model.state_dict()
    tensors.pop("lm_head.weight", None)
    return {
        name: tensor.contiguous()
        for name, tensor in tensors.items()
        if not name.startswith(tuple(gone) or "-")
    }


@torch.no_grad()
def figures(parent: Any, model: Any, tokens_BL: torch.Tensor) -> dict[str, Any]:
    """Returns KL(parent || model) and the loss, both by window, and the agreement."""
    kl, loss, same = [], [], 0.0
    for rows in tokens_BL.split(1):
        p, q = (each(rows).logits.float().log_softmax(-1) for each in (parent, model))
        kl.append(float((p.exp() * (p - q)).sum(-1).mean()))
        loss.append(float(-q[:, :-1].gather(-1, rows[:, 1:, None]).mean()))
        same += float((p.argmax(-1) == q.argmax(-1)).float().mean())
    return {"kl": kl, "loss": loss, "agreement": same / len(tokens_BL)}


def main() -> None:
    """Prunes, measures, writes."""
    torch.set_num_threads(1)
    utilities.set_seed(request["seed"])
    # It would evaluate on "cuda".
    evaluate: Any = inspect.unwrap(evaluation.evaluate_perplexity)
    evaluate.__defaults__ = (*evaluate.__defaults__[:-1], "cpu")
    texts, out = load_file(request["texts"]), Path(request["out"])
    calibration = [rows[None] for rows in texts["calibration"]]
    parent, model = (
        LlamaForCausalLM.from_pretrained(
            request["model"], torch_dtype=torch.float32, use_cache=False
        ).eval()
        for _ in range(2)
    )
    whole = sum(p.numel() for p in model.model.layers.parameters())
    started = time.process_time()
    model, left = pruned(model, request["share"], calibration)
    answer: dict[str, Any] = {"cpu_seconds": round(time.process_time() - started, 1), "left": left}
    answer |= figures(parent, model, texts["validation"])
    if left is not None:
        tensors = kept_tensors(model, left)
        save_file(tensors, out / "weights.safetensors")
        layers = sum(t.numel() for name, t in tensors.items() if name.startswith("model.layers."))
        total = sum(tensor.numel() for tensor in tensors.values())
    else:
        layers = sum(p.numel() for p in model.model.layers.parameters())
        total = sum(p.numel() for p in model.parameters())
    answer["parameters"] = {"layers": layers, "share": layers / whole, "model": total}
    (out / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


main()
