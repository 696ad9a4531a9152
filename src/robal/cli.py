"""The command line: one small function a command, and no logic."""

from __future__ import annotations

import io
import json as json_module
import os
import shutil
import sys
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter, validators
from rich.console import Console
from rich.markup import escape

from robal import __version__
from robal.errors import AwaitingLabels, PlanError, RobalError
from robal.machine import keep_freed_memory, processors

if TYPE_CHECKING:  # torch takes seconds to import, and `robal --help` should not
    from robal.data import Data
    from robal.engines import Engine
    from robal.plan import Plan
    from robal.studies import Scheduler


Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where images are looked at.

    Parameters
    ----------
    engine
        In this process, or in several by Ray (pip install 'robal[ray]'); the result is the same. `--engine ray`
    address
        Of a cluster of Ray that runs; else one is started here. `--address auto`
    workers
        How many processes of Ray look at once; else one for each processor but one. `--workers 2`
    gpus
        Of each of these processes, or a share of one. `--gpus 1`
    shards
        A folder where what has been seen of the images is kept, so that a killed command goes on. `--shards seen/`
    """

    engine: Literal["local", "ray"] = "local"
    address: str = ""
    workers: Count | None = None
    gpus: float = 0
    shards: Path | None = None

    def __call__(self) -> Engine:
        """The engine that is meant. Raises PlanError for options that mean nothing together."""
        from robal.engines import Local, OnRay, Sharded

        if self.shards is not None:
            try:
                self.shards.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PlanError([f"--shards {self.shards} is no folder to be written: {error}"]) from None
        if self.engine == "ray":
            return OnRay(self.address, self.workers, str(self.shards or ""), gpus=self.gpus)
        if self.address or self.workers is not None or self.gpus:
            raise PlanError(["--address, --workers and --gpus are for Ray: add --engine ray"])
        return Sharded(str(self.shards)) if self.shards else Local()


RUNS = Group("Runs: choose, label, train, measure", sort_key=1)
MODELS = Group("A model of yours", sort_key=2)
STUDIES = Group("Studies", sort_key=3)
DATA = Group("Data", sort_key=4)
HERE = Group("What is here", sort_key=5)
app = App(
    name="robal",
    help="""Robust active learning: which images to label so that the model stands up to adversarial examples.

    For example:

    - `robal run` (the embedded example, about three minutes)
    - `robal run data.name=photos/ --out runs/photos`
    - `robal report runs/photos`
    """,
    version=__version__,
    help_format="markdown",
    group_commands=Group("Also", sort_key=6),
)
app.register_install_completion_command(help="Let your shell complete robal's commands and options.")
data_app = App(
    name="data",
    group_commands="Commands",
    group=DATA,
    help="""Data sets: what is known, what is here, and how to get it.

    For example:

    - `robal data list`
    - `robal data fetch mnist --data ~/data`
    """,
)
app.command(data_app)
pool_app = App(
    name="pool",
    group_commands="Commands",
    group=DATA,
    help="""Pools on disk: many images in one Parquet file, read as they are needed.

    For example:

    - `robal pool build photos/ photos.parquet --resize 64`
    - `robal pool add january/ photos.parquet`
    """,
)
app.command(pool_app)
labels_app = App(
    name="labels",
    group_commands="Commands",
    group=RUNS,
    help="""The labels of a run out and in: CSV, JSON, folders of images.

    For example:

    - `robal labels export runs/mine labels.csv`
    - `robal labels suspects runs/mine`
    """,
)
app.command(labels_app)


@app.command(name="run", group=RUNS)
def run_command(
    *settings: str,
    preset: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Carry out a plan; without any argument, the embedded example on handwritten digits (about three minutes).

    Called again with the same plan, it goes on where it stopped.

    For example:

    - `robal run`
    - `robal run acquisition=Random seed=1 --out runs/random`
    - `robal run dataset=mnist --data ~/data recipe.pool=null`
    - `robal run --preset dre-mnist --data ~/data acquisition=DRE rounds=8 --out runs/dre`
    - `robal run plan.yaml recipe.epochs=5 acquisition=Margin`
    - `robal run data.name=photos/ oracle=CSVFile` (label by filling in a CSV file; exit code 3 while it waits)

    Parameters
    ----------
    settings
        A plan file (YAML), and settings `key=value` that replace its values; keys as in plan.yaml.
    preset
        A published protocol to start from; `robal presets` lists them.
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    out
        The run folder; else a name made of the plan, under runs/.
    json
        Print one JSON object a round, and nothing else, on standard output.
    """
    from robal import presets
    from robal.plans import default_folder, read_plan, read_yaml
    from robal.records import check_weights

    files = [setting for setting in settings if "=" not in setting]
    if len(files) > 1:
        raise PlanError(
            [f"one plan file at a time, not {len(files)} ({', '.join(files)}); settings look like key=value"]
        )
    overrides = [setting for setting in settings if "=" in setting]
    if data is not None:
        overrides.append(f"data.folder={json_module.dumps(str(data))}")
    base = None if preset is None else read_yaml(presets.text(preset), preset)
    plan = read_plan(files[0] if files else None, overrides, base).located()
    folder = out or default_folder(plan)
    check_weights(folder, plan)
    _carry_out(plan, plan.data.load(), folder, json)


@app.command(name="resume", group=RUNS)
def resume_command(
    folder: Path, *, data: Path | None = None, json: Annotated[bool, Parameter(negative="")] = False
) -> None:
    """Go on with a run, after Ctrl-C, a kill, a crash, a full disk, or when labels have been filled in.

    For example:

    - `robal resume runs/dre`

    Parameters
    ----------
    folder
        The run folder.
    data
        The folder that holds your data sets, where it has moved since.
    json
        Print one JSON object a round, and nothing else, on standard output.
    """
    from robal.records import plan_of

    plan = plan_of(folder, data)
    _carry_out(plan, plan.data.load(), folder, json)


