"""Studies mirrored in an experiment tracker: a listener that reads run folders, and nothing depends on it."""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from robal.errors import RobalError, RunFolderError
from robal.plan import Plan
from robal.plans import encode, flat
from robal.report.folder import Round, read
from robal.studies.compare import Place
from robal.studies.study import Cell

_ROUNDS = "robal.rounds"
_ENDS = {"finished": "FINISHED", "failed": "FAILED"}  # what MLflow calls it
State = Literal["begun", "finished", "failed"]


@runtime_checkable
class Tracker(Protocol):
    """Somewhere that runs are mirrored. Told the same twice, it keeps it once."""

    def mirror(
        self, study: str, run: str, settings: Mapping[str, str], rounds: Sequence[Mapping[str, float]], state: State
    ) -> None:
        """Bring one run up to date.

        Args:
            study: what the runs of a study are gathered under: its folder.
            run: the run's name, which no other of the study has.
            settings: what is varied, and the whole plan with dotted keys.
            rounds: of each round from 0 on, its figures by name.
            state: one that failed, or is begun, may go on later.
        """
        ...


@dataclass(frozen=True)
class MLflow:
    """Mirrors a study as an experiment of MLflow: a run for each run, a step for each round.

    Args:
        uri: of the tracking store, "sqlite:///mlflow.db", or of a server. `mlflow ui --backend-store-uri URI` shows it.

    Raises:
        RobalError: where the extra is not installed.
    """

    uri: str = "sqlite:///mlflow.db"

    @cached_property
    def _client(self) -> Any:
        try:
            mlflow = importlib.import_module("mlflow")
        except ImportError as error:
            raise RobalError("MLflow is not installed: pip install 'robal[mlflow]'") from error
        for key, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "10")):  # a server that is not there is told of soon
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{key}", value)
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # the tables it makes are its own affair
        return mlflow.MlflowClient(tracking_uri=self.uri)

    def reached(self) -> MLflow:
        """This, once its store has answered.

        Raises:
            RobalError: where the extra is not installed, or nothing answers.
        """
        if not self.uri:
            raise RobalError("name MLflow's store, as in --track sqlite:///mlflow.db")
        try:
            self._client.search_experiments(max_results=1)
        except RobalError:
            raise
        except Exception as error:  # whatever a store or network may raise
            raise RobalError(f"MLflow does not reach {self.uri}: {error}") from error
        return self

    def mirror(
        self, study: str, run: str, settings: Mapping[str, str], rounds: Sequence[Mapping[str, float]], state: State
    ) -> None:
        entities = importlib.import_module("mlflow.entities")
        there = self._client.get_experiment_by_name(study)
        where = self._client.create_experiment(study) if there is None else there.experiment_id
        same = self._client.search_runs([where], f"tags.`robal.run` = '{run}'")
        one = same[0] if same else self._client.create_run(where, run_name=run, tags={"robal.run": run})
        kept, done = one.info.run_id, int(one.data.tags.get(_ROUNDS, 0))
        params = [entities.Param(_plain(key), value[:6000]) for key, value in settings.items()]
        params = [param for param in params if param.key not in one.data.params]
        for start in range(0, len(params), 100):  # at most so many at a time
            self._client.log_batch(kept, params=params[start : start + 100])
        for number, figures in enumerate(rounds[done:], done):
            metrics = [entities.Metric(_plain(name), value, 0, number) for name, value in figures.items()]
            self._client.log_batch(kept, metrics=metrics)
            self._client.set_tag(kept, _ROUNDS, str(number + 1))  # what a kill in between repeats is the same again
        if state in _ENDS:
            self._client.set_terminated(kept, _ENDS[state])
        elif one.info.status != "RUNNING":
            self._client.update_run(kept, "RUNNING")


def _plain(name: str) -> str:
    """A name that MLflow takes.

    >>> _plain("PGD-50 (Linf, eps = 0.1)")
    'PGD-50 _Linf_ eps _ 0.1_'
    """
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)


def mirrored(place: Place, cell: Cell, tracker: Tracker) -> None:
    """Bring what a tracker has of one cell up to date; nothing for a cell that has no round yet and has not failed.

    Raises:
        RobalError: for a folder that cannot be read, or a tracker that cannot be reached.
    """
    standing = place.standing(cell)
    rounds = read(place.folder(cell), cell.name, strips=False).rounds if standing.rounds else ()
    state: State = "begun"
    if standing.status == "finished" or standing.status == "failed":
        state = standing.status
    if not rounds and state != "failed":
        return
    settings = dict(cell.labels) | settings_of(cell.plan)
    try:
        tracker.mirror(str(place.path), cell.name, settings, [figures_of(row) for row in rounds], state)
    except RobalError:
        raise
    except Exception as error:  # whatever a tracker's store or network may raise
        raise RunFolderError(f"{type(tracker).__name__} took nothing of {cell.name}: {error}") from error


def figures_of(row: Round) -> dict[str, float]:
    """What a tracker is told of a round."""
    found = {"labels": float(row.bought), "seconds": row.seconds}
    if row.accuracy is not None:
        found["accuracy"] = row.accuracy.value
    if row.gradient_evaluations is not None:
        found["gradient evaluations"] = float(row.gradient_evaluations)
    return found | {f"under {attack}": rate.value for attack, rate in row.robust.items()}


def settings_of(plan: Plan) -> dict[str, str]:
    """A plan's settings as text, by dotted key."""
    return {key: str(value) for key, value in flat(encode(plan)).items()}
