"""`robal methods`: what a plan may name, in lists and one by one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import yaml

from robal.errors import PlanError
from robal.methods import PARTS, PLACES, described, listed
from robal.plans import COMPONENTS, encode, known, read_plan

ALL = [(place, name) for place, kind in PLACES.items() for name in known(kind)]
OF_NOBODY = {"BalancedByPrediction", "Mix", "Random", "Screened", "Subsample"}


def _plan_of(text: str) -> str:
    return text.split("In a plan:\n\n")[1].partition("\nAlso in")[0]


@pytest.mark.parametrize(("place", "name"), ALL)
def test_what_is_printed_of_a_method_is_a_part_of_a_plan_that_names_it(place: str, name: str) -> None:
    text = described(name)
    assert "Source: " in text or place != "acquisition" or name in OF_NOBODY
    part: Any = yaml.safe_load(_plan_of(text))
    for word in place.split("."):
        part = part[word]
    assert part == encode(known(PLACES[place])[name]())
    assert read_plan(base=yaml.safe_load(_plan_of(text)))


def test_every_kind_of_component_is_listed() -> None:
    listed_kinds = set(PLACES.values())
    assert {kind for kind in COMPONENTS if kind.__name__ != "Score"} == listed_kinds  # a Score is an Acquisition too
    assert listed()["acquisition"]["Random"].startswith("n images uniformly")


def test_names_are_found_in_any_case_and_by_their_aliases() -> None:
    assert described("dre") == described("DRE")
    assert described("entropy") == described("MaxEntropy")
    with pytest.raises(PlanError, match="did you mean 'DRE'"):
        described("DREE")


@pytest.mark.parametrize("place", PARTS)
def test_a_part_of_a_plan_is_explained_by_its_setting_and_by_its_name(place: str) -> None:
    text = described(place)
    assert text == described(PARTS[place].__name__)
    budget = ["recipe.budget=4_000_000"] if place == "recipe.pool" else []  # its teacher needs a part of it
    assert read_plan(base=yaml.safe_load(_plan_of(text)), overrides=budget)
    assert all(field.name in text for field in fields(PARTS[place]) if field.name != "rate_scale")


def test_the_command_lists_and_explains(robal: Any) -> None:
    said = robal("methods", "threat").out
    assert said.splitlines()[0] == "threat="
    assert len(said.splitlines()) == 1 + len(known(PLACES["threat"]))
    assert "bins: 50" in robal("methods", "DRE").out
    assert all(name in robal("methods").out for _, name in ALL)
    assert "did you mean 'PGD'" in robal("methods", "PGDD").sentence
    assert robal("methods", "xyzzy").sentence == "'xyzzy' is unknown; `robal methods` lists all"
