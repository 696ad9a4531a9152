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


def test_importing_robal_does_not_import_torch() -> None:
    code = "import sys, robal, robal.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
