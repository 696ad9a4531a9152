"""A study in its folder: what is done, what is left, and the doing of it. Killed at any moment, it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, Literal

import yaml

from robal.datasets import data_folder
from robal.errors import FolderInUse, PlanError, RobalError, RunFolderError
from robal.files import write
from robal.folder import RunFolder, is_over
from robal.plans import read_yaml
from robal.records import check_weights
from robal.studies.reproduce import reproduction
from robal.studies.schedule import Scheduler, carried_out
from robal.studies.study import Cell, Primary, Study, grids_of, holds, study_of
from robal.studies.work import FAILED, Job, lends

FILE = "study.yaml"
Status = Literal["finished", "failed", "waits", "damaged", "begun", "new"]


@dataclass(frozen=True)
class Standing:
    """How far one run is.

    Args:
        status: "failed" and "waits" (for people) are tried again, "damaged" is left alone.
        rounds: how many are finished.
        why: of what failed, waits or is damaged.
    """

    status: Status
    rounds: int = 0
    why: str = ""


@dataclass(frozen=True)
class Place:
    """The folder of a study: study.yaml, and a run folder for each cell.

    Args:
        path: the folder.
        study: what study.yaml says.
    """

    path: Path
    study: Study

    @classmethod
    def of(cls, path: Path) -> Place:
        """The study in a folder.

        Raises:
            RunFolderError: for a folder without one.
        """
        if not (path / FILE).exists():
            raise RunFolderError(f"{path} holds no study: there is no {FILE} in it")
        text = (path / FILE).read_text(encoding="utf-8")
        return cls(path.resolve(), study_of(read_yaml(text, str(path / FILE)), str(path / FILE)))

    @classmethod
    def foreseen(cls, path: Path, said: Mapping[str, Any]) -> Place:
        """The study that a mapping describes as it would be in a folder; nothing is written.

        Raises:
            RunFolderError: for a folder that holds another study, one with runs that are not in this one or another
                primary comparison; what was fixed beforehand stays. New runs may join an old study.
        """
        study = study_of(said)
        for source in {cell.plan.data for cell in study.cells}:
            source.keeps_out(path)
        if (path / "plan.yaml").exists():
            raise RunFolderError(f"{path} holds a run; name another folder for a study by --out")
        if path.is_dir() and any(path.iterdir()) and not is_study(path):
            raise RunFolderError(f"{path} holds other things and no study; name a new folder by --out")
        if is_study(path):
            old = cls.of(path).study
            missing = {cell.identity for cell in old.cells} - {cell.identity for cell in study.cells}
            # that of a published table is fixed in the package, not by whoever has seen results
            is_first = old.primary is None and study.primary == _of_package(study)
            if missing or (old.primary != study.primary and not is_first):
                what = (
                    f"{len(missing)} of its runs are not in this one"
                    if missing
                    else "its primary comparison is another"
                )
                raise RunFolderError(f"{path} holds another study ({what}); choose another folder with --out")
        return cls(path.resolve(), study)

    @classmethod
    def begun(cls, path: Path, said: Mapping[str, Any]) -> Place:
        """The study that a mapping describes, begun in a folder, or gone on with.

        Raises:
            RunFolderError: as `foreseen`.
            PlanError: for cells that their data cannot carry.
        """
        place = cls.foreseen(path, said)
        place.study.check()  # before anything is written
        path.mkdir(parents=True, exist_ok=True)
        write(path / FILE, yaml.safe_dump(dict(said), sort_keys=False, allow_unicode=True, width=110))
        return place

    def folder(self, cell: Cell) -> Path:
        """A cell's run folder: one that is there under another name, from before the study grew, keeps it."""
        there = next(iter(self.path.glob(f"*-{cell.identity[:8]}")), None)
        return there or self.path / cell.name

    def standing(self, cell: Cell) -> Standing:
        """How far a cell's run is."""
        folder = self.folder(cell)
        if not folder.exists():
            return Standing("new")
        try:
            history = RunFolder(folder).history()
            done = len(history)
        except RobalError as error:
            return Standing("damaged", why=str(error))
        if is_over(cell.plan.rounds, history):
            return Standing("finished", done)
        try:
            failed = json.loads((folder / FAILED).read_text(encoding="utf-8"))
            return Standing("waits" if failed["waits"] else "failed", done, str(failed["why"]))
        except (OSError, ValueError, KeyError):
            return Standing("begun" if done or (folder / "plan.yaml").exists() else "new", done)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else works at this study inside the block.

        Raises:
            FolderInUse: if somebody does.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise FolderInUse(f"another process works at the study in {self.path}; wait for it") from None
            yield


def _of_package(study: Study) -> Primary | None:
    """The comparison that is fixed for what a study reproduces."""
    about = reproduction(study.reproduces) if study.reproduces else None
    if about is None or not about.primary:
        return None
    return Primary(**{"axis": about.axis, **about.primary, "compare": tuple(about.primary["compare"]), "where": {}})


def is_study(folder: Path) -> bool:
    """Whether a folder is a study's."""
    return (folder / FILE).exists()


After = Callable[[Job, str], list[Job]]  # of a job that has ended, and what went wrong: what may begin now


