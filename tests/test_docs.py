"""The commands in the texts are commands: each is parsed as the command line would, and its plan is checked."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from robal import cli
from robal.cli import app
from robal.plans import read_plan, read_yaml
from robal.presets import text

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks/README.md"]
)


def commands(path: Path) -> list[str]:
    """The lines of a text's code that are whole commands of robal; those with an … are not."""
    found, fence = [], ""
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        code = fence == "```bash" or (not fence and line.startswith("    "))
        if code and re.match(r"(?:[A-Z_]+=\S+ )*robal [a-z]", line.strip()) and "…" not in line.split("#")[0]:
            found.append(line.strip())
        elif not code and not fence:  # within a sentence a command may be a mere name
            found += [span for span in re.findall(r"`(robal [a-z][^`…]*)`", line) if re.search(r" --\w|=", span)]
    return found


def python(path: Path) -> list[str]:
    """The blocks of Python in a text."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)


def functions(of: App) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions behind the commands, those of groups of commands too."""
    for name in of:
        inner = of[name]
        if inner.default_command is not None and inspect.getmodule(inner.default_command) is cli:
            yield name, inner.default_command
        elif not name.startswith("-"):
            yield from functions(inner)


HELP = {name: str(function.__doc__) for name, function in functions(app)}
ALL = [(str(path.relative_to(ROOT)), line) for path in TEXTS for line in commands(path)]
ALL += [
    (f"robal {name} --help", line) for name, text in HELP.items() for line in re.findall(r"- `(robal [^`…]*)`", text)
]


@pytest.fixture
def _my_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that docs/guides/add-a-method.md has its reader write."""
    (block,) = (code for code in python(ROOT / "docs/guides/add-a-method.md") if code.startswith("# my_methods.py"))
    (tmp_path / "my_methods.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("path", [path for path in TEXTS if python(path)], ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_the_text_is_python_and_imports_what_is_there(path: Path) -> None:
    for code in python(path):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "robal":
                home = importlib.import_module(str(node.module))
                assert all(hasattr(home, one.name) for one in node.names), code


def test_there_are_commands_to_check() -> None:
    assert len(ALL) > 60
    assert {str(path) for path, _ in ALL} >= {"README.md", "docs/start.md", "docs/guides/evaluate.md"}


@pytest.mark.parametrize("name", HELP)
def test_every_help_has_an_example(name: str) -> None:
    assert re.search(r"For example:\n\n    - `robal ", HELP[name])


@pytest.mark.usefixtures("_my_methods")
@pytest.mark.parametrize(("path", "line"), ALL, ids=[f"{path}-{number}" for number, (path, _) in enumerate(ALL)])
def test_the_command_is_one(path: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("robal") + 1 :]
    words = words[: min((words.index(stop) for stop in (">", "&&", "|") if stop in words), default=len(words))]
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    if command.__name__ == "run_command":
        settings, preset = bound.args, bound.kwargs.get("preset")
        files = [setting for setting in settings if "=" not in setting]
        overrides = [setting for setting in settings if "=" in setting]
        if not files:
            read_plan(None, overrides, None if preset is None else read_yaml(text(preset), preset))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pydata_sphinx_theme", reason="the site needs the extra `docs`: make docs")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-c", "docs"]
    built = subprocess.run([*command, ".", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").exists()
    for page in (tmp_path / "docs/methods").glob("*.html"):
        assert "$" not in page.read_text(), f"{page.name} has a formula that was not set"  # as by | inside a table
    assert "<math" in (tmp_path / "docs/methods/acquisition.html").read_text()
