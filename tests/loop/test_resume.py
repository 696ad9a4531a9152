"""A run that was killed, stopped, or ran out of disk, and was called again, ends as one that was left alone."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from robal.cli import main
from robal.loop import rounds
from robal.plans import read_plan
from tiny_runs import DELICATE, SETTINGS, Apart, carry_out, outcome, robal, tiny_plan

COMMAND = ("run", *SETTINGS, *DELICATE, "--out")
KILLED = -signal.SIGKILL
KINDS = (
    "write_records",
    "save_question",
    "save_answers",
    "save_history",
    "save_query",
    "Trained.save",
    "fit.save_tensors",
    "contact_sheet",
    "save_kept",
    "Path.replace",
    "Path.unlink",
)


@pytest.fixture(scope="session")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run came to that nobody disturbed; how long it took; and the names of all its saves, in order."""
    folder = tmp_path_factory.mktemp("unkilled")
    assert Apart(tiny_plan, folder / "log").run() == 0  # the first one waits for imports
    started = time.monotonic()
    whole = Apart(partial(carry_out, DELICATE, folder / "run"), folder / "log", folder / "calls")
    assert whole.run() == 0, whole.said
    seconds = time.monotonic() - started
    calls = (folder / "calls").read_text(encoding="utf-8").split()
    return {"outcome": outcome(folder / "run"), "seconds": seconds, "saves": calls}


def nth(saves: list[str], name: str, number: int) -> int:
    """The position of the `number`-th (from 0) save called `name`."""
    return [position for position, save in enumerate(saves) if save.endswith(name)][number]


def test_the_run_under_test_is_one_that_a_lost_state_would_change(unkilled: dict[str, Any]) -> None:
    assert unkilled["outcome"]["metrics"][0]["labels"]["validation"] == 8
    start, _, last = [row["epoch_kept"] for row in unkilled["outcome"]["metrics"]]
    assert (
        start < 10 or last == 1
    )  # a best epoch is not the last one, and has to be remembered; which, rounding decides
    weights = unkilled["outcome"]["weights"]
    assert all(one != other for one, other in itertools.combinations(weights, 2))
    assert any(name.startswith("optimiser:") for name in weights[0])
    assert any(name.startswith("snapshot1:") for name in weights[1])
    kept = [row["kept"] for row in unkilled["outcome"]["metrics"]]
    assert kept[2]["twin"] > kept[1]["twin"] > 0
    assert kept[1]["pseudo"] > 0


# Killed at a save


@pytest.mark.parametrize("name", [*KINDS, "records.write"])
def test_every_kind_of_save_is_watched(unkilled: dict[str, Any], name: str) -> None:
    assert any(save.endswith(name) for save in unkilled["saves"])


def killed_at(position: int, before: bool, folder: Path) -> dict[str, Any]:
    """What a run comes to that killed itself at a save and was called again."""
    work = partial(carry_out, DELICATE, folder / "run")
    killed = Apart(work, folder / "log", kill_at=position, before=before)
    assert killed.run() == KILLED, killed.said
    again = Apart(work, folder / "log")
    assert again.run() == 0, again.said
    return outcome(folder / "run")


