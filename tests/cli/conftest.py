"""The command line inside a test: what it prints, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from robal.cli import main
from tiny_runs import SETTINGS


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on standard error that explains a failure."""
        assert self.code != 0, self.out
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("robal: ")
        return lines[0].removeprefix("robal: ")


Robal = Callable[..., Said]


@pytest.fixture
def robal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Robal:
    """`robal(...)` in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBAL_DATA", raising=False)

    def run(*arguments: str | Path) -> Said:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run that the command line carried out. Tests leave it as it is, but for its report."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.raises(SystemExit) as end:
        main(["run", *SETTINGS, "--out", str(folder)])
    assert end.value.code == 0
    return folder
