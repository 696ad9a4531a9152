"""The run of `robal label --demo`: digits, a person as oracle, five minutes."""

from __future__ import annotations

from pathlib import Path

from robal.folder import RunFolder
from robal.plans import read_plan
from robal.records import check_same_run, write_records

SETTINGS = (
    "dataset=digits",
    "oracle=Page",
    "start.labels=40",
    "per_round=20",
    "rounds=2",
    "evaluation.images=100",
    "evaluation.at_end=[Monitor]",
)


def begin_demo(folder: Path) -> Path:
    """Write the demo's plan into a folder, unless it is there; `folder`.

    Raises:
        RunFolderError: for a folder that holds another run.
    """
    plan = read_plan(None, SETTINGS).located()
    data = plan.data.load()
    with RunFolder(folder).locked() as place:
        check_same_run(place, plan, data)
        write_records(place, plan, data)
    return folder
