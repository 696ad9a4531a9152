"""Every acquisition function: what it costs, beside each peer that is installed, on the same images in one run.

    python benchmarks/acquisition.py --pool 10000                  # everything (about ten minutes on one thread)
    python benchmarks/acquisition.py --pool 60000 --only BADGE,CoreSet
    python benchmarks/acquisition.py --scaling                     # cost against pool size, 10k to 1M features

The pool is MNIST's training images where --data names a folder that holds them, else the embedded digits, shifted and
noisy. The network is LeNet5 (28x28, 84-d embeddings) in channels_last, trained on 1,000 of them. Each figure is taken
in a process of its own, ours and the peer's in turn; times are medians, peak memory is over what lay there before.
Peers: foolbox and scikit-activeml (`pip install -e '.[dev]'`), baal where it is installed, and else the plain way.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.acquisition import (
    BADGE,
    BALD,
    CEAL,
    DFAL,
    DRE,
    EGL,
    MCP,
    AdversarialEntropy,
    BoundaryEnriched,
    CoreSet,
    DeepGini,
    DropOutEntropy,
    ExcludeHard,
    FeatureNovelty,
    FGSMBisection,
    LeastConfidence,
    LinearisedDistance,
    LogitMargin,
    LowInputGradient,
    Margin,
    MaxEntropy,
    ProbCover,
    Random,
    Screened,
    badge,
    choose,
    k_center_greedy,
    typiclust,
)
from robal.attacks import DeepFool
from robal.candidates import Candidates
from robal.datasets import load
from robal.images import InMemory
from robal.networks import LeNet5, channels_last, frozen
from robal.objectives import Natural
from robal.pool import UNLABELLED, Examples, Pool
from robal.seeds import generator
from robal.training import Adam, Recipe, Trained, fit

N, LABELLED = 200, 1_000


@dataclass(frozen=True)
class Setting:
    """The pool, the model, and what the model says of the pool."""

    pool: Pool
    model: nn.Module
    labelled: Tensor
    probs: Tensor
    embeddings: Tensor
    known: Tensor

    @property
    def pixels(self) -> Tensor:
        """float32 images of the candidates."""
        return self.pool.images.batch(self.pool.candidates)

    def candidates(self) -> Candidates:
        return Candidates(self.model, self.pool, self.pool.candidates)


@dataclass
class Row:
    """One contestant's figures."""

    work: str
    who: str
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0  # MB
    result: Any = None
    note: str = ""
    images: int = 0  # how many were looked at, where not the whole pool

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def images_of(count: int, data: str | None) -> tuple[Tensor, Tensor]:
    """uint8 [count, 1, 28, 28] and labels."""
    if data is not None:
        mnist = load("mnist", data)
        return mnist.images[:count], mnist.labels[:count]
    digits, draw = load("digits"), generator(0, "pool")
    which = torch.randint(len(digits.images), (count,), generator=draw)
    shift = torch.randint(-3, 4, (count, 2), generator=draw).tolist()
    moved = torch.stack([torch.roll(digits.images[i], tuple(by), (1, 2)) for i, by in zip(which, shift, strict=True)])
    noise = torch.randint(-20, 21, moved.shape, generator=draw, dtype=torch.int16)
    return (moved.to(torch.int16) + noise).clamp_(0, 255).to(torch.uint8), digits.labels[which]


def setting(count: int, data: str | None) -> Setting:
    """`count` candidates beside the 1,000 labelled images, and a LeNet5 trained on those."""
    images, labels = images_of(count + LABELLED, data)
    known = torch.full((len(images),), UNLABELLED)
    known[:LABELLED] = labels[:LABELLED]
    pool = Pool(InMemory(images), known, tuple(str(number) for number in range(10)))
    start = Trained(LeNet5()((1, 28, 28), 10, 0))
    recipe = Recipe(Natural(), epochs=10, batch_size=50, optimiser=Adam(2e-3))
    model = fit(recipe, Examples.of(images[:LABELLED], labels[:LABELLED]), None, start, None, 0).model
    candidates = Candidates(channels_last(model), pool, pool.candidates)
    right = (candidates.probs.argmax(1) == labels[LABELLED:]).double().mean().item()
    print(
        f"{count} candidates, {LABELLED} labelled, LeNet5, {100 * right:.1f} % right; torch {torch.__version__}, ",
        end="",
    )
    print(f"{torch.get_num_threads()} thread(s)", flush=True)
    return Setting(pool, model, known, candidates.probs, candidates.embeddings, candidates.labelled.embeddings)


