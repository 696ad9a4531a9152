"""What an acquisition function adds to the training set: twins stay, guesses last a round, none is a label bought."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from robal.acquisition import CEAL, EntropyMix, ExcludeHard
from robal.candidates import Candidates
from robal.data import Data
from robal.errors import InputError, RunFolderError
from robal.images import InMemory
from robal.kept import carried_on, describe_kept, load_kept, save_kept
from robal.loop import rounds, run
from robal.plan import Plan
from robal.plans import decode, encode
from robal.pool import Examples
from robal.seeds import generator
from tiny_runs import outcome, rows, tiny_plan

SHORT = ("rounds=2", "evaluation.at_end=[]")


@dataclass(frozen=True)
class TwinsAndGuesses:
    """The first n; a grey twin of each that went to training, and the candidate after them with a guess."""

    twins: bool = True

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return candidates.indices[:n]

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, draw: torch.Generator) -> Examples:
        images = candidates.pool.images
        guessed = candidates.indices[:2]
        pseudo = Examples.of(images.at_rest(guessed), torch.tensor([3, 3]), guessed, "pseudo")
        if not self.twins:
            return pseudo
        return Examples.join([pseudo, Examples.of(images.batch(chosen) * 0.5, labels, chosen, "twin")])


def plan_of(acquisition: object, *settings: str) -> Plan:
    return replace(tiny_plan(*SHORT, *settings), acquisition=acquisition)


def test_twins_gather_and_guesses_are_made_anew_and_none_of_them_is_a_label(tmp_path: Path, data: Data) -> None:
    *_, state = rounds(plan_of(TwinsAndGuesses()), data, tmp_path / "run")
    counts = [(row["kept"]["twin"], row["kept"]["pseudo"]) for row in rows(tmp_path / "run")]
    assert counts == [(0, 0), (10, 2), (20, 2)]
    assert [row["labels"]["bought"] for row in rows(tmp_path / "run")] == [40, 50, 60]
    assert [row["labels"]["training"] for row in rows(tmp_path / "run")] == [40, 50, 60]
    kept = state.kept
    twins, asked = kept.of_kind("twin"), state.pool.labelled
    assert set(twins.origin.tolist()) <= set(asked.tolist())
    assert torch.equal(twins.labels, state.pool.labels[twins.origin])
    assert torch.equal(twins.images, data.images.batch(twins.origin) * 0.5)
    guesses = kept.of_kind("pseudo")
    assert guesses.origin.tolist() == state.pool.candidates[:2].tolist()
    assert torch.equal(guesses.images, data.images.batch(guesses.origin))
    assert data.hidden is not None
    right = (data.hidden[guesses.origin] == 3).double().mean().item()
    assert rows(tmp_path / "run")[-1]["kept"]["pseudo_right"] == right


def test_what_is_added_is_trained_on(tmp_path: Path, data: Data) -> None:
    run(plan_of(TwinsAndGuesses()), data, tmp_path / "both")
    run(plan_of(TwinsAndGuesses(twins=False)), data, tmp_path / "guesses")
    both, guesses = outcome(tmp_path / "both"), outcome(tmp_path / "guesses")
    assert both["questions"][:50] == guesses["questions"][:50]
    assert both["weights"][0] == guesses["weights"][0]
    assert both["weights"][1] != guesses["weights"][1]
    evaluations = [[row["gradient_evaluations"] for row in one["metrics"]] for one in (both, guesses)]
    assert evaluations[0][1] > evaluations[1][1]


def test_a_run_taken_up_again_has_what_it_had(tmp_path: Path, data: Data) -> None:
    plan = plan_of(TwinsAndGuesses(), "seed=4")
    *_, whole = rounds(plan, data, tmp_path / "whole")
    for number, _ in enumerate(rounds(plan, data, tmp_path / "parts")):
        if number == 1:
            break
    *_, parts = rounds(plan, data, tmp_path / "parts")
    for name in ("images", "labels", "origin", "kind", "weight"):
        assert torch.equal(getattr(whole.kept, name), getattr(parts.kept, name)), name
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "parts")
    (again,) = rounds(plan, data, tmp_path / "whole")
    assert torch.equal(again.kept.images, whole.kept.images)


def test_a_validation_image_has_no_twin(tmp_path: Path, data: Data) -> None:
    *_, state = rounds(plan_of(TwinsAndGuesses(), "validation.bought_share=0.2"), data, tmp_path / "run")
    twins = state.kept.of_kind("twin")
    assert len(twins) == 16
    assert not torch.isin(twins.origin, state.validation).any()


def test_an_image_that_was_skipped_has_no_twin(tmp_path: Path, data: Data) -> None:
    plan = plan_of(TwinsAndGuesses())
    assert data.hidden is not None
    from robal.pool import SKIPPED

    @dataclass(frozen=True)
    class Skips:
        def __call__(self, pool: object, indices: Tensor, seed: int) -> Tensor:
            answers = data.hidden[indices]  # type: ignore[index]
            return torch.where(torch.arange(len(indices)) < 4, SKIPPED, answers)

    *_, state = rounds(replace(plan, oracle=Skips()), data, tmp_path / "run")
    assert state.kept.count("twin") == 2 * 6


def test_ceal_trains_on_its_own_guesses(tmp_path: Path, data: Data) -> None:
    run(plan_of(CEAL(threshold=0.5)), data, tmp_path / "run")
    kept = [row["kept"] for row in rows(tmp_path / "run")]
    assert kept[0]["pseudo"] == 0
    assert kept[1]["pseudo"] > 50
    assert kept[1]["pseudo_right"] > 0.7


# The file


def mixed() -> tuple[Examples, InMemory]:
    pool = InMemory(torch.randint(256, (9, 1, 2, 2), dtype=torch.uint8, generator=generator(0)))
    guessed, asked = torch.tensor([7, 2]), torch.tensor([5, 1, 3])
    pseudo = Examples.of(pool.at_rest(guessed), torch.tensor([0, 1]), guessed, "pseudo")
    twins = Examples.of(torch.rand(3, 1, 2, 2), torch.tensor([1, 1, 0]), asked, "twin")
    return Examples.join([twins, pseudo, Examples.of(torch.rand(1, 1, 2, 2), torch.tensor([1]), None, "crafted")]), pool


def test_what_was_added_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    added, pool = mixed()
    save_kept(tmp_path / "kept.safetensors", added)
    back = load_kept(tmp_path / "kept.safetensors", pool)
    for name in ("images", "labels", "origin", "kind", "weight"):
        assert torch.equal(getattr(back, name), getattr(added, name)), name


def test_guesses_alone_take_no_pixels_and_come_back_as_bytes(tmp_path: Path) -> None:
    added, pool = mixed()
    pseudo = Examples.of(pool.at_rest(torch.arange(9)), torch.zeros(9, dtype=torch.int64), torch.arange(9), "pseudo")
    save_kept(tmp_path / "kept.safetensors", pseudo)
    back = load_kept(tmp_path / "kept.safetensors", pool)
    assert back.images.dtype == torch.uint8
    assert torch.equal(back.images, pool.pixels)
    save_kept(tmp_path / "other.safetensors", added)
    assert (tmp_path / "kept.safetensors").stat().st_size < 1000


def test_where_nothing_was_added_there_is_nothing(tmp_path: Path) -> None:
    _, pool = mixed()
    assert len(load_kept(tmp_path / "kept.safetensors", pool)) == 0
    (tmp_path / "kept.safetensors").write_bytes(b"cut off")
    with pytest.raises(RunFolderError, match="cannot be read"):
        load_kept(tmp_path / "kept.safetensors", pool)


def test_of_earlier_rounds_the_twins_stay_and_the_guesses_go() -> None:
    added, _ = mixed()
    again = carried_on(carried_on(Examples.none(), added), added)
    assert [again.count(kind) for kind in Examples.TRAINED] == [0, 2, 6, 2]
    assert describe_kept(again, None) == {"twin": 6, "crafted": 2, "pseudo": 2, "pseudo_right": None}
    hidden = torch.zeros(9, dtype=torch.int64)
    assert describe_kept(again, hidden)["pseudo_right"] == 0.5


# Snapshots and the teacher


@dataclass(frozen=True)
class NeedsSnapshots:
    """Chooses by the number of snapshots that it sees, and by whether they differ."""

    needs: ClassVar[frozenset[str]] = frozenset({"snapshots"})

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        seen = [earlier.logits for earlier in candidates.earlier()]
        assert len(seen) == 3
        assert torch.equal(seen[-1], candidates.logits)
        assert not torch.equal(seen[0], seen[1])
        return candidates.indices[:n]


def test_snapshots_of_the_training_reach_the_next_choice(tmp_path: Path, data: Data) -> None:
    snapshots = ("start.recipe.snapshots=3", "recipe.snapshots=3", "recipe.epochs=3")
    run(plan_of(NeedsSnapshots(), *snapshots), data, tmp_path / "run")
    for number, _ in enumerate(rounds(plan_of(NeedsSnapshots(), *snapshots), data, tmp_path / "parts")):
        if number == 1:  # the next choice is made by a run taken up again
            break
    run(plan_of(NeedsSnapshots(), *snapshots), data, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "run")


def test_a_plan_that_keeps_no_snapshots_cannot_use_them(tmp_path: Path, data: Data) -> None:
    with pytest.raises(InputError, match=r"add start\.recipe\.snapshots=5 recipe\.snapshots=2"):
        run(plan_of(ExcludeHard()), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(plan_of(ExcludeHard(), "start.recipe.snapshots=3", "recipe.snapshots=2"), data, tmp_path / "run")


def test_a_standard_model_is_trained_beside_the_robust_one_where_one_is_needed(tmp_path: Path, data: Data) -> None:
    plan = plan_of(EntropyMix(rounds=5))
    assert decode(encode(plan)) == plan
    run(plan, data, tmp_path / "mixed")
    run(plan_of(EntropyMix(rounds=1)), data, tmp_path / "robust")
    mixed, robust = outcome(tmp_path / "mixed"), outcome(tmp_path / "robust")
    assert mixed["questions"][:50] == robust["questions"][:50]  # in round 1 the standard model decides in both
    assert mixed["questions"] != robust["questions"]
    assert not list(tmp_path.rglob("teacher*"))