@pytest.mark.parametrize(
    ("name", "number", "before"),
    [
        ("RunFolder.save_answers", 1, True),  # asked, and not answered
        # within the training of the model beside the robust one, before the choice of round 1
        pytest.param("fit.save_tensors", 12, False, marks=pytest.mark.slow),
        # within the training of the teacher that labels the pool in round 1
        pytest.param("fit.save_tensors", 23, False, marks=pytest.mark.slow),
        ("fit.save_tensors", -2, False),  # within the training of round 2, one epoch done and one to come
        pytest.param("RunFolder.save_history", 1, True, marks=pytest.mark.slow),  # round 1 is all there but its metrics
        # round 2 has its twins, and has not begun to train
        pytest.param("loop.save_kept", 1, False, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_a_save_ends_as_if_it_had_not_been(
    unkilled: dict[str, Any], tmp_path: Path, name: str, number: int, before: bool
) -> None:
    position = nth(unkilled["saves"], name, number)
    assert killed_at(position, before, tmp_path) == unkilled["outcome"]


@pytest.mark.slow
def test_a_run_killed_at_20_saves_ends_as_if_it_had_not_been(unkilled: dict[str, Any], tmp_path: Path) -> None:
    saves, kinds = unkilled["saves"], list[int]()
    for name in KINDS:
        of_kind = [position for position, save in enumerate(saves) if save.endswith(name)]
        kinds.append(of_kind[len(of_kind) // 2])
    # After one save is before the next one: nothing is written in between. Nor between a file's replacement and the
    # removal of its temporary, which is gone by then.
    others = [
        position
        for position, save in enumerate(saves)
        if not (save == "Path.unlink" and saves[position - 1] == "Path.replace") and position not in kinds
    ]
    drawn = random.Random(0).sample(others, 19 - len(kinds))
    points = [(position, True) for position in sorted({*kinds, *drawn})] + [(len(saves) - 1, False)]
    wrong = []
    for position, before in points:
        folder = tmp_path / f"{position}{'before' if before else 'after'}"
        folder.mkdir()
        if killed_at(position, before, folder) != unkilled["outcome"]:
            wrong.append((position, saves[position], before))
        shutil.rmtree(folder)
    assert wrong == []


# Killed at any moment


def killed_again_and_again(moments: Sequence[float], seconds: float, folder: Path) -> None:
    """Run, resume, resume ..., each killed at a moment in [0, 1] of a whole run's time; then resume to the end."""
    left, run = list(moments), folder / "run"
    while left:
        begun = (run / "plan.yaml").exists()
        process = Apart(robal("resume", run) if begun else robal(*COMMAND, run), folder / "log")
        if process.run(kill_after=left[0] * seconds) == KILLED:
            left.pop(0)
        else:  # it was faster than the kill: once more from the start, and sooner
            shutil.rmtree(run)
            left, seconds = list(moments), 0.7 * seconds
    begun = (run / "plan.yaml").exists()
    last = Apart(robal("resume", run) if begun else robal(*COMMAND, run), folder / "log")
    assert last.run() == 0, last.said
    assert "Traceback" not in last.said


def test_a_run_killed_at_3_random_moments_ends_as_if_it_had_not_been(unkilled: dict[str, Any], tmp_path: Path) -> None:
    draw = random.Random(0)
    killed_again_and_again([draw.uniform(0.1, 0.5) for _ in range(3)], unkilled["seconds"], tmp_path)
    assert outcome(tmp_path / "run") == unkilled["outcome"]


@pytest.mark.slow
def test_a_run_killed_at_20_random_moments_ends_as_if_it_had_not_been(unkilled: dict[str, Any], tmp_path: Path) -> None:
    draw = random.Random(1)
    for number in range(10):
        moments = [draw.uniform(0.1, 1.0), draw.uniform(0.0, 0.6)]
        folder = tmp_path / str(number)
        folder.mkdir()
        killed_again_and_again(moments, unkilled["seconds"], folder)
        ended = outcome(folder / "run")
        assert set(ended["files"]) ^ set(unkilled["outcome"]["files"]) == set(), moments
        assert ended == unkilled["outcome"], moments
        shutil.rmtree(folder)


# Stopped by hand


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("fit.save_tensors", 2),
        pytest.param("RunFolder.save_answers", 1, marks=pytest.mark.slow),
        pytest.param("contact_sheet", -1, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_says_how_to_go_on_and_the_run_ends_as_if_it_had_not_been_pressed(
    unkilled: dict[str, Any], tmp_path: Path, name: str, number: int
) -> None:
    folder, position = tmp_path / "run", nth(unkilled["saves"], name, number)
    first = Apart(robal(*COMMAND, folder), tmp_path / "log", kill_at=position, signal=signal.SIGINT)
    assert first.run() == 130, first.said
    assert first.said.splitlines()[-1] == f"Stopped; nothing is lost. Go on with: robal resume {folder}"
    assert "Traceback" not in first.said
    work = robal("resume", folder) if name == "contact_sheet" else partial(carry_out, DELICATE, folder)
    second = Apart(work, tmp_path / "log")
    assert second.run() == 0, second.said
    assert outcome(folder) == unkilled["outcome"]


# Another number of threads


def threads_here(folder: Path, threads: int) -> None:
    """Go on with a run where torch would use `threads`; print how many it used."""
    torch.set_num_threads(threads)
    plan = read_plan(folder / "plan.yaml")
    for state in rounds(plan, plan.data.load(), folder):
        print("within", state.round, torch.get_num_threads())
    print("after", torch.get_num_threads())


def test_a_run_keeps_the_number_of_threads_it_began_with(unkilled: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    position = nth(unkilled["saves"], "RunFolder.save_query", 0)
    killed = Apart(partial(carry_out, DELICATE, folder), tmp_path / "log", kill_at=position)
    assert killed.run() == KILLED, killed.said
    began_with = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["threads"]
    other = 3 - min(began_with, 2)
    again = Apart(partial(threads_here, folder, other), tmp_path / "again")
    assert again.run() == 0, again.said
    lines = [f"within {number} {began_with}" for number in range(4)] + [f"after {other}"]
    said = [line for line in again.said.splitlines() if line.startswith(("within", "after"))]
    assert said == lines
    assert outcome(folder) == unkilled["outcome"]


@pytest.mark.slow
def test_a_run_resumed_in_a_shell_of_other_threads_ends_the_same(unkilled: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    position = nth(unkilled["saves"], "RunFolder.save_answers", 1)
    killed = Apart(partial(carry_out, DELICATE, folder), tmp_path / "log", kill_at=position)
    assert killed.run() == KILLED, killed.said
    began_with = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["threads"]
    shell = dict(os.environ) | {"OMP_NUM_THREADS": str(3 - min(began_with, 2))}
    script = Path(sys.executable).with_name("robal")  # the command itself, as it is installed
    resumed = subprocess.run(
        [script, "resume", folder, "--json"], env=shell, capture_output=True, text=True, timeout=300, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert [json.loads(line)["round"] for line in resumed.stdout.splitlines()] == [1, 2]
    assert resumed.stderr == ""
    assert outcome(folder) == unkilled["outcome"]


# A full disk


def with_small_files(limit: int, arguments: list[str]) -> None:
    """`robal` where no file may grow beyond `limit` bytes, which to a program looks much like a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    main(arguments)


def one_sentence(said: str) -> str:
    """The one line of an error."""
    errors = [line for line in said.splitlines() if line.startswith("robal: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said
    return errors[0]


@pytest.mark.parametrize(
    "limit", [100_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (900, 10_000, 600_000))]
)
def test_files_that_do_not_fit_stop_the_run_and_it_goes_on_afterwards(
    unkilled: dict[str, Any], tmp_path: Path, limit: int
) -> None:
    folder = tmp_path / "run"
    arguments = [str(part) for part in (*COMMAND, folder)]
    full = Apart(partial(with_small_files, limit, arguments), tmp_path / "full")
    assert full.run() == 4, full.said
    assert "could not be" in one_sentence(full.said) or "cannot be used" in one_sentence(full.said)
    assert str(folder) in one_sentence(full.said)
    again = Apart(partial(carry_out, DELICATE, folder), tmp_path / "log")
    assert again.run() == 0, again.said
    assert outcome(folder) == unkilled["outcome"]


def on_a_small_disk(size: int, disk: Path, safe: Path) -> None:
    """A run on a real file system of `size` bytes that only this process sees; resumed when there is more space.

    Writes both exit codes to `safe`/codes.json, and copies the folder there. Exit code 77 where this is not allowed.
    """
    system = ctypes.CDLL(None, use_errno=True)
    user, mounts, recursive, private, again = 0x10000000, 0x00020000, 0x4000, 1 << 18, 32
    person = os.getuid()
    if system.unshare(mounts) != 0:
        if system.unshare(user | mounts) != 0:
            raise SystemExit(77)
        Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
        Path("/proc/self/uid_map").write_text(f"0 {person} 1", encoding="utf-8")

    def mount(options: str, flags: int = 0) -> int:
        return int(system.mount(b"none", os.fsencode(disk), b"tmpfs", flags, options.encode()))

    if system.mount(b"none", b"/", None, recursive | private, None) != 0 or mount(f"size={size}") != 0:
        raise SystemExit(77)
    codes = []
    for arguments in ([*COMMAND, disk / "run"], ["resume", disk / "run"]):
        if arguments[0] == "resume" and not (disk / "run/plan.yaml").exists():
            arguments = [*COMMAND, disk / "run"]
        try:
            main([str(argument) for argument in arguments])
            codes.append(0)
        except SystemExit as end:
            codes.append(int(end.code or 0))
        assert mount("size=100m", again) == 0
    (safe / "codes.json").write_text(json.dumps(codes), encoding="utf-8")
    shutil.copytree(disk / "run", safe / "run")


@pytest.mark.parametrize(
    "kilobytes",
    [
        pytest.param(size, marks=() if size == 1_200 else pytest.mark.slow)
        for size in (4, 24, 40, 64, 96, 400, 800, 1_200, 1_700, 2_200, 2_600, 2_900)
    ],
)
def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_space(
    unkilled: dict[str, Any], tmp_path: Path, kilobytes: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    story = Apart(partial(on_a_small_disk, kilobytes * 1024, disk, tmp_path), tmp_path / "log")
    code = story.run()
    if code == 77:
        pytest.skip("this machine lets nobody mount a small disk")
    assert code == 0, story.said
    assert json.loads((tmp_path / "codes.json").read_text(encoding="utf-8")) == [4, 0], story.said
    one_sentence(story.said)
    assert outcome(tmp_path / "run") == unkilled["outcome"]
