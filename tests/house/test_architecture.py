"""The rules of the house, checked on the source text; ARCHITECTURE in the docs explains them.

Each rule lists what still breaks it. Such a list is exact and may only shrink: whoever repairs one
takes it off, and nobody adds one.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.house.source import ROOT, Function, Import, Module, doors, exported, modules

# The wings of `puzzle/`: each imports only from those before it.
WINGS = (
    *("errors", "_lazy", "progress", "storage", "hardware", "limits", "text", "models", "serving"),
    *("estimates", "executors", "stages", "plotting", "library", "scoring", "costs", "choice"),
    *(
        "distillation",
        "evaluation",
        "posttraining",
        "fusion",
        "report",
        "pipeline",
        "sizes",
        "sharing",
        "searching",
        "upkeep",
        "testing",
        "demo",
    ),
    *("cli", "__main__"),
)
MOST_LINES, MOST_BODY_LINES, MOST_PARAMETERS = 400, 50, 6
# They run alone in the interpreter of an engine, each with a main() or run() of its own.
SCRIPTS = ("puzzle.serving.runners.", "puzzle.costs.calibrated.engines.llama_cpp_worker")
SCRIPTS += ("puzzle.hardware.guard_script",)


def check(broken: Iterable[str], known: Iterable[str] = ()) -> None:
    """Fails on what breaks a rule and is not known, and on what is known and no longer does."""
    found, listed = set(broken), set(known)
    new, repaired = sorted(found - listed), sorted(listed - found)
    assert not new, "this breaks a rule of the house: " + "; ".join(new)
    assert not repaired, "repaired, so take it off the list: " + "; ".join(repaired)


def wing(module: str) -> str:
    return module.split(".")[1]


def through_a_door(imported: Import) -> bool:
    """Whether a package is imported for the names that it gives out on first use."""
    return not imported.names and (imported.target in doors() or imported.target == "search_space")


def test_each_wing_imports_only_from_those_before_it():
    broken = []
    for module in modules().values():
        for imported in module.imports:
            names = (module.name, imported.target)
            if not all(name.startswith("puzzle.") for name in names):
                continue
            own, other = map(wing, names)
            assert {own, other} <= set(WINGS), f"{own} or {other}: give it a place in WINGS"
            if WINGS.index(other) > WINGS.index(own):
                broken.append(f"{module.name} imports {imported.target}")
    check(broken)


# What engines load, over what puzzle knows of families.
PLUGINS = ("puzzle_sglang.sglang_children", "puzzle_vllm.children", "puzzle_vllm.models")


def test_solvers_and_search_space_import_neither_each_other_nor_puzzle():
    broken = []
    for name, module in modules().items():
        package = name.split(".")[0]
        if package in ("solvers", "search_space", "puzzle_sglang", "puzzle_vllm"):
            others = {i.target for i in module.imports if i.target.split(".")[0] != package}
            if name in (
                "puzzle_sglang.sglang_children",
                "puzzle_vllm.children",
                "puzzle_vllm.models",
            ):
                allowed = ("puzzle.models.", "puzzle.errors.")
                others = {other for other in others if not f"{other}.".startswith(allowed)}
            broken += [f"{name} imports {other}" for other in others]
    check(broken)


def test_only_descriptions_of_families_name_the_modules_of_a_decoder():
    names = re.compile(
        r"self_attn|(?:gate|up|down|gate_up|[qkvo]|qkv)_proj|input_layernorm|layernorm\.weight|\bmlp\."
    )
    broken = []
    for name, module in modules().items():
        # What writers of exports name is read by engines that name their own tensors so.
        if name.startswith("puzzle.") and not name.startswith(
            ("puzzle.models.", "puzzle.serving.writers.")
        ):
            broken += [name] if names.search(module.path.read_text(encoding="utf-8")) else []
    check(broken)


def test_only_progress_draws_bars():
    """So that one display shows all of a search, and -q hides all of it."""
    drawn = [
        name
        for name, module in modules().items()
        if re.search(r"^(?:from|import) tqdm", module.path.read_text(encoding="utf-8"), re.M)
    ]
    check(name for name in drawn if not name.startswith("puzzle.progress."))


def test_no_modules_import_each_other_in_a_circle():
    edges = {
        name: {i.target for i in module.imports if not i.typing and not through_a_door(i)}
        for name, module in modules().items()
    }
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " imports ".join(reversed(error.args[1])))


def test_our_own_packages_are_imported_at_the_top_of_a_file():
    broken = [
        f"{module.name} imports {imported.target} in a function"
        for module in modules().values()
        for imported in module.imports
        if imported.deferred and not imported.typing
    ]
    # Through importlib is no other way; doors and entry points are found by name.
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                target = ast.unparse(node.args[0])
                if "puzzle" in target and not module.name.startswith(("puzzle._lazy", *SCRIPTS)):
                    broken.append(f"{module.name} imports {target} by name")
    check(broken)


def test_inside_the_packages_names_come_from_the_module_that_defines_them():
    broken = []
    for module in modules().values():
        for imported in module.imports:
            if imported.target in ("search_space", "solvers") and module.package != imported.target:
                continue  # packages of their own, whose door is what others use
            defined = modules()[imported.target].bindings
            broken += [
                f"{module.name} takes {name} from {imported.target}"
                for name in imported.names
                if name not in defined and not is_door(module)
            ]
    check(broken)


def is_door(module: Module) -> bool:
    return module.path.stem == "__init__"


def test_no_module_has_the_name_of_what_its_package_exports():
    """Python binds a submodule in its package, in place of the function of that name."""
    check(
        (f"{door}.{name}" for door in doors() for name in exported(door) if is_module(door, name)),
    )


def is_module(package: str, name: str) -> bool:
    return f"{package}.{name}" in modules()


def test_every_name_in_a_stub_is_defined_where_the_stub_says():
    check(
        f"{door} exports {name}, which {module} does not define"
        for door in doors()
        for name, module in exported(door).items()
        if name not in modules()[module].bindings and module not in ("search_space", "solvers")
    )


def test_no_public_name_is_defined_in_two_modules():
    where = defaultdict(list)
    for module in modules().values():
        if not module.name.startswith(SCRIPTS):
            for name in module.definitions():
                where[name].append(module.name)
    check(
        (f"{name} in {' and '.join(names)}" for name, names in where.items() if len(names) > 1),
    )


def test_no_file_name_is_used_twice():
    stems = Counter(module.path.stem for module in modules().values())
    # Each package that stands alone has the errors that it raises.
    check(
        (
            stem
            for stem, n in stems.items()
            if n > 1 and stem not in ("__init__", "__main__", "errors")
        ),
    )


@pytest.mark.parametrize("folder", ["puzzle", "search_space", "solvers", "tests", "benchmarks"])
def test_files_are_short(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    long = {name for name, length in lengths.items() if length > MOST_LINES}
    check(long, (name for name in LONG_FILES if name.startswith(f"{folder}/")))


def test_function_bodies_are_short():
    broken = []
    for module in modules().values():
        for name, function in module.functions():
            body = function.body[1:] if ast.get_docstring(function) else function.body
            if body and body[-1].end_lineno - body[0].lineno + 1 > MOST_BODY_LINES:
                broken.append(f"{module.name}.{name}")
    check(broken)


def test_private_functions_have_few_parameters():
    public = {(module, name) for door in doors() for name, module in exported(door).items()}
    broken = []
    for module in modules().values():
        for name, function in module.functions():
            top, _, method = name.partition(".")
            is_public = (module.name, top) in public and (
                method == "__init__" or not method.startswith("_")
            )
            if len(parameters(function)) > MOST_PARAMETERS and not is_public:
                broken.append(f"{module.name}.{name}")
    check(broken)


def parameters(function: Function) -> list[str]:
    """The parameters that a caller gives: without the instance, the class, autograd's context."""
    given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [argument.arg for argument in given if argument.arg not in ("self", "cls", "ctx")]


# What still breaks a rule.
LONG_FILES: tuple[str, ...] = ()
