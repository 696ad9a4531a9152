"""What `import robal` promises is there, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import robal
from robal import acquisition


@pytest.mark.parametrize("name", robal.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    assert getattr(robal, name).__module__.startswith("robal.")


def test_every_acquisition_function_is_among_them() -> None:
    functions = {name for name in acquisition.__all__ if isinstance(getattr(acquisition, name), type)}
    assert functions - {"Acquisition", "Score"} <= set(robal.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Dre'"):
        _ = robal.Dre


@pytest.mark.parametrize(
    ("modules", "not_yet"),
    [
        ("robal, robal.cli", "torch"),  # `robal --help` answers at once
        ("robal.loop, robal.plans, robal.labelling", "sklearn scipy.stats scipy.special matplotlib pyarrow"),
    ],
)
def test_what_takes_seconds_to_import_waits_until_it_is_needed(modules: str, not_yet: str) -> None:
    code = f"import sys, {modules}; print(*sorted(sys.modules.keys() & set('{not_yet}'.split())))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"
