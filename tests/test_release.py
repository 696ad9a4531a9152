"""What must agree before a release does: versions, least requirements, extras named in the texts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import robal

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere() -> None:
    assert f"version: {robal.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (\S+) – ", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == robal.__version__  # type: ignore[index]


def test_the_least_versions_are_those_that_are_tested() -> None:
    tested = dict(
        line.split("==") for line in (ROOT / "constraints-minimal.txt").read_text().splitlines() if line[0] != "#"
    )
    wanted = {need.name: need for need in map(Requirement, PROJECT["dependencies"])}
    assert tested.keys() == wanted.keys()
    for name, need in wanted.items():
        (least,) = need.specifier
        assert Version(least.version) == Version(tested[name]), name


@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - {"dev", "docs"}))
def test_every_extra_is_named_where_one_installs(extra: str) -> None:
    assert f"robal[{extra}]" in (ROOT / "docs/install.md").read_text()


def test_only_tested_versions_of_python_are_declared() -> None:
    said = [line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert said == ["3.11"]