@app.command(name="compare", group=STUDIES)
def compare_command(
    study: Path,
    *,
    out: Path | None = None,
    workers: Count | None = None,
    scheduler: Literal["local", "ray"] = "local",
    address: str = "",
    gpus: float = 0,
    track: str | None = None,
    data: Path | None = None,
    plan: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Carry out a study: the runs of a grid side by side, and one report of all of them.

    Called again, it goes on: finished runs are skipped, failed ones are tried again, and a study may grow.

    For example:

    - `robal compare study.yaml --plan` (what would run, how many labels, about how long)
    - `robal compare study.yaml --workers 2 --out runs/study`
    - `robal compare study.yaml --scheduler ray --address auto` (on a cluster of Ray that runs)
    - `robal compare study.yaml --track sqlite:///mlflow.db`, then `mlflow ui --backend-store-uri sqlite:///mlflow.db`

    A study file names a plan, what is varied in it, and one comparison that is fixed beforehand:

        preset: dre-mnist                       # may be left out
        plan: {rounds: 8}                       # settings over it
        grid: {acquisition: [Random, DRE], seed: 10}
        primary: {axis: acquisition, compare: [DRE, Random], measure: AutoAttack, at: end}

    Parameters
    ----------
    study
        The study file, YAML.
    out
        The study's folder: a run folder for each run, and report/; else runs/ and the file's name.
    workers
        How many runs go side by side, a thread each; else a run for each processor.
    scheduler
        Where: in processes of this machine, or as tasks of Ray (pip install 'robal[ray]').
    address
        Of a cluster of Ray that runs; else one is started here.
    gpus
        That Ray gives to each run, or a share of one, such as 0.25.
    track
        Mirror the runs in MLflow (pip install 'robal[mlflow]'), in the store or at the server of this URI. Finished
        runs are told of too, so a study can be mirrored afterwards.
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    plan
        Say what would run, and run nothing.
    """
    from robal.plans import read_yaml
    from robal.studies import (
        Local,
        OnRay,
        costs_of,
        read_text,
        table_of,
        with_data,
    )

    said = with_data(read_yaml(read_text(study), str(study)), data)
    folder = out or Path("runs") / study.stem
    if plan:
        Console().print(table_of(costs_of(said, folder), workers or processors()))
        return
    if scheduler == "local" and (address or gpus):
        raise PlanError(["--address and --gpus are for Ray: add --scheduler ray"])
    many = OnRay(address, workers, gpus) if scheduler == "ray" else Local(workers or processors())
    raise SystemExit(_study(said, folder, many, track))


@app.command(name="reproduce", group=STUDIES)
def reproduce_command(
    name: str | None = None,
    *settings: str,
    list_all: Annotated[bool, Parameter(name="--list", negative="")] = False,
    stage: str | None = None,
    only: tuple[str, ...] = (),
    seeds: int | None = None,
    rounds: int | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    data: Path | None = None,
    out: Path | None = None,
    workers: Count | None = None,
    plan: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Carry out the study behind a published table, and lay its numbers beside ours.

    For example:

    - `robal reproduce --list`
    - `robal reproduce dre-table5-mnist --quick --data ~/data` (minutes; nothing can be compared)
    - `robal reproduce dre-table5-mnist --only DRE --only Random --seeds 10 --data ~/data --plan`
    - `robal reproduce dre-table5-mnist recipe.objective.attack.steps=10` (says what is changed, compares nothing)
    - `robal reproduce dre-table3 --data ~/data` (all its columns, one study each)
    - `robal reproduce dfal-transfer --quick --data ~/data`

    Parameters
    ----------
    name
        As `--list` says it, or the beginning of several names.
    settings
        Further settings of the plan, key=value.
    list_all
        Say what there is.
    stage
        Of table 5: `third` of the label budget, or the `last`; the figures' default is the last.
    only
        Some of what is compared, as in `--only DRE --only Random`.
    seeds
        How many, from 0 on; 3, or with --quick 1.
    rounds
        Another number of rounds than the stage has.
    quick
        Small and short: does it run here?
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    out
        The study's folder; else runs/ and the name.
    workers
        How many runs go side by side; else one for each processor.
    plan
        Say what would run, and run nothing.
    """
    from robal.datasets import data_folder, present
    from robal.progress import say
    from robal.studies import Local, costs_of, joined, named, reproductions, table_of, with_data

    if list_all or name is None:
        for one in reproductions().values():
            also = f" (also {', '.join(one.also)})" if one.also else ""
            print(f"{one.name:36}{one.title}{also}")
        return
    columns, left_out, studies, codes = named(name), list[str](), list[tuple[dict[str, Any], Path]](), [0]
    for about in columns:  # all of them before any begins
        further, several = list(settings), len(columns) > 1
        is_here = present(about.dataset, data_folder(data)) == "here"
        chosen = [setting for setting in settings if setting.startswith(("data.name=", "dataset=", "data="))]
        is_here = is_here or bool(chosen)
        if about.stand_in and not is_here:
            say(f"{about.name}: {about.dataset} is not there, so {about.stand_in['data.name']} stands in for it")
        if about.stand_in and (not is_here or chosen[-1:] == [f"data.name={about.stand_in['data.name']}"]):
            further = [*(f"{key}={json_module.dumps(value)}" for key, value in about.stand_in.items()), *settings]
        elif several and not is_here:
            left_out.append(f"{about.name} (no {about.dataset}; `robal data list` says more)")
            continue
        elif several and not set(only) <= set(about.labels):
            left_out.append(f"{about.name} (compares {', '.join(about.labels)})")
            continue
        of_stage = stage or about.also.get(name) or next(iter(about.rounds))
        many = seeds if seeds is not None else 1 if quick else 3
        folder = Path("runs") / f"{about.name}-{'quick' if quick else of_stage}"
        if out is not None:
            folder = out / about.name if several else out
        studies.append(
            (joined(folder, with_data(about.study(of_stage, only, many, rounds, quick, further), data)), folder)
        )
    for number, (said, _) in enumerate(studies):
        alike = [
            other["reproduces"] for other, _ in studies[:number] if other == said | {"reproduces": other["reproduces"]}
        ]
        if alike:
            raise PlanError([f"{alike[0]} and {said['reproduces']} would be the same runs; name one of them"])
    for said, folder in studies:
        if plan:
            Console().print(table_of(costs_of(said, folder), workers or processors()))
            print(f"What {said['reproduces']} does otherwise than the paper:")
            print("\n".join(f"- {one}" for one in reproductions()[said["reproduces"]].deviations))
        else:
            codes.append(_study(said, folder, Local(workers or processors())))
    if left_out:
        print(f"robal: left out: {'; '.join(left_out)}", file=sys.stderr)
        codes.append(2)
    raise SystemExit(max(codes))


@app.command(name="label", group=RUNS)
def label_command(
    folder: Path | None = None,
    *,
    watch: Annotated[bool, Parameter(negative="")] = False,
    demo: Annotated[bool, Parameter(negative="")] = False,
    port: int = 8765,
    host: str = "127.0.0.1",
    exposed: Annotated[bool, Parameter(negative="")] = False,
    browser: bool = True,
    data: Path | None = None,
) -> None:
    """Label the images that a run asks about, on a page in the browser, by keyboard, mouse or touch.

    Every answer is on disk before the next image shows; Ctrl-C, a kill or a reload lose nothing.

    For example:

    - `robal label --demo` (handwritten digits: five minutes at the keyboard, training between the questions)
    - `robal run data.name=photos/ oracle=Page data.classes='[cat, dog]' --out runs/mine` stops and asks; then
    - `robal label runs/mine`, and `robal resume runs/mine`; or at once
    - `robal label runs/mine --watch`

    Parameters
    ----------
    folder
        The run folder; its plan says oracle=Page.
    watch
        Train when all images of a question have their label and somebody says so, and ask again until the run is over.
    demo
        A small run on the embedded digits, in runs/label-demo; implies --watch.
    port
        Where the page is; 0: any free one.
    host
        The address to listen at; beyond this machine only with --exposed.
    exposed
        Let others on the network reach the page, unencrypted; the link is then their password.
    browser
        Open the page, where there is a screen.
    data
        The folder that holds your data sets, where it has moved since.
    """
    import webbrowser

    from robal.labelling import Desk, begin_demo, serve

    if demo:
        folder, watch = begin_demo(folder or Path("runs/label-demo")), True
    if folder is None:
        raise PlanError(["name the run folder: robal label runs/mine; or try robal label --demo"])

    def ready(link: str) -> None:
        print(f"Label at {link}\nStop with Ctrl-C: every answer is kept as it is given.", flush=True)
        if browser and sys.stdout.isatty():
            webbrowser.open(link)

    try:
        serve(Desk(folder, data, watch, _user()), port, host, exposed=exposed, ready=ready)
    except KeyboardInterrupt:
        after = f"robal label {folder} --watch" if watch else f"robal resume {folder}"
        print(f"\nStopped; nothing is lost. Go on with: {after}", file=sys.stderr)
        raise SystemExit(130) from None


@labels_app.command(name="export")
def export_command(folder: Path, out: Path, *, data: Path | None = None) -> None:
    """Write a run's labels to a file or a folder.

    For example:

    - `robal labels export runs/mine labels.csv` (a row an image: its file, its label, who gave it, when)
    - `robal labels export runs/mine labels.json` (every judgement, those taken back too)
    - `robal labels export runs/mine sorted/` (class/123.png; images that wait for a label beside the class folders)

    Parameters
    ----------
    folder
        The run folder.
    out
        Where to: a name with .csv or .json, or a new folder.
    data
        The folder that holds your data sets, where it has moved since.
    """
    from robal.labelling import exported

    print(exported(folder, out, data))


@labels_app.command(name="import")
def import_command(folder: Path, source: Path, *, who: str | None = None, data: Path | None = None) -> None:
    """Take the labels that a run waits for from a file or a folder, as if given on its page.

    For example:

    - `robal labels import runs/mine labels.csv --who Ada` (columns index and label; class names, skip or none)
    - `robal labels import runs/mine sorted/` (class/123.png, as exported and then sorted by hand)

    Parameters
    ----------
    folder
        The run folder; its plan says oracle=Page.
    source
        A CSV file, or a folder of class folders.
    who
        Who says so; else the user of this machine.
    data
        The folder that holds your data sets, where it has moved since.
    """
    from robal.labelling import taken_in

    print(taken_in(folder, source, who or _user(), data))


@labels_app.command(name="suspects")
def suspects_command(
    folder: Path, *, out: Path = Path("suspects.csv"), most: Count = 100, folds: Count = 3, data: Path | None = None
) -> None:
    """List the labels of a run that look wrong, worst first, with their pictures; needs cleanlab (robal[noise]).

    For example:

    - `robal labels suspects runs/mine` (then fill in the column label of suspects.csv where a label is wrong)
    - `robal labels correct runs/mine suspects.csv`

    Parameters
    ----------
    folder
        The run folder.
    out
        The list; a picture of the images goes beside it.
    most
        How many, at most.
    folds
        Each label is judged by a model that was trained on the other folds.
    data
        The folder that holds your data sets, where it has moved since.
    """
    from robal.labelling import doubted

    print(doubted(folder, out, most, folds, data))


@labels_app.command(name="correct")
def correct_command(folder: Path, source: Path, *, who: str | None = None, data: Path | None = None) -> None:
    """Correct labels that a run has bought; it trains on the corrections from its next training on.

    For example:

    - `robal labels correct runs/mine suspects.csv --who Ada` (columns index and label; rows without a label are left)

    Parameters
    ----------
    folder
        The run folder.
    source
        A CSV file, as `robal labels suspects` writes it.
    who
        Who says so; else the user of this machine.
    data
        The folder that holds your data sets, where it has moved since.
    """
    from robal.labelling import corrected

    print(corrected(folder, source, who or _user(), data))


@app.command(name="report", group=RUNS)
def report_command(*folders: Path, out: Path | None = None) -> None:
    """Show runs: a table here, and a page with learning curves and the queried images.

    For example:

    - `robal report runs/dre`
    - `robal report runs/dre runs/random --out comparison/`
    - `robal report runs/study` (the folder of a study, see `robal compare`)

    Parameters
    ----------
    folders
        Run folders; several are laid over each other. Or the folder of one study.
    out
        Where the page goes; else report/ in the first run folder.
    """
    from robal.report import report, table
    from robal.studies import is_study, study_report

    if not folders:
        raise PlanError(["name at least one run folder: robal report runs/dre"])
    if len(folders) == 1 and is_study(folders[0]):
        print(f"Report: {study_report(folders[0], out)}")
        return
    page = report(folders, out)
    console = Console()
    console.print(table(folders))
    console.print(f"Report: {page}", soft_wrap=True, markup=False)


@app.command(name="forecast", group=RUNS)
def forecast_command(
    folder: Path,
    *,
    labels: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None,
    probability: float = 0.9,
    price: float | None = None,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """What would further labels bring? The learning curves of a run, carried on with a band, and the cost.

    It takes three measured rounds, and believes what it sees: the more rounds, the narrower the band. A plan stops by
    itself where more labels would hardly help: `stop.gain=0.5` (points for 100 labels).

    For example:

    - `robal forecast runs/mine`
    - `robal forecast runs/mine --labels 500 2000 --price 0.08`

    Parameters
    ----------
    folder
        The run folder, finished or not.
    labels
        How many further labels; else those of the next round, and as many again as were bought.
    probability
        That what the run would measure lies in the band.
    price
        Of one label, in your currency.
    out
        Where the picture goes; else report/figures/forecast.png in the run folder.
    json
        Print one JSON object, and nothing else, on standard output.
    """
    from robal.report.forecast import as_table, forecast, picture, sentences

    found = forecast(folder, labels or (), probability, price)
    drawn = picture(found, out or folder / "report" / "figures" / "forecast.png")
    if json:
        print(json_module.dumps(found.as_json()))
        return
    console = Console()
    console.print(as_table(found))
    console.print("\n".join(sentences(found)), highlight=False, markup=False)
    console.print(f"Picture: {drawn}", soft_wrap=True, markup=False)


@app.command(name="export", group=RUNS)
def export_model_command(
    run: Path,
    *,
    onnx: Path,
    data: Path | None = None,
    int8: Annotated[bool, Parameter(negative="")] = False,
    images: int = 500,
    queries: int = 500,
) -> None:
    """Write a run's last model as an ONNX file that takes images as they are, and a card that says what it is worth.

    Needs `pip install 'robal[onnx]'`. The file's answers are compared with the model's before anything is written. The
    card (.card.json, .card.md, and inside the file) has data, labels bought, threat, figures with their intervals, and
    what nobody has tried.

    For example:

    - `robal export runs/mine --onnx mine.onnx`
    - `robal export runs/mine --onnx mine.onnx --int8` (also mine.int8.onnx, measured again)

    Parameters
    ----------
    run
        The run folder.
    onnx
        The file to write.
    data
        The folder that holds your data sets, where it has moved since.
    int8
        Also quantise to 8 bits, and measure both files: clean, and under the black-box attack Square.
    images
        On how many images the two are measured, at most.
    queries
        Of Square, for each image.
    """
    from robal.export import export
    from robal.progress import display

    with display():
        found = export(run, onnx, data=data, int8=int8, images=images, queries=queries)
    print(f"The logits of {found.images} images differ by {found.differs:.1g} at most.")
    for one in found.card["figures"]:
        if "ONNX" in one["what"]:
            interval = f"({one['low']:.1%} to {one['high']:.1%})"
            print(f"{one['what']}: {one['rate']:.1%} {interval} of {one['images']} {one['of']}")
    print("Written: " + ", ".join(str(path) for path in found.files))


@app.command(name="select", group=MODELS)
def select_command(
    *,
    model: str,
    images: str,
    n: int,
    weights: Path | None = None,
    acquisition: str = "DRE",
    out: Path = Path("query.csv"),
    classes: str | None = None,
    labelled: tuple[Path, ...] = (),
    resize: Count | None = None,
    threat: str | None = None,
    teacher: Path | None = None,
    seed: int = 0,
    data: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    where: Where = Where(),
) -> None:
    """Choose images to label with a model of yours; no run, no training.

    Writes a CSV file with the chosen images in order, and beside it a picture of them. Images without a label are the
    candidates; where all images of a data set carry one, all are.

    For example:

    - `robal select --model my_networks:build --weights w.safetensors --images photos/ --n 200`
    - `robal select --model LeNet5 --weights w.safetensors --images pool.npz --acquisition BADGE --n 100 --classes 10`
    - `robal select --model LeNet5 --weights runs/dre/rounds/006/model.safetensors --images digits --n 20`
    - `robal select … --acquisition '{name: DRE, bins: 30}' --labelled labels.csv --out next.csv`
    - `robal select … --images pool.parquet --engine ray --workers 8 --shards seen/`

    Parameters
    ----------
    model
        The function that builds your network (`module:function`, looked for in the current folder too), or one of
        robal's networks. It takes float images in [0, 1] and returns logits.
    images
        A folder of images, a .parquet file that `robal pool build` made, an .npz file (`images`, optional `labels`, -1
        where unknown), or a known data set.
    n
        How many images to choose.
    weights
        A safetensors file of the network's tensors, or a run's model.safetensors.
    acquisition
        The acquisition function: a name, or YAML with its settings.
    out
        The CSV file to write.
    classes
        How many classes, or their names (`cat,dog`), where the images do not say.
    labelled
        A CSV file with columns index and label (such as an earlier query.csv, filled in): images that are labelled
        already. May be given several times.
    resize
        Height and width in pixels to resize the images to.
    threat
        What the adversary may do, for methods that attack: `linf:8/255`, `l2:0.5`.
    teacher
        Weights of a standard model of the same network, for methods that need one beside the robust one:
        EntropyMix, OfTeacher, Disagreement.
    seed
        Equal seeds give equal choices.
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    device
        Where the model runs.
    """
    from robal.progress import display
    from robal.selection import select_from_files

    with display():
        chosen = select_from_files(
            model,
            images,
            n,
            out,
            weights=weights,
            acquisition=acquisition,
            classes=classes,
            labelled=labelled,
            resize=resize,
            threat=threat,
            teacher=teacher,
            seed=seed,
            folder=data,
            device=device,
            engine=where(),
        )
    sheet = chosen.save(out)
    if weights is None and ":" not in model:
        print(f"{model} without --weights knows nothing yet: this is a choice by chance", file=sys.stderr)
    print(f"{n} of {chosen.candidates} images chosen by {chosen.by}: {out}, and to look at: {sheet}")


@app.command(name="rank", group=MODELS)
def rank_command(
    *,
    model: str,
    images: str,
    weights: Path | None = None,
    by: str = "DeepGini",
    first: Count | None = None,
    train: str | None = None,
    out: Path = Path("order.csv"),
    classes: str | None = None,
    labelled: tuple[Path, ...] = (),
    resize: Count | None = None,
    threat: str | None = None,
    seed: int = 0,
    data: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    where: Where = Where(),
) -> None:
    """Order images so that a tester who looks at them in turn finds a model's faults early; no training.

    Writes a CSV file of all images in order, and beside it a picture of the first ones. Where labels are known, the
    faults are marked; where all are, APFD is printed (beside the best there is; a random order has 0.5), and a second
    picture shows faults found against images looked at. Labels that you fill in are read by `--labelled`.

    For example:

    - `robal rank --model my_networks:build --weights w.safetensors --images tests/ --out order.csv`
    - `robal rank --model LeNet5 --weights w.safetensors --images mnist --data ~/data`
    - `robal rank --model LeNet5 --weights w.safetensors --images new/ --train mnist --by DistanceSurprise`
    - `robal rank … --by KMST --first 100` (methods that choose all at once are asked for so many)
    - `robal rank … --labelled order.csv --out faults.csv` (with the labels that you filled in)
    - `robal rank --model LeNet5 --weights w.safetensors --images new.npz --by FirstOrderLoss --threat linf:0.3`

    Parameters
    ----------
    model
        The function that builds your network (`module:function`), or one of robal's networks. `--model LeNet5`
    images
        What to order: a known data set (its test split), a folder of images, a .parquet file that `robal pool build`
        made, or an .npz file. `--images tests/`
    weights
        A safetensors file of the network's tensors, or a run's model.safetensors. `--weights w.safetensors`
    by
        What orders them: any acquisition function, by name or as YAML. `--by Margin`
    first
        Only so many, the first ones. `--first 100`
    train
        What the model was trained on, for surprise and core-set; a known data set, a folder or an .npz file.
        `--train mnist`
    out
        The CSV file to write. `--out order.csv`
    classes
        How many classes, or their names in the order of the model's outputs, where the images do not say (folders are
        taken in natural order: 2 before 10). `--classes 10`, `--classes cat,dog`
    labelled
        A CSV file with columns index and label, for images that carry no label of their own. May be given several
        times. `--labelled labels.csv`
    resize
        Height and width in pixels to resize the images to. `--resize 32`
    threat
        What the adversary may do, for methods that attack. `--threat linf:8/255`
    seed
        Equal seeds give equal orders. `--seed 1`
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data. `--data ~/data`
    device
        Where the model runs. `--device cuda`
    """
    from robal.progress import display
    from robal.retraining import rank_from_files

    with display():
        ranking = rank_from_files(
            model,
            images,
            out,
            weights=weights,
            by=by,
            first=first,
            train=train,
            classes=classes,
            labelled=labelled,
            resize=resize,
            threat=threat,
            seed=seed,
            folder=data,
            device=device,
            engine=where(),
        )
    sheet, curve = ranking.save(out)
    if weights is None and ":" not in model:
        print(f"{model} without --weights knows nothing yet: this order says little", file=sys.stderr)
    joint = ""
    if ranking.is_joint:
        joint = "; a choice of all at once, whose order says little" + (
            ": try --first 100" if len(ranking.indices) > 100 else ""
        )
    print(f"{len(ranking.indices):,} images ordered by {ranking.by}{joint}: {out}, and to look at: {sheet}")
    found = ranking.figures
    if found and found["apfd"] is not None:
        early = f", {found['first_100']} of them in the first 100" if len(ranking.faults) > 100 else ""
        print(
            f"{found['faults']:,} faults in {found['images']:,} labelled images{early}; "
            f"APFD {found['apfd']:.3f} (random order 0.5, best {found['best']:.3f}): {curve}"
        )
    elif found and found["faults"]:
        unlabelled = len(ranking.indices) - len(ranking.faults)
        lacks = f"and {unlabelled:,} have no label" if ranking.is_whole else "without --first"
        print(f"{found['faults']:,} faults in {found['images']:,} labelled images; APFD is of all images, {lacks}")
    elif found:
        print(f"no fault in {found['images']:,} labelled images")
    unknown = ranking.indices[ranking.labels < 0].tolist()
    if refused := sum(ranking.given.get(index, 0) < 0 for index in unknown):
        print(f"left out of these figures: {refused:,} that --labelled says skip or none of")


@app.command(name="retrain", group=MODELS)
def retrain_command(
    *settings: str,
    model: str,
    train: str,
    images: str,
    weights: Path | None = None,
    budget: str = "1%",
    acquisition: str | None = None,
    attack: str | None = None,
    threat: str | None = None,
    test: str | None = None,
    classes: str | None = None,
    preset: str = "retrain",
    resize: Count | None = None,
    data: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make a model that you have robust: label a few new images, craft adversarial examples of them, train on.

    The model is measured before and after, on images that cannot be chosen: a random half of the new ones where all
    their labels are held, else the test images of what it was trained on, or what --test names. A run folder like any
    other: killed, `robal resume` goes on; `robal report` shows it. Where labels are missing, it stops with a CSV file
    to fill in (oracle=Page for a page in the browser).

    For example:

    - `robal retrain --model LeNet5 --weights w.safetensors --train mnist --images new/ --threat linf:0.3 --budget 1%`
    - `robal retrain --model my_networks:build --weights w.safetensors --train photos/ --images new/`
    - `robal retrain … --acquisition KMST recipe.epochs=10 --out runs/retrained`
    - `robal retrain … oracle=Page --out runs/mine`, then `robal label runs/mine`, and `robal resume runs/mine`

    Parameters
    ----------
    settings
        Further settings of the plan, key=value; `robal presets retrain` shows all. `recipe.epochs=10`
    model
        The function that builds your network (`module:function`), or one of robal's networks. `--model LeNet5`
    train
        What the model was trained on, with labels: a known data set, a folder of images by class, an .npz file, or a
        .parquet file. `--train mnist`
    images
        The new images: named as --train is, with labels or without; the same name means its test split.
        `--images new/`
    weights
        The model: a safetensors file of the network's tensors, or a run's model.safetensors; without it one is trained
        first, on what --train names. `--weights w.safetensors`
    budget
        How many images to label in all, or which share of the new ones. `--budget 200`, `--budget 1%`
    acquisition
        Which ones: any acquisition function, by name or as YAML; else the preset's, DRE. `--acquisition KMST`
    attack
        Crafts adversarial examples of the chosen images; else the preset's, PGD. `--attack '{name: PGD, steps: 40}'`
    threat
        What the adversary may do; else the preset's, linf:0.2. `--threat linf:8/255`
    test
        Labelled images to measure on: a known data set, a folder by class, or an .npz file. `--test tests/`
    classes
        The names of the classes in the order of the model's outputs, where --train is a folder or an .npz file; else
        the folders in natural order, 2 before 10. `--classes cat,dog`
    preset
        Where the other settings come from; dre-retrain-mnist and its like are the paper's. `--preset retrain`
    resize
        Height and width in pixels to resize all images to. `--resize 32`
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data. `--data ~/data`
    out
        The run folder; else a name made of the plan, under runs/. `--out runs/retrained`
    seed
        Names all random streams. `--seed 1`
    json
        Print one JSON object a round, and nothing else, on standard output. `--json`
    """
    from robal.plans import default_folder
    from robal.records import check_weights
    from robal.retraining import retraining_plan

    if weights is None:
        print("without --weights a model is trained first, on what --train names", file=sys.stderr)
    plan, found = retraining_plan(
        model,
        train,
        images,
        weights=weights,
        budget=budget,
        acquisition=acquisition,
        attack=attack,
        threat=threat,
        test=test,
        classes=classes,
        resize=resize,
        folder=data,
        seed=seed,
        preset=preset,
        settings=settings,
    )
    if threat is None and not any(setting.startswith(("threat=", "threat.")) for setting in settings):
        print(f"no --threat: {plan.threat}, of intensities in [0, 1], is the preset's", file=sys.stderr)
    folder = out or default_folder(plan)
    check_weights(folder, plan)
    _carry_out(plan, found, folder, json)


@app.command(name="evaluate", group=MODELS)
def evaluate_command(
    *,
    run: Path | None = None,
    model: str | None = None,
    weights: Path | None = None,
    data: str | None = None,
    threat: str | None = None,
    attacks: str = "autoattack",
    also: str | None = None,
    outside: str | None = None,
    images: int = 1000,
    classes: str | None = None,
    resize: Count | None = None,
    out: Path | None = None,
    folder: Path | None = None,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    checks: bool = True,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure how robust a model is: a run's last one, or any model of yours.

    Prints a table, and writes evaluation.json and a page, index.html. Killed, it goes on when called again; an attack
    that is finished costs nothing.

    For example:

    - `robal evaluate --run runs/dre --images 500`
    - `robal evaluate --model my_networks:build --weights w.safetensors --data photos/ --threat linf:8/255`
    - `robal evaluate --model LeNet5 --weights w.safetensors --data mnist --threat linf:0.3 --attacks pgd,monitor`
    - `robal evaluate --run runs/dre --attacks '{name: PGD, steps: 50, restarts: 20}, {name: Square, queries: 20000}'`
    - `robal evaluate --run runs/dre --attacks headline --also l2:2,linf:0.1 --outside fashion-mnist --out figures/`

    Parameters
    ----------
    run
        A run folder: its last model, its test images, its threat. `--run runs/dre`
    model
        The function that builds your network (`module:function`), or one of robal's networks. `--model LeNet5`
    weights
        A safetensors file of the network's tensors, or a run's model.safetensors. `--weights w.safetensors`
    data
        What to evaluate on: a known data set, a folder of images by class, an .npz file, or a .parquet file; its test
        split where it has one. `--data mnist`
    threat
        What the adversary may do: `--threat linf:8/255`, `--threat l2:0.5`, `--threat l1:10`; else the run's.
    attacks
        Names, separated by commas, or YAML with settings; `headline` is AutoAttack, PGD with 50 steps and 20 restarts,
        and Square with 20,000 queries. AutoAttack alone supports a claim. `--attacks pgd,monitor`
    also
        Other threats, which the model was perhaps not trained for: each is attacked by Monitor without Square, or by
        PGD with 50 steps and 5 restarts where that knows it not. `--also l2:2,linf:0.1`
    outside
        Images of something else, of the same shape (named as for `--data`): how well low confidence
        tells them from the test images. `--outside fashion-mnist`
    images
        How many images, the first ones; a claim needs at least 1,000. `--images 5000`
    classes
        How many classes, or their names, where the images do not say. `--classes 10`, `--classes cat,dog`
    resize
        Height and width in pixels to resize the images to. `--resize 32`
    out
        The folder to write to; else evaluation/ in the run's last round, or here. `--out figures/`
    folder
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data. `--folder ~/data`
    seed
        Names the attacks' random streams. `--seed 1`
    device
        Where the model runs. `--device cuda`
    checks
        Look for masked gradients, and measure common corruptions; `--no-checks` leaves them out.
    json
        Print the outcome as one JSON object, and nothing else, on standard output. `--json`
    """
    from robal.assessment import evaluate_files
    from robal.progress import display, quiet
    from robal.report import evaluation_page, evaluation_table

    try:
        with quiet() if json else display():
            outcome, place = evaluate_files(
                run=run,
                model=model,
                weights=weights,
                data=data,
                threat=threat,
                attacks=attacks,
                also=also,
                outside=outside,
                images=images,
                classes=classes,
                resize=resize,
                out=out,
                folder=folder,
                seed=seed,
                device=device,
                checks=checks,
            )
    except KeyboardInterrupt:
        print("\nStopped; nothing is lost. The same command goes on where it was.", file=sys.stderr)
        raise SystemExit(130) from None
    page = evaluation_page(place)
    if json:
        print(json_module.dumps(outcome))
        return
    console = Console()
    console.print(evaluation_table(outcome))
    console.print(f"Evaluation: {page}", soft_wrap=True, markup=False)


@app.command(name="presets", group=HERE)
def presets_command(name: str | None = None) -> None:
    """List the published protocols, or print one as YAML.

    For example:

    - `robal presets`
    - `robal presets dre-mnist > plan.yaml`
    - `robal presets default > plan.yaml` (the plan of `robal run`, with every setting there is)

    Parameters
    ----------
    name
        The preset to print, or `default`.
    """
    from robal import presets

    if name == "default":
        from robal.plan import Plan
        from robal.plans import to_yaml

        print(to_yaml(Plan()), end="")
        return
    if name is not None:
        print(presets.text(name), end="")
        return
    for known in presets.names():
        print(f"{known:26} {presets.summary(known)}")


@app.command(name="methods", group=HERE)
def methods_command(name: str | None = None) -> None:
    """List what a plan may name: acquisition functions, objectives, attacks, networks and more; or explain one of them.

    For example:

    - `robal methods`
    - `robal methods acquisition`
    - `robal methods DRE` (what it does, its settings, what to write in a plan, its source)
    - `robal methods recipe.pool` (a part of the plan)

    Parameters
    ----------
    name
        A method; a setting of the plan that names one; or a part of the plan.
    """
    from robal.methods import PARTS, PLACES, described, listed

    if name is not None and name not in PLACES:
        print(described(name), end="")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for place, found in listed(name).items():
        print(f"{place}=")
        for one, says in sorted(found.items(), key=lambda pair: pair[0].lower()):
            print(textwrap.fill(f"  {one:21} {says}", width, subsequent_indent=24 * " "))
    if name is None:
        print(f"Parts of a plan: {', '.join(PARTS)}")


@app.command(name="doctor", group=HERE)
def doctor_command(*, data: Path | None = None, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Look whether robal can work here: versions, devices, data sets, extras, and a small run from choice to report.

    Nothing is changed. Exit code 1 if something that is needed is missing or wrong.

    For example:

    - `robal doctor`
    - `robal doctor --data ~/data`
    - `robal doctor --json > doctor.json` (to put into a report of a defect)

    Parameters
    ----------
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    json
        Print one JSON object for each thing looked at, and nothing else, on standard output.
    """
    from dataclasses import asdict

    from robal.doctor import examine

    marks = {"good": "[green]✓[/green]", "absent": "[yellow]–[/yellow]", "bad": "[red]✗[/red]"}
    console, about, bad = Console(quiet=json, highlight=False), "", 0
    for found in examine(data):
        if json:
            print(json_module.dumps(asdict(found)), flush=True)
        if found.about != about:
            console.print(f"[bold]{escape(found.about)}[/bold]", soft_wrap=True)
        about = found.about
        advice = f"  [dim]{escape(found.advice)}[/dim]" if found.advice and found.state != "good" else ""
        console.print(f"  {marks[found.state]} {found.what:16} {escape(found.said)}{advice}", soft_wrap=True)
        bad += found.state == "bad"
    if bad:
        console.print(f"[red]{bad} of these must be mended.[/red]")
        raise SystemExit(1)
    console.print("robal works here.")


@pool_app.command(name="build")
def build_command(
    source: str,
    out: Path,
    *,
    resize: Count | None = None,
    keep_files: Annotated[bool, Parameter(negative="")] = False,
    classes: str | None = None,
    near_duplicates: bool | None = None,
    data: Path | None = None,
) -> None:
    """Put many images into one Parquet file, whose pool a run reads from disk as it is needed.

    Each image has a stable id; broken files are left out and listed.

    For example:

    - `robal pool build photos/ photos.parquet --resize 64`
    - `robal pool build photos/ photos.parquet --resize 224 --keep-files` (the files' bytes: smaller, decoded when read)
    - `robal pool build hf:ylecun/mnist mnist.parquet` (a data set of Hugging Face; pip install 'robal[huggingface]')
    - `robal run data.name=photos.parquet --out runs/photos`

    Parameters
    ----------
    source
        A folder of images, an .npz file, a known data set, or hf: and the name of a data set of Hugging Face or the
        folder where `save_to_disk` put one.
    out
        The file to write, with .parquet at its end.
    resize
        Height and width in pixels to resize the images to.
    keep_files
        Keep the bytes of a folder's files instead of their pixels.
    classes
        The names of the classes in the order of their labels, separated by commas; else the folders' names.
    near_duplicates
        Look for images that show nearly the same, so that a run has none of a group in its pool and another in its
        test; by default where the source is a folder.
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    """
    from robal.pool_files import build_pool
    from robal.progress import display

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    with display():
        build_pool(source, out, folder=data, resize=resize, keep_files=keep_files, classes=names, group=near_duplicates)
    info_command(out)


@pool_app.command(name="add")
def add_command(
    source: str,
    pool: Path,
    *,
    out: Path | None = None,
    classes: str | None = None,
    near_duplicates: bool | None = None,
    data: Path | None = None,
) -> None:
    """Let a pool grow: a new version, in which further images follow those that are there, whose ids stay.

    Images that are there already are not added again. It says how far the new images have drifted from the first ones.
    The version before is still to be had, as `pool.parquet@1`.

    For example:

    - `robal pool add january/ photos.parquet`
    - `robal pool add january/ photos.parquet --out grown.parquet`
    - `robal run data.name=photos.parquet@1 --out runs/as-it-was`

    Parameters
    ----------
    source
        What `robal pool build` takes.
    pool
        The file that grows. It is replaced as a whole when all is read.
    out
        Another file to write, and leave this one as it is.
    classes
        The names of the classes that the source's labels stand for, separated by commas; else the names of a folder's
        sub-folders, or those in the pool.
    near_duplicates
        Look for images that show nearly the same, among all that are there; by default where `build` did.
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    """
    from robal.pool_files import add_to_pool
    from robal.progress import display

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    with display():
        add_to_pool(source, pool, out, folder=data, classes=names, group=near_duplicates)
    info_command(out or pool)


@pool_app.command(name="info")
def info_command(file: Path) -> None:
    """Say what is in a Parquet pool: images, labels, classes, versions and their drift, and which files were broken.

    For example:

    - `robal pool info photos.parquet`

    Parameters
    ----------
    file
        The file that `robal pool build` made.
    """
    from robal.parquet import read_manifest, version_of

    path, version = version_of(file)
    said = read_manifest(path)
    if version is not None and not 1 <= version <= len(said.versions):
        raise PlanError([f"{path} has versions 1 to {len(said.versions)}; {version} was asked for"])
    channels, height, width = said.shape
    shown = said.versions[: version or len(said.versions)]
    pool, tests = (sum(one.images[split] for one in shown) for split in ("pool", "test"))
    labelled = f" ({said.labelled:,} labelled)" if len(shown) == len(said.versions) else ""
    print(f"{file}: {pool:,} images in the pool{labelled}, {tests:,} test images")
    print(f"{height} x {width} pixels, {channels} channels, {said.encoding}; {path.stat().st_size / 2**20:,.1f} MB")
    print(f"classes: {', '.join(shown[-1].classes) or 'none named'}")
    if said.groups is not None:
        print(f"{said.groups:,} groups of near-duplicates, none of which a run has in pool and test")
    for number, one in enumerate(shown, 1):
        known = f", {one.again:,} were there already" if one.again else ""
        known += f" ({one.unheard:,} of them with a label that was not taken over)" if one.unheard else ""
        drift = (
            "" if one.drift is None else f"; told from those of version 1 with AUROC {one.drift:.2f} (0.5: not at all)"
        )
        print(f"version {number}: {sum(one.images.values()):,} images of {one.source}{known}{drift}; {one.fingerprint}")
    for name, why in (pair for one in shown for pair in one.broken):
        print(f"left out: {name}: {why}")


@data_app.command(name="list")
def list_command(*, data: Path | None = None) -> None:
    """What data sets are known, and which are here with the right checksums.

    For example:

    - `robal data list --data ~/data`

    Parameters
    ----------
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    """
    from robal.datasets import catalogue, data_folder, present

    print(f"data sets, looked for in {data_folder(data)}")
    for known in catalogue():
        said, _, why = present(known.name, data).partition(": ")
        fetch = f"robal data fetch {known.request or known.name}{f' --data {data}' if data else ''}"
        state = f"missing: {known.by_hand or fetch}" if said == "missing" else f"{said}: {why}" if why else said
        print(f"{known.name:17} {known.about}\n{'':17} {state}")


@data_app.command(name="fetch")
def fetch_command(name: str, *, data: Path | None = None) -> None:
    """Download a data set, with progress and checksums; what is there and right is left alone.

    For example:

    - `robal data fetch mnist --data ~/data`

    Parameters
    ----------
    name
        As in `robal data list`.
    data
        The folder that holds your data sets; else the environment's ROBAL_DATA, else ./data.
    """
    from robal.datasets import fetch, find_known

    folder = fetch(name, data)
    print(
        f"{name} is in {folder}" if find_known(name).wanted() else f"{name} comes with scikit-learn: nothing to fetch"
    )


def _carry_out(plan: Plan, data: Data, folder: Path, json: bool) -> None:
    from robal.loop import rounds
    from robal.plan_checks import check
    from robal.progress import display, quiet
    from robal.report import report, table

    check(plan, data)  # before a folder is named that will not be there
    console = Console(quiet=json)
    said = (
        f"{data.about}\n{data.classes_in_words}\nThreat: {plan.threat}, of intensities in [0, 1]\nRun folder: {folder}"
    )
    console.print(said, highlight=False, markup=False, soft_wrap=True)
    seen: int | None = None
    came = 0
    try:
        with quiet() if json else display() as bars:
            if bars is not None and sys.stdout.isatty():
                console = bars.console  # a line from elsewhere would tear its bars
            for state in rounds(plan, data, folder):
                for row in state.history[seen:] if seen is not None else ():
                    if json:
                        print(json_module.dumps(row), flush=True)
                    console.print(_line(row), highlight=False, markup=False, soft_wrap=True)
                    came += 1
                seen = len(state.history)
    except KeyboardInterrupt:
        print(f"\nStopped; nothing is lost. Go on with: robal resume {folder}", file=sys.stderr)
        raise SystemExit(130) from None
    except AwaitingLabels as error:
        raise AwaitingLabels(str(error).replace("`robal resume`", f"`robal resume {folder}`")) from None
    if not came:
        console.print("Nothing was left to do.")
    page, console = report([folder]), Console(quiet=json)
    if not json:
        console.print(table([folder]))
        console.print(f"Report: {page}", soft_wrap=True, markup=False)


def _line(row: dict[str, Any]) -> str:
    from robal.report.rates import Rate

    audit = row.get("audit", {})
    shown, where = (audit, " on the audit set") if row["accuracy"] is None and "accuracy" in audit else (row, "")
    counts = shown.get("images", {}) if where else {}

    def said(value: float, name: str) -> str:
        interval = Rate(value, counts.get(name)).range
        return f"{value:.1%}" + (f" ({interval})" if interval else "")

    rates = "" if shown["accuracy"] is None else f"{said(shown['accuracy'], 'clean')} accurate"
    for attack, value in shown["robust_accuracy"].items():
        rates += f", {said(value, attack)} under {attack}"
    done = (
        f"round {row['round']}: {row['labelled']} labels, {rates or 'no test images'}{where} ({row['seconds']:.0f} s)"
    )
    of_classes = (row.get("per_class") or {}).get("accuracy") or []
    if len(of_classes) > 1 and sorted(filter(None, of_classes)) == [1.0]:
        done += (
            "\nThe model gives every image the same class. For photographs try a smaller threat (threat=linf:8/255); "
            "else more labels, or a larger recipe.budget."
        )
    if "stopped" in row:
        done += f"\nStopped: 100 more labels would bring about {row['stopped']['points_for_100_labels']:.2f} points."
    return done


def _study(said: dict[str, Any], folder: Path, scheduler: Scheduler, track: str | None = None) -> int:
    """Carry out a study; its exit code."""
    from robal.studies import MLflow, Place, compare, stop_code, study_report, watch

    tracker = None if track is None else MLflow(track).reached()  # before anything runs

    place = Place.begun(folder, said)
    try:
        counts = watch(place, compare(place, scheduler), tracker=tracker)
    except KeyboardInterrupt:
        again = " ".join(["robal", *sys.argv[1:]])
        print(f"\nStopped; nothing is lost. Go on with: {again}", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"Report: {study_report(folder)}")
    return stop_code(counts)


def _user() -> str:
    """Who sits here, as far as the system knows: in a container nobody may have a name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one sentence each and an exit code of their kind."""
    keep_freed_memory()
    sys.path.insert(0, str(Path.cwd()))  # module:name finds what lies in the current folder
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.reconfigure(errors="replace")  # a terminal that knows ASCII alone shows "?"
    try:
        app(arguments)
    except PlanError as error:
        for mistake in error.mistakes:
            print(f"robal: {mistake}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except RobalError as error:
        print(f"robal: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except OSError as error:
        print(f"robal: {error}", file=sys.stderr)
        raise SystemExit(4) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
