"""What stands beside the numbers in a run folder: the effective plan, the machine and the data."""

from __future__ import annotations

import filecmp
import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robal import __version__
from robal.data import Data
from robal.errors import RunFolderError
from robal.files import whole, write
from robal.folder import RunFolder
from robal.networks import Architecture, load_weights
from robal.plan import Plan, device_of
from robal.plans import decode, encode, flat, read_yaml, to_yaml

WEIGHTS = "start.safetensors"
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pyautoattack")
_ELSEWHERE = (
    "data.folder",
    "data.name",
    "device",
    *(f"engine.{key}" for key in ("name", "address", "workers", "folder", "shard", "threads", "gpus")),
)  # may differ from one machine to the next; the data has a fingerprint


@dataclass(frozen=True)
class Begun:
    """A network whose weights are always those of a file, but for a head of other classes, which is fresh.

    Args:
        network: what builds it.
        path: of the safetensors file.
    """

    network: Architecture
    path: str

    def __call__(self, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
        model = self.network(shape, classes, seed)
        load_weights(model, Path(self.path), head_may_differ=True)
        return model


def begun_from(plan: Plan, place: RunFolder) -> Plan:
    """The plan of a run whose networks all begin from the weights that it was given, where it buys first labels."""
    if not (plan.start.weights and plan.start.labels):
        return plan
    return replace(plan, network=Begun(plan.network, str(place.path / WEIGHTS)))


def write_records(place: RunFolder, plan: Plan, data: Data) -> None:
    """Write a copy of the weights that the plan starts from, plan.yaml and environment.json, once.

    A run killed before the last can be resumed where the plan is there; where it is not, there is no run yet.

    Raises:
        DataError, InputError: for weights that are not there, or of another network.
    """
    if not (place.path / "plan.yaml").exists():
        if plan.start.weights:
            model = plan.network(data.images.shape, len(data.classes), plan.seed)
            fresh_head = plan.start.labels > 0
            load_weights(model, Path(plan.start.weights), head_may_differ=fresh_head)  # before anything is written
            with whole(place.path / WEIGHTS) as temporary:
                shutil.copyfile(plan.start.weights, temporary)
        write(place.path / "plan.yaml", f"# robal {__version__}\n{to_yaml(plan)}")
    if not (place.path / "environment.json").exists():
        write(place.path / "environment.json", json.dumps(environment(plan, data), indent=1) + "\n")


def surroundings(device: str) -> dict[str, Any]:
    """Versions, hardware and command of this process; `device` as in a plan."""
    return {
        "versions": {"robal": __version__, "python": platform.python_version()} | _versions(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device_of(device) == "cuda" else "cpu",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def environment(plan: Plan, data: Data) -> dict[str, Any]:
    """Surroundings, plan and data of a run."""
    return surroundings(plan.device) | {
        "plan": digest(plan),
        "data": {
            "name": data.name,
            "about": data.about,
            "pool": len(data.images),
            "validation": 0 if data.validation is None else len(data.validation),
            "test": 0 if data.test is None else len(data.test),
            "classes": list(data.classes),
            "shape": list(data.images.shape),
            "fingerprint": data.fingerprint(),
        },
    }


def check_same_run(place: RunFolder, plan: Plan, data: Data) -> None:
    """Refuse a folder that holds a run of another plan or of other data.

    Raises:
        RunFolderError: naming what differs.
    """
    if (place.path / "plan.yaml").exists():
        there = plan_of(place.path)
        if _is_copied(place.path, plan):
            plan = replace(plan, start=replace(plan.start, weights=there.start.weights))
        plan = _with_paths_of(there, plan)
        ours, theirs = flat(encode(plan)), flat(encode(there))
        differing = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
        differing = [key for key in differing if key not in _ELSEWHERE]
        if differing:
            shown = ", ".join(f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in differing[:5])
            raise RunFolderError(
                f"{place.path} holds a run of another plan ({len(differing)} differences: {shown}); "
                "choose another folder with --out, or go on with that plan by `robal resume`"
            )
    if (place.path / "environment.json").exists():
        begun_with = begun(place)
        if begun_with["plan"] != digest(plan):
            raise RunFolderError(
                f"{place.path / 'plan.yaml'} was changed after the run began (or another robal began it), and "
                "a run keeps its plan; change it back, or begin another run with it: robal run plan.yaml --out another"
            )
        theirs = begun_with["data"]
        if theirs["fingerprint"] != data.fingerprint() and not _is_without_known_test(theirs["fingerprint"], data):
            raise RunFolderError(
                f"{place.path} was begun with other images or labels ({theirs['about']}); "
                "give the same data, or choose another folder"
            )


def check_weights(folder: Path, plan: Plan) -> None:
    """Refuse a folder whose run began from other weights than the file that the plan names holds by now.

    `robal resume` does not ask: a run goes on with its own copy.

    Raises:
        RunFolderError: saying so.
    """
    if (folder / WEIGHTS).is_file() and Path(plan.start.weights).is_file() and not _is_copied(folder, plan):
        raise RunFolderError(
            f"{folder} holds a run that began from other weights than {plan.start.weights} holds now; choose another "
            f"folder with --out, or go on with the old ones, {folder / WEIGHTS}: robal resume {folder}"
        )


def _is_copied(folder: Path, plan: Plan) -> bool:
    """Whether the weights that a plan names are, byte by byte, those that a run began from."""
    kept, given = folder / WEIGHTS, Path(plan.start.weights)
    return bool(plan.start.weights) and kept.is_file() and given.is_file() and filecmp.cmp(kept, given, shallow=False)


def _with_paths_of(there: Plan, plan: Plan) -> Plan:
    """The plan with a run's paths of what was trained on and of the test, for its data has a fingerprint."""
    ours, theirs = plan.data, there.data
    train = theirs.train if Path(ours.train).is_absolute() and Path(theirs.train).is_absolute() else ours.train
    test = theirs.test if Path(ours.test).is_absolute() and Path(theirs.test).is_absolute() else ours.test
    return replace(plan, data=replace(ours, train=train, test=test))


def _is_without_known_test(fingerprint: str, data: Data) -> bool:
    """Whether a fingerprint is that of robal 0.1, which left the known test out."""
    return data.known_test is not None and fingerprint == replace(data, known_test=None).fingerprint()


def begun(place: RunFolder) -> dict[str, Any]:
    """The environment that a run began in.

    Raises:
        RunFolderError: if its file is damaged.
    """
    path = place.path / "environment.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["plan"], found["threads"], found["data"]["fingerprint"], found["data"]["about"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); remove it, then `robal resume`") from None
    return found


def digest(plan: Plan) -> str:
    """16 hexadecimal digits of all that decides a run's result.

    What stands at its default is left out, so that a setting which a later version adds, with the old behaviour as its
    default, leaves the digits of older runs as they are.
    """
    decisive = {key: value for key, value in flat(_said(plan)).items() if key not in _ELSEWHERE}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _said(value: Any) -> Any:
    """As `encode`, without the fields that stand at their default."""
    if is_dataclass(value) and not isinstance(value, type):
        encoded = encode(value)
        changed = [field.name for field in fields(value) if getattr(value, field.name) != field.default]
        parts = {name: _said(getattr(value, name)) for name in changed if name in encoded}
        return {"name": encoded.get("name")} | parts
    return [_said(part) for part in value] if isinstance(value, tuple | list) else value


@contextmanager
def same_numerics(place: RunFolder) -> Iterator[None]:
    """As many torch threads as the run began with, for float sums depend on them; on a GPU full float32, no TF32."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(begun(place)["threads"])
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


def plan_of(folder: Path, data: Path | None = None) -> Plan:
    """The plan that a run folder holds; `data`, where given, is where its data sets lie now.

    Raises:
        RunFolderError: if there is no run in the folder.
    """
    path = folder / "plan.yaml"
    if not path.exists():
        what = "a study, no single run" if (folder / "study.yaml").exists() else "no run: there is no plan.yaml in it"
        raise RunFolderError(f"{folder} holds {what}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is damaged: it should be UTF-8 text ({error})") from None
    plan = decode(read_yaml(text, str(path)))
    return plan if data is None else replace(plan, data=replace(plan.data, folder=str(data))).located()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical" if names else platform.processor()
