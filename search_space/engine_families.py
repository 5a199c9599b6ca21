"""Which engine runs the children of which family: the second half of the table of engines."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from search_space.engine_features import Support
from search_space.engines import ENGINES, engine_named

_ANY = Support("native")
_READ = Support("native", tried=False)
_FOLDED = "its multipliers are multiplied into the weights"
_NO_WINDOW = "where no layer has a window"
_ROPE = "where all layers have rotary positions"
_WHOLE = "where heads are rotated whole and no layer has a window"
_BIAS = "with an output bias of zeros"
_PLAIN_ONLY = Support("no", "only plain children")


def _llamas(tried: bool) -> dict[str, Support]:
    """Families whose children are Llamas under other names."""
    return {
        "llama": Support("native", tried=tried),
        "mistral": Support("native", _NO_WINDOW, tried=tried),
        "qwen2": Support("rewritten", f"{_BIAS}, {_NO_WINDOW}", tried=tried),
        "granite": Support("rewritten", _FOLDED, tried=tried),
        "smollm3": Support("native", _ROPE, tried=tried),
        "phi3": Support("rewritten", f"fused maps cut, {_WHOLE}", tried=tried),
    }


# Families whose children can be written as Llamas, in the formats for layers that differ.
AS_LLAMAS = tuple(_llamas(tried=True))
# Of a Llama, what differs from the table of features; others run in no other way.
_SAVED = "as saved, with puzzle in vLLM's environment; then all variants are native"
_DELTA_NETS = f"{_SAVED}; its CPU build has delta nets in bfloat16 alone, where they were compared"
_SAVED_SGLANG = (
    "as saved, with puzzle in SGLang's environment; KV heads repeated up to the parent's count; "
    "run without SGLang's compiled kernels"
)
# Of children of any layout that the engine supports; those of other families are plain or refused.
FAMILIES_OF: Mapping[str, Mapping[str, Support]] = MappingProxyType(
    {
        "vllm": {
            family: Support("native", _SAVED)
            for family in (
                "llama",
                "mistral",
                "qwen2",
                "qwen3",
                "smollm3",
                "phi3",
                "granite",
                "gemma2",
                "gemma3_text",
                "olmo2",
                "olmo3",
                "qwen3_moe",
                "mixtral",
                "gpt_oss",
                "lfm2",
                "nemotron_h",
            )
        }
        | dict.fromkeys(("qwen3_5_text", "qwen3_next"), Support("native", _DELTA_NETS)),
        "llama.cpp": _llamas(tried=True)
        | {
            "qwen3": Support(
                "rewritten",
                "architecture openelm, where embedding and head are tied; no linear sublayers",
            ),
        },
        "mlx": _llamas(tried=True)
        | {"qwen3": Support("rewritten", "architecture openelm; no linear sublayers")},
        "tensorrt-llm": _llamas(tried=False)
        | {"qwen2": Support("no", "its attention has no biases; only plain children", tried=False)},
        "sglang": _llamas(tried=False) | {"qwen3": Support("native", _SAVED_SGLANG, tried=False)},
    }
)
FAMILY_NAMES = (
    *("llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "granite"),
    *("gemma2", "gemma3_text", "olmo2", "olmo3"),
    *("qwen3_moe", "mixtral", "gpt_oss", "lfm2", "qwen3_5_text", "qwen3_next", "nemotron_h"),
)
_BY_NUMBER = Support(
    "native",
    "where layers of each kind are left at places of that kind, as when whole periods are removed: "
    "the engine computes kinds from numbers",
)
# Of plain children in llama.cpp, by its own converter; those that are not named run as they are.
_PLAIN_IN_LLAMA_CPP: Mapping[str, Support] = MappingProxyType(
    {
        "mistral": Support("native", _NO_WINDOW),
        "qwen2": Support("native", _NO_WINDOW),
        **dict.fromkeys(
            ("smollm3", "gemma2", "gemma3_text", "gpt_oss", "qwen3_5_text", "qwen3_next"),
            _BY_NUMBER,
        ),
        "nemotron_h": Support(
            "no", "its converter takes the config of transformers for one with experts"
        ),
    }
)


def family_support(engine: str, family: str) -> Support:
    """Returns how an engine runs the children of a family.

    Args:
        engine: One of `ENGINES`.
        family: The `model_type` of the parent.

    Raises:
        ValueError: There is no such engine.

    Example:
        >>> family_support("llama.cpp", "granite").how
        'rewritten'
    """
    if engine_named(engine).format in ("puzzle", "plain"):
        return _ANY
    return FAMILIES_OF[engine].get(family, _PLAIN_ONLY)


def plain_support(family: str) -> Support:
    """Returns how llama.cpp runs the plain children of a family.

    Args:
        family: The `model_type` of the parent.

    Example:
        >>> plain_support("lfm2").how
        'native'
    """
    return _PLAIN_IN_LLAMA_CPP.get(family, _ANY)


def require_family(engine: str, family: str) -> None:
    """Raises ValueError if an engine cannot run the children of a family; it names what can.

    Args:
        engine: One of `ENGINES`.
        family: The `model_type` of the parent.
    """
    if family_support(engine, family).how == "no":
        able = [name for name in ENGINES if family_support(name, family).how != "no"]
        raise ValueError(
            f"{engine_named(engine).title} cannot run a child of the family {family!r} whose "
            f"layers differ. Engines that can: {', '.join(able)} ('plain' stands for all that run "
            "the parent, for a child that was searched in the space 'plain')"
        )