# Measuring


def alone(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, peak MB over what was there, and the result of `work`, in a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # for peers that print
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = memory("VmRSS")
            started = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - started
            theirs.send((seconds, memory("VmHWM") - before, result))
        except BaseException as error:
            theirs.send(error)
        os._exit(0)

    gc.collect()
    gc.freeze()  # a collection in the child would touch, and so copy, all that the peers' imports brought
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def memory(what: str) -> float:
    """MB, of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def contest(work: str, contestants: dict[str, Callable[[], Any]], repeats: int) -> list[Row]:
    """All contestants in turn, `repeats` times; one that fails says why."""
    rows = [Row(work, who) for who in contestants]
    for number in range(repeats):
        for row in rows:
            if row.note.startswith("failed") or (number and row.median > 60):
                continue
            try:
                seconds, peak, row.result = alone(contestants[row.who])
                row.seconds.append(seconds)
                row.peak = max(row.peak, peak)
            except Exception as error:
                row.note = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:80]}"
    for row in rows:
        if not row.seconds:
            print(f"{work:30} {row.who:22} {row.note}", flush=True)
    return [row for row in rows if row.seconds]


# The contests: ours first, then the peers; `agree` compares results


def forward_pass(at: Setting) -> Callable[[], Any]:
    def work() -> None:
        with frozen(at.model), torch.no_grad():
            for part in at.pool.candidates.split(256):
                at.model(at.pool.images.batch(part))

    return work


def ours(at: Setting, method: Any, n: int = N) -> Callable[[], Any]:
    return lambda: choose(method, at.candidates(), n, generator(0)).tolist()


def plain_probs(at: Setting) -> np.ndarray:
    with frozen(at.model), torch.no_grad():
        parts = [at.model(at.pool.images.batch(part)).softmax(1) for part in at.pool.candidates.split(256)]
    return torch.cat(parts).numpy()


def activeml_scores(at: Setting, method: str) -> Callable[[], Any]:
    from skactiveml.pool import uncertainty_scores

    return lambda: np.argsort(-uncertainty_scores(plain_probs(at), method=method), kind="stable")[:N].tolist()


def plain_mcp(at: Setting) -> Callable[[], Any]:
    def work() -> list[int]:
        cells: dict[tuple[int, int], list[tuple[float, int]]] = {}
        for row, p in enumerate(plain_probs(at)):
            one, two = np.argsort(-p, kind="stable")[:2]
            cells.setdefault((one, two), []).append((-p[two] / p[one], row))
        queues = [sorted(cell) for cell in cells.values()]
        chosen: list[int] = []
        while len(chosen) < N:
            queues = [queue for queue in queues if queue]
            best = sorted(queue.pop(0) for queue in queues)
            chosen += [row for _, row in best]
        return chosen[:N]

    return work


def plain_bald(at: Setting, passes: int = 10) -> Callable[[], Any]:
    def work() -> list[float]:
        model = LeNet5(dropout=0.1)((1, 28, 28), 10, 0)
        model.load_state_dict(at.model.state_dict())
        channels_last(model).eval()
        for layer in model.modules():
            layer.training = isinstance(layer, nn.Dropout)
        drawn = []
        with torch.no_grad():
            for _ in range(passes):
                drawn.append(
                    torch.cat([model(at.pool.images.batch(part)).softmax(1) for part in at.pool.candidates.split(256)])
                )
        probs = torch.stack(drawn, 1)
        entropy = lambda p: torch.special.entr(p).sum(-1)  # noqa: E731
        return (entropy(probs.mean(1)) - entropy(probs).mean(1)).tolist()

    return work


def baal_bald(at: Setting, passes: int = 10) -> Callable[[], Any]:
    from baal.active.heuristics import BALD as Theirs  # noqa: N811
    from baal.bayesian.dropout import patch_module
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(at.pool.candidates)

        def __getitem__(self, row: int) -> Any:
            return at.pool.images.batch(at.pool.candidates[row : row + 1])[0], 0

    def work() -> list[float]:
        model = LeNet5(dropout=0.1)((1, 28, 28), 10, 0)
        model.load_state_dict(at.model.state_dict())
        wrapped = ModelWrapper(patch_module(model), TrainingArgs(criterion=None, use_cuda=False, batch_size=128))
        wrapped.eval()
        drawn = wrapped.predict_on_dataset(Rows(), iterations=passes)
        return Theirs().get_uncertainties(drawn).tolist()

    return work


def score_of(at: Setting, method: Any, rows: int | None = None) -> Callable[[], Any]:
    def work() -> list[float]:
        candidates = at.candidates()
        if rows is not None:
            candidates = candidates.only(torch.arange(rows))
        with frozen(at.model), torch.no_grad():
            return method(candidates, generator(0)).tolist()

    return work


def plain_egl(at: Setting, rows: int) -> Callable[[], Any]:
    """One gradient an image and class, by autograd."""

    def work() -> list[float]:
        lengths = []
        for image in at.pixels[:rows]:
            total = 0.0
            for number, p in enumerate(at.model(image[None]).softmax(1)[0].tolist()):
                at.model.zero_grad()
                F.cross_entropy(at.model(image[None]), torch.tensor([number])).backward()
                gradients = [part.grad.flatten() for part in at.model.parameters()]
                total += p * float(torch.cat(gradients).norm())
            lengths.append(total)
        return lengths

    return work


def plain_input_egl(at: Setting, rows: int) -> Callable[[], Any]:
    """As DRE's released code does it, in batches, without its division by the batch's size."""

    def work() -> list[float]:
        found = []
        for part in at.pixels[:rows].split(128):
            inputs = part.clone().requires_grad_()
            logits = at.model(inputs)
            total = torch.zeros(len(part))
            for number in range(10):
                loss = F.cross_entropy(logits, torch.full((len(part),), number), reduction="sum")
                (gradient,) = torch.autograd.grad(loss, inputs, retain_graph=True)
                total += logits.softmax(1)[:, number].detach() * gradient.flatten(1).norm(dim=1)
            found.append(total)
        return torch.cat(found).tolist()

    return work


def activeml(at: Setting, strategy: str, **settings: Any) -> Callable[[], Any]:
    import skactiveml.pool as peers

    rows = torch.cat([at.known, at.embeddings]).numpy()
    y = np.full(len(rows), np.nan)
    y[:LABELLED] = at.pool.labels[:LABELLED]
    return lambda: (
        getattr(peers, strategy)(random_state=0, **settings).query(rows, y, batch_size=N) - LABELLED
    ).tolist()


def plain_k_center(at: Setting) -> Callable[[], Any]:
    def work() -> list[int]:
        rows, centres = at.embeddings.numpy().astype(np.float64), at.known.numpy().astype(np.float64)
        nearest = np.full(len(rows), np.inf)
        for centre in centres:
            nearest = np.minimum(nearest, ((rows - centre) ** 2).sum(1))
        chosen = []
        for _ in range(N):
            chosen.append(int(nearest.argmax()))
            nearest = np.minimum(nearest, ((rows - rows[chosen[-1]]) ** 2).sum(1))
        return chosen

    return work


def activeml_badge(at: Setting) -> Callable[[], Any]:
    import skactiveml.pool as peers
    from skactiveml.classifier import SklearnClassifier
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat([at.known, at.embeddings]).numpy()
    y = np.full(len(rows), np.nan)
    y[:LABELLED] = at.pool.labels[:LABELLED]
    classifier = SklearnClassifier(LogisticRegression(max_iter=2000), classes=list(range(10))).fit(rows, y)
    return lambda: peers.Badge(random_state=0).query(rows, y, classifier, fit_clf=False, batch_size=N)


def plain_badge(at: Setting) -> Callable[[], Any]:
    """The matrix of gradient embeddings, and scikit-learn's k-means++ on it."""
    from sklearn.cluster import kmeans_plusplus

    def work() -> list[int]:
        probs = at.probs.numpy()
        gradients = probs - np.eye(10, dtype=np.float32)[probs.argmax(1)]
        rows = (gradients[:, :, None] * at.embeddings.numpy()[:, None, :]).reshape(len(probs), -1)
        return kmeans_plusplus(rows, N, random_state=0)[1].tolist()

    return work


def foolbox_distances(at: Setting, rows: int) -> Callable[[], Any]:
    import foolbox

    def work() -> tuple[list[float], int]:
        wrapped = foolbox.PyTorchModel(at.model, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
        distances, flipped = [], 0
        for part in at.pixels[:rows].split(128):
            predicted = at.model(part).argmax(1)
            moved, _, won = attack(wrapped, part, predicted, epsilons=None)
            distances += (moved - part).flatten(1).norm(dim=1).tolist()
            flipped += int(won.sum())
        return distances, flipped

    return work


def our_distances(at: Setting, rows: int) -> Callable[[], Any]:
    def work() -> tuple[list[float], int]:
        found = [DeepFool()(at.model, part) for part in at.pixels[:rows].split(128)]
        return [d for part in found for d in part.distance.tolist()], sum(int(part.flipped.sum()) for part in found)

    return work


def few(at: Setting, method: Any, rows: int, n: int) -> Callable[[], Any]:
    return lambda: choose(method, at.candidates().only(torch.arange(rows)), n, generator(0)).tolist()


def contests(at: Setting) -> Iterator[tuple[str, dict[str, Callable[[], Any]], Callable[[list[Row]], None]]]:
    """(work, contestants, what to say of their results)."""

    def same(rows: list[Row]) -> None:
        for row in rows[1:]:
            shared = len({i - LABELLED for i in rows[0].result} & set(row.result))
            row.note = f"{shared} of {len(row.result)} the same"

    def silent(rows: list[Row]) -> None:
        pass

    def correlated(rows: list[Row]) -> None:
        from scipy.stats import spearmanr

        for row in rows[1:]:
            row.note = f"rank correlation {spearmanr(rows[0].result, row.result).statistic:.3f} (other masks)"

    def equal(rows: list[Row]) -> None:
        first = np.array(rows[0].result)
        for row in rows:
            row.images = len(row.result)
            per_second = row.images / row.median
            row.note = f"{per_second:,.0f} images/s"
            if row is not rows[0]:  # of the larger half: near 0, a difference of float32 has no digits left
                theirs, own = np.array(row.result), first[: len(row.result)]
                large = theirs >= np.median(theirs)
                row.note += f", ours within {np.abs(own[large] / theirs[large] - 1).max():.0e}"

    def distances(rows: list[Row]) -> None:
        for row in rows:
            found, flipped = row.result
            row.images = len(found)
            row.note = (
                f"{len(found) / row.median:,.0f} images/s, {100 * flipped / len(found):.1f} % flipped, "
                f"median {statistics.median(found):.4f}"
            )

    def spread(rows: list[Row]) -> None:
        """How far the pool lies from the chosen: the mean distance to the nearest."""
        for row in rows:
            positions = torch.tensor(row.result) - (LABELLED if row is rows[0] else 0)
            near = torch.cdist(at.embeddings, at.embeddings[positions]).amin(1)
            row.note = f"pool to nearest chosen: mean {near.mean():.3f}, largest {near.max():.3f}"

    for method, theirs in (
        (MaxEntropy(), "entropy"),
        (LeastConfidence(), "least_confident"),
        (Margin(), "margin_sampling"),
    ):
        peer = {"scikit-activeml": activeml_scores(at, theirs)}
        yield type(method).__name__, {"robal": ours(at, method)} | peer, same
    yield "MCP", {"robal": ours(at, MCP()), "plain": plain_mcp(at)}, same
    for method in (
        Random(),
        DeepGini(),
        DRE(),
        CEAL(),
        LogitMargin(),
        BoundaryEnriched(),
        FeatureNovelty(),
        ExcludeHard(),
    ):
        yield type(method).__name__, {"robal": ours(at, method)}, silent
    peers = {"plain": plain_bald(at)}
    try:
        peers["baal"] = baal_bald(at)
    except ImportError:
        print("baal is not installed")
    yield "BALD", {"robal": score_of(at, BALD())} | peers, correlated
    yield "DropOutEntropy", {"robal": ours(at, DropOutEntropy())}, silent
    rows = min(2_000, len(at.probs))
    yield "EGL", {"robal": score_of(at, EGL(), rows), "plain": plain_egl(at, 100)}, equal
    yield "EGL last_layer", {"robal": score_of(at, EGL(over="last_layer"))}, equal
    inputs = {"robal": score_of(at, EGL(over="inputs"), rows), "plain (robustAL's way)": plain_input_egl(at, rows)}
    yield "EGL inputs", inputs, equal
    yield "LowInputGradient", {"robal": score_of(at, LowInputGradient(), rows)}, equal
    yield "AdversarialEntropy", {"robal": score_of(at, AdversarialEntropy(), rows)}, equal
    centres = lambda: (k_center_greedy(at.embeddings, at.known, N) + LABELLED).tolist()  # noqa: E731
    yield "CoreSet", {"robal": centres, "scikit-activeml": activeml(at, "CoreSet"), "plain": plain_k_center(at)}, same
    whole = {"robal": ours(at, CoreSet())}
    yield "CoreSet, forward pass included", whole, silent
    sampled = lambda: badge(at.probs, at.embeddings, N, generator(0)).tolist()  # noqa: E731
    yield "BADGE", {"robal": sampled, "scikit-activeml": activeml_badge(at), "plain": plain_badge(at)}, silent
    yield "BADGE, forward pass included", {"robal": ours(at, BADGE())}, silent
    typical = lambda: (typiclust(at.embeddings, at.known, N, generator(0)) + LABELLED).tolist()  # noqa: E731
    yield "TypiClust", {"robal": typical, "scikit-activeml": activeml(at, "TypiClust")}, spread
    covering = {"robal": ours(at, ProbCover())}
    if len(at.probs) <= 10_000:
        covering["scikit-activeml"] = activeml(at, "ProbCover")
    yield "ProbCover", covering, spread
    yield "DeepFool", {"robal": our_distances(at, 400), "foolbox": foolbox_distances(at, 400)}, distances
    nearest = {
        "robal, DFAL": few(at, DFAL(candidates_per_query=0), 400, 40),
        "robal, Screened": few(at, Screened(), 400, 40),
    }

    def found(rows: list[Row]) -> None:
        rows[1].note = f"{len(set(rows[0].result) & set(rows[1].result))} of 40 the same"

    yield "DFAL, 40 of 400", nearest, found
    yield "DFAL", {"robal": ours(at, DFAL())}, silent
    for method in (LinearisedDistance(), FGSMBisection()):
        yield type(method).__name__, {"robal": score_of(at, method, rows)}, equal


# Cost against pool size


def scaling(repeats: int, smallest: int, largest: int, features: int, wanted: list[str]) -> list[Row]:
    """Methods on synthetic features alone: 10 classes, 200 chosen beside 1,000 labelled."""
    found = []
    for count in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        if not smallest <= count <= largest:
            continue
        draw = generator(0, "features")
        middle = torch.randn(50, features, generator=draw) * 3
        which = torch.randint(50, (count + LABELLED,), generator=draw)
        rows = torch.randn(count + LABELLED, features, generator=draw)
        for part in torch.arange(len(rows)).split(10_000):
            rows[part] += middle[which[part]]
        known, rows = rows[:LABELLED], rows[LABELLED:]
        probs = (rows @ torch.randn(features, 10, generator=draw) * 0.2).softmax(1)
        works = {
            "CoreSet": lambda rows=rows, known=known: k_center_greedy(rows, known, N),
            "BADGE": lambda rows=rows, probs=probs: badge(probs, rows, N, generator(0)),
            "TypiClust": lambda rows=rows, known=known: typiclust(rows, known, N, generator(0)),
        }
        for name, work in works.items():
            if wanted and name not in wanted:
                continue
            row = contest(name, {str(count): lambda work=work: work().tolist()}, repeats)[0]
            print(f"{name:10} {count:>9,} rows {row.median:8.2f} s {row.peak:8.0f} MB", flush=True)
            found.append(row)
    return found


def chart(path: Path, scaled: list[Row]) -> None:
    """Seconds and MB against pool size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for name in dict.fromkeys(row.work for row in scaled):
        rows = [row for row in scaled if row.work == name]
        sizes = [int(row.who) for row in rows]
        axes[0].plot(sizes, [row.median for row in rows], "o-", label=name)
        axes[1].plot(sizes, [max(row.peak, 1) for row in rows], "o-", label=name)
    for axis, title in zip(axes, ("seconds", "peak MB over the features"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="images in the pool (84-d features)", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print one line a contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=10_000, help="candidates")
    parser.add_argument("--data", help="a folder that holds MNIST")
    parser.add_argument("--only", default="", help="names of methods, separated by commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scaling", action="store_true", help="cost against pool size instead")
    parser.add_argument("--smallest", type=int, default=0, help="with --scaling: the smallest pool")
    parser.add_argument("--features", type=int, default=84, help="with --scaling: their number")
    parser.add_argument("--largest", type=int, default=1_000_000, help="with --scaling: the largest pool")
    parser.add_argument("--chart", type=Path, help="with --scaling: a PNG to draw")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    wanted = [name for name in arguments.only.split(",") if name]
    rows: list[Row] = []
    if arguments.scaling:
        rows = scaling(arguments.repeats, arguments.smallest, arguments.largest, arguments.features, wanted)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak of the process that holds the features: {most:,.0f} MB")
        if arguments.chart:
            chart(arguments.chart, rows)
    else:
        at = setting(arguments.pool, arguments.data)
        (plain,) = contest("forward pass", {"torch": forward_pass(at)}, max(arguments.repeats, 3))
        head = ("method", "who", "seconds", "(min, max)", "forward passes", "ratio", "peak MB", "")
        print("{:30} {:22} {:>8} {:>15} {:>14} {:>7} {:>8}  {}".format(*head))
        for work, contestants, compare in contests(at):
            if wanted and work.split(",")[0].split(" ")[0] not in wanted:
                continue
            found = contest(work, contestants, arguments.repeats)
            compare(found)
            for row in found:
                scatter = f"({min(row.seconds):.2f}, {max(row.seconds):.2f})"
                whole = row.median * (arguments.pool / row.images if row.images else 1)
                first = found[0].median * (arguments.pool / found[0].images if found[0].images else 1)
                passes, times = whole / plain.median, whole / first
                ratio = "" if row is found[0] else f"{times:.1f}x" if times >= 1 else f"{times:.2f}x"
                print(
                    f"{row.work if row is found[0] else '':30} {row.who:22} {row.median:8.2f} {scatter:>15} "
                    f"{passes:14.2f} {ratio:>7} {row.peak:8.0f}  {row.note}",
                    flush=True,
                )
            rows += found
        print(f"one forward pass over the pool, plain loop: {plain.median:.2f} s")
    if arguments.json:
        figures = [
            {"work": row.work, "who": row.who, "seconds": row.seconds, "peak_mb": row.peak, "note": row.note}
            for row in rows
        ]
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
