"""What SECURITY.md says is never done is nowhere in the code, and the tests that it names exist."""

import ast
import re

from tests.house.source import ROOT, calls, modules

# Calls that unpickle, run text as code, or start a shell.
FORBIDDEN = {"eval", "exec", "os.popen", "os.system", "subprocess.getoutput", "torch.hub.load"}
FORBIDDEN |= {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "yaml.load"}
# Packages that store code.
MODULES = {"pickle", "dill", "joblib", "marshal", "shelve"}


def test_nothing_unpickles_evaluates_text_or_starts_a_shell():
    every = list(calls())
    assert len(every) > 5000
    assert [name for name, function, _ in every if function in FORBIDDEN] == []
    assert [name for name, _, given in every if given.keys() & {"shell", "allow_pickle"}] == []


def imported(module):
    """Returns the packages that a module imports."""
    names = set()
    for node in ast.walk(module.tree):
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    return {name.split(".")[0] for name in names}


def test_no_package_that_stores_code_is_imported():
    assert [each.name for each in modules().values() if imported(each) & MODULES] == []


def test_one_module_alone_makes_temporary_files():
    """What it makes ends with its process or is cleaned later; what others make would stay."""
    places = {module.name for module in modules().values() if "tempfile" in imported(module)}
    assert places == {"puzzle.storage.temporary_places"}


def test_the_tests_that_the_security_page_names_exist():
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []
