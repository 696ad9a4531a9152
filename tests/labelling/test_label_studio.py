"""Label Studio, started for real: tasks go there, annotations come back, and nothing is lost in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from robal.errors import AwaitingLabels, InputError, LabelStudioError
from robal.folder import RunFolder
from robal.loop import run
from robal.oracles import LabelStudio
from robal.pool import NONE_OF_THESE, SKIPPED
from tiny_runs import tiny_plan

TOKEN = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = Path(__file__).parents[2] / ".label-studio" / "bin" / "label-studio"
ASKS = ("start.labels=50", "rounds=1", "per_round=4")


class Studio:
    """A Label Studio of its own, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = [str(PROGRAM), "start", "--no-browser", "--port", str(self.port), "--data-dir", str(self.folder)]
        words += ["--username", "ada@example.org", "--password", "a-long-secret", "--user-token", TOKEN]
        words += ["--enable-legacy-api-token"]
        environment = {**os.environ, "COLLECT_ANALYTICS": "false", "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder)}
        self.log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(
            words, stdout=self.log, stderr=self.log, env=environment, start_new_session=True
        )
        for _ in range(600):  # its first start takes two minutes on a busy machine
            try:
                self.ask("/api/projects")
                return
            except OSError:
                time.sleep(0.5)
        self.stop()
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers, method=method)) as answer:
            found = answer.read()
            return json.loads(found) if found else None

    def tasks(self, project: int) -> dict[int, dict[str, Any]]:
        """By image, the tasks of a project; each image once."""
        listed = self.ask(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
        found = {int(task["file_upload"].rpartition("-")[2].removesuffix(".png")): task for task in listed}
        assert len(found) == len(listed)
        return found

    def annotate(self, task: dict[str, Any], choice: str | None) -> dict[str, Any]:
        result = [{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}]
        body = {"result": [], "was_cancelled": True} if choice is None else {"result": result}
        return dict(self.ask(f"/api/tasks/{task['id']}/annotations/", body))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    if not PROGRAM.exists():
        pytest.skip(f"Label Studio is not installed at {PROGRAM}: `make label-studio`")
    found = Studio(tmp_path_factory.mktemp("label-studio"))
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)


def goes_on(folder: Path, studio: Studio, *settings: str) -> Callable[[], Any]:
    plan = tiny_plan(*ASKS, f"oracle={{name: LabelStudio, url: '{studio.url}'}}", *settings)
    data = plan.data.load()
    return lambda: run(plan, data, folder)


@pytest.mark.slow
def test_fifty_images_there_and_back_through_a_kill_and_a_restart(studio: Studio, tmp_path: Path) -> None:
    folder = tmp_path / "fifty"
    again = goes_on(folder, studio)
    with pytest.raises(AwaitingLabels, match="50 of 50 images wait for an annotation: http"):
        again()
    question = RunFolder(folder).question(0)
    assert question is not None
    images = question[0].tolist()
    project = json.loads((folder / "label-studio.json").read_text())["project"]
    tasks = studio.tasks(project)
    assert sorted(tasks) == sorted(images)
    truth = tiny_plan().data.load().hidden
    assert truth is not None
    said = {image: str(int(truth[image])) for image in images}
    for image in images[:20]:
        studio.annotate(tasks[image], said[image])
    waiting = [sys.executable, "-m", "robal.labelling.training", str(folder)]
    with subprocess.Popen(waiting, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as robal:
        time.sleep(6)  # somewhere in the middle
        robal.kill()
    for image in images[20:40]:
        studio.annotate(tasks[image], said[image])
    studio.stop()
    with pytest.raises(LabelStudioError, match="does not answer"):
        again()
    studio.start()
    with pytest.raises(AwaitingLabels, match="10 of 50 images wait"):
        again()
    studio.annotate(tasks[images[40]], None)
    studio.annotate(tasks[images[41]], "none of these")
    for image in images[42:]:
        studio.annotate(tasks[image], said[image])
    with pytest.raises(AwaitingLabels, match="4 of 4"):
        again()
    answers = RunFolder(folder).answers(0, question[0])
    assert answers is not None
    wanted = [int(said[image]) for image in images]
    wanted[40:42] = [SKIPPED, NONE_OF_THESE]
    assert answers.tolist() == wanted
    assert len(studio.tasks(project)) == 54  # no image was sent twice
    kept = RunFolder(folder).judgements.all()
    assert len(kept) == 50
    assert {one.who for one in kept} == {"ada@example.org"}


@pytest.mark.slow
def test_killed_while_images_are_sent(studio: Studio, tmp_path: Path) -> None:
    """Every image has a task afterwards; where one has two, it is settled by either."""
    folder = tmp_path / "killed"
    again = goes_on(folder, studio, "start.labels=400")
    with begins(again):  # makes the project, and is killed while it sends the first images
        wait_for(lambda: (folder / "label-studio.json").exists())
    project = json.loads((folder / "label-studio.json").read_text())["project"]
    counts = [studio.ask(f"/api/projects/{project}")["task_number"]]
    for _ in range(3):
        before = counts[-1]
        with begins(again):
            wait_for(lambda before=before: studio.ask(f"/api/projects/{project}")["task_number"] > before)
        counts.append(studio.ask(f"/api/projects/{project}")["task_number"])
    assert counts[1] < 400  # it was killed in the middle
    with pytest.raises(AwaitingLabels, match="400 of 400"):
        again()
    listed = studio.ask(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
    question = RunFolder(folder).question(0)
    assert question is not None
    by_image: dict[int, dict[str, Any]] = {}
    for task in listed:
        by_image[int(task["file_upload"].rpartition("-")[2].removesuffix(".png"))] = task
    assert sorted(by_image) == sorted(question[0].tolist())
    for image in question[0].tolist()[:5]:
        studio.annotate(by_image[image], "3")
    with pytest.raises(AwaitingLabels, match="395 of 400"):
        again()


@contextmanager
def begins(again: Callable[[], Any]) -> Iterator[None]:
    """A process that goes on with the run while the block lasts, and is killed then."""
    process = multiprocessing.get_context("fork").Process(target=again)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def wait_for(come: Callable[[], bool]) -> None:
    for _ in range(1200):
        if come():
            return
        time.sleep(0.05)
    raise AssertionError("nothing came in a minute")


@pytest.mark.slow
def test_a_personal_access_token(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind that new installations have: exchanged for one that lasts minutes."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio.ask("/api/token/", {})["token"])
    with pytest.raises(AwaitingLabels, match="50 of 50"):
        goes_on(tmp_path / "personal", studio)()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a.b.c")
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        goes_on(tmp_path / "other", studio)()


@pytest.mark.slow
def test_a_project_that_people_have_already(studio: Studio, tmp_path: Path) -> None:
    def project(title: str, choices: list[str]) -> int:
        listed = "".join(f'<Choice value="{name}"/>' for name in choices)
        config = (
            f'<View><Image name="photo" value="$url"/><Choices name="kind" toName="photo">{listed}</Choices></View>'
        )
        return int(studio.ask("/api/projects", {"title": title, "label_config": config})["id"])

    lacking, fitting = project("lacking", list("012")), project("fitting", [*"0123456789", "smudge"])
    with pytest.raises(LabelStudioError, match="offers all of"):
        goes_on(tmp_path / "lacking", studio, "oracle.project=lacking")()
    folder = tmp_path / "fitting"
    again = goes_on(folder, studio, f"oracle.project='{fitting}'", "oracle.predictions=true")
    with pytest.raises(AwaitingLabels, match="50 of 50"):
        again()
    assert studio.ask(f"/api/projects/{lacking}")["task_number"] == 0
    tasks = studio.tasks(fitting)
    assert all(task["data"]["url"].startswith("/data/upload") for task in tasks.values())
    assert not any(task["predictions"] for task in tasks.values())  # there is no model before the first round
    images = list(tasks)
    for place, image in enumerate(images):
        chosen = "smudge" if place < 2 else str(place % 10)
        result = [{"from_name": "kind", "to_name": "photo", "type": "choices", "value": {"choices": [chosen]}}]
        said = studio.ask(f"/api/tasks/{tasks[image]['id']}/annotations/", {"result": result})
        if place == 5:  # taken back, and given again
            with pytest.raises(AwaitingLabels, match="44 of 50"):
                again()
            studio.ask(f"/api/annotations/{said['id']}/", method="DELETE")
            with pytest.raises(AwaitingLabels, match="45 of 50"):
                again()
            studio.ask(f"/api/tasks/{tasks[image]['id']}/annotations/", {"result": result})
    with pytest.raises(AwaitingLabels, match="4 of 4"):
        again()
    assert RunFolder(folder).history()[0]["new_classes"] == ["smudge"]
    new = {image: task for image, task in studio.tasks(fitting).items() if image not in tasks}
    assert len(new) == 4
    for task in new.values():
        (guess,) = studio.ask(f"/api/predictions?task={task['id']}")
        assert 0 <= guess["score"] <= 1
        assert guess["result"][0]["value"]["choices"][0] in [*"0123456789", "smudge"]


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"url": "localhost:8080"}, {"answers": 0}, {"every": -1.0}, {"every": float("inf")}):
        with pytest.raises(InputError):
            LabelStudio(**settings)  # type: ignore[arg-type]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        plan = tiny_plan(*ASKS, f"oracle={{name: LabelStudio, url: 'http://127.0.0.1:{free.getsockname()[1]}'}}")
        with pytest.raises(LabelStudioError, match="does not answer"):
            run(plan, plan.data.load(), tmp_path / "run")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    with pytest.raises(InputError, match="export LABEL_STUDIO_API_KEY"):
        run(plan, plan.data.load(), tmp_path / "run")
