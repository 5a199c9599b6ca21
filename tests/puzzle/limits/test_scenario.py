import dataclasses
import subprocess
import sys

import pytest

from puzzle.errors import ConstraintError
from puzzle.limits.scenario import Scenario, Workload


def test_defaults_are_the_documented_ones():
    assert Scenario().to_dict() == {
        "batch": 8,
        "prompt_tokens": 128,
        "generated_tokens": 128,
        "weight_dtype": "auto",
        "cache_dtype": None,
    }


@pytest.mark.parametrize("name", ["batch", "prompt_tokens", "generated_tokens"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "8", None])
def test_counts_must_be_positive_ints(name, value):
    with pytest.raises(ConstraintError, match=f"Scenario.{name} is .* at least 1"):
        Scenario(**{name: value})


@pytest.mark.parametrize("name", ["weight_dtype", "cache_dtype"])
@pytest.mark.parametrize("value", ["int8", "bf16", 16, ["float32"]])
def test_unknown_dtypes_are_refused_with_the_known_ones(name, value):
    with pytest.raises(ConstraintError, match="float32, bfloat16, float16"):
        Scenario(**{name: value})


def test_the_cache_takes_the_type_of_the_weights_unless_told():
    assert Scenario(weight_dtype="float32").cache_bytes == 4
    assert Scenario(weight_dtype="float32", cache_dtype="float16").cache_bytes == 2
    assert Scenario(weight_dtype="float32", cache_dtype="float16").weight_bytes == 4


def test_tokens_are_counted_over_prompt_and_reply():
    scenario = Scenario(batch=3, prompt_tokens=5, generated_tokens=7)
    assert scenario.sequence_tokens == 12
    assert scenario.total_tokens == 36


def test_a_dict_gives_the_same_scenario_back():
    scenario = Scenario(batch=3, weight_dtype="float32", cache_dtype="float16")
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    assert Scenario.from_dict({}) == Scenario()


def test_unknown_fields_are_named():
    with pytest.raises(ConstraintError, match="no field bacth; its fields are batch"):
        Scenario.from_dict({"bacth": 4})


def test_a_scenario_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scenario().batch = 2


def test_the_module_imports_no_torch():
    code = "import sys, puzzle.limits.scenario; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_counts_two_bytes_and_gives_way_to_what_is_served():
    assert (Scenario().weight_bytes, Scenario().cache_bytes) == (2, 2)
    assert Scenario().served_in("float32") == Scenario(weight_dtype="float32")
    assert Scenario(weight_dtype="float16").served_in("float32").weight_dtype == "float16"


def test_one_scenario_that_gives_its_number_format_gives_it_to_all():
    whole = Workload.of({"a": Scenario(), "b": Scenario(batch=2, weight_dtype="float32")})
    assert whole.weight_dtype == "float32"
    served = whole.served_in("bfloat16").scenarios.values()
    assert {scenario.weight_dtype for scenario in served} == {"float32"}
    assert Workload.of(Scenario()).served_in("float16").weight_dtype == "float16"
