"""The rules of the house on what is read through other libraries: no remote code, no pickles."""

import ast

from tests.house.source import calls, modules

# It alone calls transformers; scripts that run in an engine's interpreter cannot import it.
ONLY = "puzzle.models.pretrained"
RUNNERS = "puzzle.serving.runners."
ANSWERS = {"trust_remote_code", "use_safetensors"}


def test_only_one_module_reads_through_transformers_and_it_always_answers():
    reading = [call for call in calls() if call[1].endswith(".from_pretrained")]
    places = {name for name, _, _ in reading}
    assert places == {ONLY, f"{RUNNERS}run_transformers"}
    for name, function, given in reading:
        assert "trust_remote_code" in given, f"{name}: {function} would ask on a terminal"
        answer = given["trust_remote_code"]
        assert not (isinstance(answer, ast.Constant) and answer.value is not False), name
        if "ModelFor" in function:
            assert set(given) >= ANSWERS, f"{name}: {function} would unpickle weights"
            assert ast.unparse(given["use_safetensors"]) == "True", name


def test_by_default_no_code_of_a_repository_is_run():
    for name, module in modules().items():
        for where, function in module.functions():
            arguments = function.args
            pairs = [
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
                *zip(arguments.args[::-1], arguments.defaults[::-1], strict=False),
            ]
            for argument, default in pairs:
                if argument.arg == "trust_remote_code":
                    assert ast.unparse(default) == "False", f"{name}.{where}"
