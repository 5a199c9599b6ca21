"""Claims about sources that are no plain decoder: they are named, with what to do."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    LlamaForSequenceClassification,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from puzzle.cli import main
from puzzle.errors import ExportError, ParentError, PuzzleError
from puzzle.evaluation.evaluating import evaluate
from puzzle.models.parent import open_parent
from puzzle.models.trainable import open_model
from puzzle.serving.exporting import export
from puzzle.storage.workspace import Workspace
from tests.factories.parents import parent_model, save_parent, text, tokenizer

SINGLE = "model.safetensors"


def config(place, **changes):
    values = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**values, **changes}))


def quantise(place, change):
    tensors = load_file(place / SINGLE)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        change(tensors, name)
    save_file(tensors, place / SINGLE, {"format": "pt"})


def to_fp8(tensors, name):
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


def to_int4(tensors, name):
    weight = tensors.pop(name)
    stem = name.removesuffix("weight")
    tensors[stem + "qweight"] = torch.zeros(6, len(weight), dtype=torch.int32)
    tensors[stem + "scales"] = torch.ones(1, len(weight))


def to_int8(tensors, name):
    tensors[name] = tensors[name].to(torch.int8)


def pointer(place, name):
    (place / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def pickled(place):
    torch.save(load_file(place / SINGLE), place / "pytorch_model.bin")
    (place / SINGLE).unlink()


def gguf_only(place):
    (place / SINGLE).unlink()
    (place / "x-Q4_K_M.gguf").write_bytes(b"GGUF")


def adapter(place):
    (place / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x"}))


def adapter_alone(place):
    for name in ("config.json", SINGLE):
        (place / name).unlink()
    adapter(place)
    save_file({"base_model.lora_A.weight": torch.ones(2, 2)}, place / "adapter_model.safetensors")


def encoder_decoder(place):
    sizes = {"vocab_size": 62, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1}
    T5ForConditionalGeneration(T5Config(**sizes, num_heads=2)).save_pretrained(place)


def encoder(place):
    sizes = {"vocab_size": 62, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    BertModel(BertConfig(**sizes, num_attention_heads=2)).save_pretrained(place)


def classifier(place):
    LlamaForSequenceClassification(parent_model().config).save_pretrained(place)


def vision_tower(place):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    more = {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    ViTModel(ViTConfig(**sizes, **more)).save_pretrained(place)


DIRECTORIES = {
    "FP8 of another kind": (
        lambda p: config(p, quantization_config={"quant_method": "fbgemm_fp8"}),
        r"is quantised \(fbgemm_fp8\).*bfloat16",
    ),
    "FP8 without its scales": (
        lambda p: [
            quantise(p, to_fp8),
            config(p, quantization_config={"quant_method": "fp8", "weight_block_size": [4, 4]}),
        ],
        r"\(fp8\).* full weights",
    ),
    "GPTQ": (lambda p: config(p, quantization_config={"quant_method": "gptq", "bits": 4}), "gptq"),
    "AWQ": (lambda p: config(p, quantization_config={"quant_method": "awq"}), "awq"),
    "bitsandbytes": (
        lambda p: config(p, quantization_config={"quant_method": "bitsandbytes"}),
        r"bitsandbytes.*model\.dequantize\(\); model\.save_pretrained",
    ),
    "compressed tensors": (
        lambda p: config(p, quantization_config={"quant_method": "compressed-tensors"}),
        r"quantization_config=CompressedTensorsConfig\(run_compressed=False\)",
    ),
    "FP8 by its tensors": (lambda p: quantise(p, to_fp8), "quantised to FP8"),
    "packed tensors": (lambda p: quantise(p, to_int4), "is quantised .*qweight"),
    "int8 tensors": (lambda p: quantise(p, to_int8), "in I8; allowed"),
    "LFS weights": (lambda p: pointer(p, SINGLE), "Git LFS pointer.*git lfs pull"),
    "LFS config": (lambda p: pointer(p, "config.json"), "Git LFS pointer"),
    "LFS tokenizer": (lambda p: pointer(p, "tokenizer.json"), "Git LFS pointer"),
    "pickled": (pickled, r"\['pytorch_model\.bin'\].*pickled weights are not opened"),
    "a folder of GGUFs": (gguf_only, "give the path of the GGUF file"),
    "adapter": (adapter, r"PEFT adapter.*merge_and_unload\(\)"),
    "adapter alone": (adapter_alone, r"PEFT adapter.*merge_and_unload\(\)"),
    "encoder-decoder": (encoder_decoder, "encoder-decoder"),
    "encoder": (encoder, "'bert' is not supported"),
    "embedding model": (lambda p: (p / "modules.json").write_text("[]"), "embedding model"),
    "model type": (
        lambda p: config(p, model_type="wobble"),
        r"model_type 'wobble' is unknown to transformers .*families that are searched: .*'llama'",
    ),
    "norm of another family": (
        lambda p: config(p, model_type="olmo"),
        "'olmo' is not supported; known families: ",
    ),
    "activation": (lambda p: config(p, hidden_act="wobble"), "hidden_act='wobble'; allowed .*silu"),
    "rotary embedding": (
        lambda p: config(p, rope_parameters={"rope_type": "wobble", "rope_theta": 1e4}),
        "rope_type='wobble'; allowed: default, ",
    ),
    "classifier": (classifier, "holds a LlamaForSequenceClassification, which generates no text"),
    "vision tower": (vision_tower, "'vit' is not supported: it has no vocabulary"),
    "no config": (lambda p: (p / "config.json").unlink(), "no config.json"),
}


@pytest.mark.parametrize("kind", DIRECTORIES)
def test_a_directory_of_another_kind_is_named_by_every_command(kind, tmp_path, monkeypatch, capsys):
    change, message = DIRECTORIES[kind]
    place = save_parent(tmp_path / "odd")
    good = save_parent(tmp_path / "good")
    change(place)
    with pytest.raises(ParentError, match=message):
        open_parent(place, workspace=Workspace(tmp_path / "run"))
    with pytest.raises(PuzzleError, match=message):
        export(place, tmp_path / "out", engine="vllm")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join(text()))
    commands = (
        f"search {place} --text text.txt",
        f"distill {place} {good} --data text.txt --tokens 64 --length 16",
        f"distill {good} {place} --data text.txt --tokens 64 --length 16",
    )
    for command in commands:
        assert main(command.split()) == 1
        assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert not (tmp_path / "out").exists()


def without_values():
    return parent_model().to("meta")


def adapted():
    """What transformers leaves on a model after `add_adapter`."""
    model = parent_model()
    model._hf_peft_config_loaded = True
    return model


def quantised():
    model = parent_model()
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    return model


def in_fp8():
    model = parent_model()
    up = model.model.layers[1].mlp.up_proj
    up.weight = torch.nn.Parameter(up.weight.to(torch.float8_e4m3fn), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_values, "tensors without values.*load it without device_map"),
        (adapted, "PEFT adapter"),
        (quantised, r"is quantised \(bitsandbytes\)"),
        (in_fp8, "quantised to FP8"),
    ],
)
def test_a_model_in_memory_of_another_kind_is_named(make, message, tmp_path):
    workspace = Workspace(tmp_path / "run")
    with pytest.raises(ParentError, match=message):
        open_parent(make(), workspace=workspace, tokenizer=tokenizer())
    with pytest.raises(ParentError, match=message):
        open_model(make(), workspace, tokenizer=tokenizer())
    with pytest.raises(ExportError, match=message):
        export(make(), tmp_path / "out", engine="vllm")


def test_what_is_no_model_at_all_is_named(tmp_path):
    workspace = Workspace(tmp_path / "run")
    for given in (None, 3, torch.nn.Linear(2, 2), {"a": 1}):
        with pytest.raises(ParentError, match=f"{type(given).__name__} is (no|not a) model"):
            open_parent(given, workspace=workspace)
        if given is not None:
            with pytest.raises(ParentError, match=f"{type(given).__name__} is (no|not a) model"):
                evaluate(given, data=torch.zeros(1, 8, dtype=torch.long))


def test_a_bare_model_in_memory_is_refused(tmp_path):
    bare = LlamaModel(parent_model().config)
    with pytest.raises(ParentError, match=r"LlamaModel lacks .*AutoModelForCausalLM"):
        open_parent(bare, workspace=Workspace(tmp_path / "run"), tokenizer=tokenizer())


def test_a_tokenizer_that_ends_texts_outside_of_the_embedding_is_refused(tmp_path):
    place = save_parent(tmp_path / "grown")
    grown = tokenizer()
    grown.add_special_tokens({"eos_token": "<|turn|>"})
    message = r"'<\|turn\|>' has the number 62, .* 62 rows.*resize_token_embeddings"
    for given in (grown, None):
        with pytest.raises(ParentError, match=message):
            open_parent(place, workspace=Workspace(tmp_path / "run"), tokenizer=given)
        grown.save_pretrained(place)


@pytest.mark.parametrize("kind", ["search", "export", "distill", "evaluate", "add_adapter"])
def test_a_peft_model_is_named_with_how_to_merge_it(kind, tmp_path):
    peft = pytest.importorskip("peft")
    how = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    workspace = Workspace(tmp_path / "run")
    if kind == "add_adapter":
        model = parent_model()
        model.add_adapter(how)
    else:
        model = peft.get_peft_model(parent_model(), how)
    calls = {
        "search": lambda: open_parent(model, workspace=workspace, tokenizer=tokenizer()),
        "add_adapter": lambda: open_parent(model, workspace=workspace, tokenizer=tokenizer()),
        "export": lambda: export(model, tmp_path / "out", engine="vllm"),
        "distill": lambda: open_model(model, workspace, tokenizer=tokenizer()),
        "evaluate": lambda: evaluate(model, data=torch.zeros(1, 8, dtype=torch.long)),
    }
    with pytest.raises(PuzzleError, match=r"PEFT adapter.*merge_and_unload\(\)"):
        calls[kind]()