def jobs_of(place: Place, standings: Mapping[str, Standing], data: str) -> tuple[list[Job], After]:
    """What is left to do at once, and what may follow a job: runs of one round 0 wait until one has computed it.

    Seed by seed: differences are paired by seed, so a study that is stopped early says most.
    """
    seeds = place.study.axes["seed"]
    left = [cell for cell in place.study.cells if standings[cell.name].status not in ("finished", "damaged")]
    left.sort(key=lambda cell: seeds.index(cell.labels["seed"]))
    groups: dict[str, list[Cell]] = {}
    for cell in left:
        groups.setdefault(cell.start or cell.name, []).append(cell)
    have = {
        cell.start: cell
        for cell in place.study.cells
        if standings[cell.name].rounds and cell.start and lends(place.folder(cell))
    }
    now, later = [], dict[Path, list[Job]]()
    for key, cells in groups.items():
        source = have.get(key)
        first = source or cells[0]
        jobs = [
            Job(cell.plan, place.folder(cell), None if cell is first else place.folder(first), data=data)
            for cell in cells
        ]
        if source is not None or len(cells) == 1:
            now += [
                replace(job, start=None) if standings[cell.name].rounds else job
                for cell, job in zip(cells, jobs, strict=True)
            ]
        else:
            now.append(replace(jobs[0], only_start=True))
            later[jobs[0].folder] = jobs

    def after(job: Job, why: str) -> list[Job]:
        mine = later.pop(job.folder, []) if job.only_start else []
        if not why or not mine:
            return mine
        rest = [replace(other, start=mine[1].folder) for other in mine[2:]]  # another one computes round 0 for the rest
        if rest:
            later[mine[1].folder] = [replace(mine[1], start=None), *rest]
        return [replace(mine[1], start=None, only_start=bool(rest))] if len(mine) > 1 else []

    return now, after


@dataclass(frozen=True)
class Progress:
    """How far a study is while it is carried out.

    Args:
        standings: by cell name.
        running: the cells at work.
        ended: those that have ended since the last look, with what went wrong, or "".
        seconds_left: None before anything can be said.
    """

    standings: Mapping[str, Standing]
    running: tuple[Cell, ...]
    ended: tuple[tuple[Cell, str], ...]
    seconds_left: float | None


def compare(place: Place, scheduler: Scheduler) -> Iterator[Progress]:
    """Carry out what is left of a study, failed runs too; how far it is, every half second.

    Raises:
        FolderInUse: if another process works at it.
        RunFolderError: where some runs began from other weights than others would, for their file has changed.
    """
    with place.locked():
        cells = {place.folder(cell): cell for cell in place.study.cells}
        standings = {cell.name: place.standing(cell) for cell in place.study.cells}
        if any(standing.status not in ("finished", "damaged") for standing in standings.values()):
            for folder, cell in cells.items():
                check_weights(folder, cell.plan)
        whole = sum(cell.plan.rounds + 1 for cell in place.study.cells if standings[cell.name].status != "damaged")
        begun, before = time.monotonic(), sum(standing.rounds for standing in standings.values())
        jobs, after = jobs_of(place, standings, str(data_folder().resolve()))
        try:
            for ended in carried_out(jobs, after, scheduler):
                for job, why in ended:
                    if why and not (job.folder / FAILED).exists():  # nobody was left to write it down
                        job.folder.mkdir(exist_ok=True)
                        write(job.folder / FAILED, json.dumps({"why": why, "waits": False}) + "\n")
                running = tuple(cells[job.folder] for job in scheduler.running)
                for cell in [*running, *(cells[job.folder] for job, _ in ended)]:
                    standings[cell.name] = place.standing(cell)
                done = sum(standing.rounds for standing in standings.values())
                spent = time.monotonic() - begun
                left = spent * (whole - done) / (done - before) if done > before else None
                told = tuple(
                    (cells[job.folder], standings[cells[job.folder].name].why if why else "")
                    for job, why in ended
                    if why or not job.only_start
                )
                yield Progress(dict(standings), running, told, left)
        finally:
            scheduler.stop()


def joined(folder: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """A study that joins the one in a folder, where it differs from it by its grid: with both grids.

    A grid that another holds whole (fewer seeds of the same) is named once. The data sets may lie elsewhere by now.
    """
    if not is_study(folder):
        return dict(said)
    old = read_yaml((folder / FILE).read_text(encoding="utf-8"), str(folder / FILE))
    plans = [with_data({"plan": one.get("plan")}, Path()) for one in (old, said)]
    if plans[0] != plans[1] or any(old.get(key) != said.get(key) for key in ("preset", "reproduces")):
        return dict(said)
    where = str(folder / FILE)
    grids, wanted = grids_of(old, where), grids_of(said, "the study")
    both = [
        *(grid for grid in grids if not any(holds(wide, grid, where) for wide in wanted)),
        *(grid for grid in wanted if not any(holds(wide, grid, where) and not holds(grid, wide) for wide in grids)),
    ]
    return {
        **old,
        "plan": said.get("plan") or {},
        "grid": both,
        **({"primary": said["primary"]} if "primary" in said else {}),
    }


def with_data(said: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """The study whose data sets lie in a folder."""
    if data is None:
        return dict(said)
    plan = said.get("plan") or {}
    if not isinstance(plan, Mapping):
        raise PlanError([f"plan must be a mapping (key: value), not {plan!r}"])
    named = {"data": {"name": plan["data"]}} if isinstance(plan.get("data"), str) else {}
    return {**said, "plan": {**plan, **named, "data.folder": str(data.resolve())}}
