"""Every family passes the check that users run on theirs, and a wrong description fails it."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from transformers import AutoConfig

from puzzle.errors import ParentError
from puzzle.models import child as children
from puzzle.models import families, plugins
from puzzle.models.child import register_family
from puzzle.models.families import family_of
from puzzle.models.family import Family
from puzzle.models.slots import ATTENTION
from puzzle.testing import check_family
from tests.factories.families import EVERY, SIZES, family_config


@pytest.mark.parametrize("name", EVERY)
def test_every_family_is_what_its_description_says(name):
    config = family_config(name)
    figures = check_family(family_of(config), config)
    assert figures.fitted < figures.before


@pytest.fixture
def own_families(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    monkeypatch.setattr(children, "FAMILIES", families.FAMILIES)
    monkeypatch.setattr("puzzle.testing.family_checks.FAMILIES", families.FAMILIES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attention": replace(ATTENTION, before=None)}, "are not those of its child"),
        ({"root_embedding": True}, "run layer by layer, the parent differs"),
    ],
)
def test_a_wrong_description_is_refused_with_what_is_off(wrong, message, own_families):
    family = Family(model_types=("helium",), package="helium", classes="Helium", **wrong)
    with pytest.raises(ParentError, match="'helium' is not registered; call register_family"):
        check_family(family)
    register_family(family)
    with pytest.raises(ParentError, match=message):
        check_family(family, AutoConfig.for_model("helium", **{**SIZES, "head_dim": 12}))


def test_families_of_installed_packages_are_known_and_broken_ones_are_named(monkeypatch, caplog):
    points = [
        EntryPoint("good", "puzzle.models.families:OLMO2", plugins.GROUP),
        EntryPoint("gone", "puzzle.models.no_such_module:FAMILY", plugins.GROUP),
        EntryPoint("other", "puzzle.models.families:FAMILIES", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    assert list(plugins.installed_families()) == [families.OLMO2]
    assert "the family gone (puzzle.models.no_such_module:FAMILY) is left out" in caplog.text
    assert "other (puzzle.models.families:FAMILIES) is left out: it is no Family" in caplog.text
