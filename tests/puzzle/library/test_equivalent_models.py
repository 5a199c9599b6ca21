"""The same function in another family's words: library, scores, layout and child are the same."""

import pytest
import torch

from puzzle.text.windows import Windows
from tests.factories.equivalents import (
    BITWISE,
    FAMILIES,
    WITHOUT_WIDTHS,
    equivalent,
    searched,
)
from tests.factories.parents import parent_model

# Of a child with a variant of each kind.
BLOCKS = ("none+gated32", "gqa1+linear", "gqa3+gated48")
WHOLE = ("gqa1+own", "gqa3+linear", "gqa3+none")
WIDTHS = {"ffn_shares": (0.75, 0.5)}


def figures(model, place, blocks=BLOCKS, options=WIDTHS):
    generator = torch.Generator().manual_seed(1)
    cut = Windows(
        **{
            part: torch.randint(0, model.config.vocab_size, (count, 16), generator=generator)
            for part, count in {"fit": 40, "score": 6, "validation": 6}.items()
        }
    )
    return searched(model, cut, blocks, place=place, share=0.6, **options)


@pytest.fixture(scope="module")
def of_the_llama(tmp_path_factory):
    return figures(parent_model(), tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mixtral"])
def test_a_llama_in_another_family_s_words_has_the_same_library_scores_and_child(
    family, of_the_llama, tmp_path
):
    model = equivalent(parent_model(), family)
    assert model.config.model_type == family
    rewritten = figures(model, tmp_path)
    # Bit for bit; the products of fused maps may be added up in another order.
    close = {"rtol": 0.0, "atol": 0.0} if family in BITWISE else {"rtol": 1e-4, "atol": 1e-5}
    assert rewritten.pop("layout") == of_the_llama["layout"]
    expected = {name: value for name, value in of_the_llama.items() if name != "layout"}
    torch.testing.assert_close(rewritten, expected, **close)


def test_a_llama_cut_into_experts_has_the_same_library_scores_and_child_but_for_widths(tmp_path):
    of_llama, rewritten = (
        figures(model, tmp_path / str(index), WHOLE, WITHOUT_WIDTHS)
        for index, model in enumerate((parent_model(), equivalent(parent_model(), "mixtral")))
    )
    for each in (of_llama, rewritten):
        each.pop("healed")  # an expert's last map is fitted without the others
        # The linear map of a mixture starts from 0.
        each["errors"] = {name: error[1] for name, error in each["errors"].items()}
    assert rewritten.pop("layout") == of_llama.pop("layout")
    torch.testing.assert_close(rewritten, of_llama, rtol=1e-4, atol=1e-5)
