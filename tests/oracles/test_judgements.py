"""What people said: kept whole, counted once, and what label follows."""

from __future__ import annotations

import itertools
import random
import sqlite3
from pathlib import Path

import pytest
import torch

from robal.errors import AwaitingLabels, InputError, RunFolderError
from robal.images import InMemory
from robal.oracles import Judgement, Judgements, Page
from robal.pool import NONE_OF_THESE, SKIPPED, Pool

NUMBERS = itertools.count()


@pytest.fixture
def said(tmp_path: Path) -> Judgements:
    judgements = Judgements(tmp_path / "state.sqlite")
    judgements.prepare()
    return judgements


def one(image: int, who: str, label: int | None, decides: bool = False) -> Judgement:
    return Judgement(f"key-{next(NUMBERS)}", image, who, label, decides)


def test_a_judgement_that_comes_twice_counts_once(said: Judgements) -> None:
    first = one(3, "Ada", 1)
    said.record([first])
    said.record([first, one(4, "Ada", 2)])
    assert [(kept.image, kept.label) for kept in said.all()] == [(3, 1), (4, 2)]
    assert said.repeated([3, 4]) == 0


def test_the_last_word_counts_and_can_be_taken_back(said: Judgements) -> None:
    said.record([one(3, "Ada", 1), one(3, "Ada", 2)])
    assert said.settled([3], 1).labels == {3: 2}
    said.record([one(3, "Ada", None)])
    assert said.settled([3], 1).missing == {3: 1}
    assert len(said.all()) == 3  # nothing is forgotten


def test_votes_ties_and_decisions(said: Judgements) -> None:
    said.record([one(0, "Ada", 1), one(0, "Bert", 2), one(1, "Ada", 1), one(1, "Bert", 1), one(2, "Ada", SKIPPED)])
    found = said.settled([0, 1, 2], 2)
    assert (found.labels, found.disputed, found.missing) == ({1: 1}, (0,), {2: 1})
    said.record([one(0, "Carl", 2)])
    assert said.settled([0], 2).labels == {0: 2}  # a third vote breaks the tie
    said.record([one(0, "Dora", 1)])
    assert said.settled([0], 2).disputed == (0,)
    said.record([one(0, "Ada", NONE_OF_THESE, decides=True)])
    assert said.settled([0], 2).labels == {0: NONE_OF_THESE}
    said.record([one(0, "Bert", 1, decides=True)])
    assert said.settled([0], 2).labels == {0: 1}  # the last decision
    assert (
        said.repeated([0, 1, 2]) == (4 + 2 - 1) + 1
    )  # four votes and two decisions on one image; two votes on another


def test_new_classes_follow_the_known_ones(said: Judgements) -> None:
    known = ("cat", "dog")
    assert said.add_class(known, " Fox  cub ", 1, "Ada") == 2
    assert said.add_class(known, "fox CUB", 2, "Bert") == 2
    assert said.add_class(known, "DOG", 2, "Bert") == 1
    assert said.add_class(known, "owl", 3, "Bert") == 3
    assert said.new_classes() == ("Fox cub", "owl")
    assert (said.new_classes(0), said.new_classes(2)) == ((), ("Fox cub",))
    for name in ("", "  ", "a" * 61, "a\x00b", "a\u202eb"):
        with pytest.raises(InputError, match="name of a class"):
            said.add_class(known, name, 1, "Ada")


def test_what_each_person_says_now(said: Judgements) -> None:
    said.record([one(3, "Ada", 1), one(3, "Ada", 2, decides=True), one(4, "Bert", 5), one(4, "Ada", 6)])
    said.record([one(4, "Bert", None), one(4, "Ada", 7)])
    assert {whose: kept.label for whose, kept in said.votes([3, 4]).items()} == {(3, "Ada"): 1, (4, "Ada"): 7}


def test_a_settlement_follows_judgement_by_judgement(said: Judgements) -> None:
    images, draw = list(range(6)), random.Random(0)
    kept = said.settled(images, 2)
    for _ in range(120):
        touched = draw.sample(images, draw.randrange(1, 3))
        label = draw.choice([None, 1, 2, SKIPPED])
        said.record([one(image, draw.choice(["Ada", "Bert", "Carl"]), label, draw.random() < 0.1) for image in touched])
        kept, whole = kept.changed(touched, said.settled(touched, 2)), said.settled(images, 2)
        assert (kept.labels, kept.missing, set(kept.disputed)) == (whole.labels, whole.missing, set(whole.disputed))


def test_the_page_waits_until_all_is_settled(tmp_path: Path, said: Judgements) -> None:
    pool = Pool.unlabelled(InMemory(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)), ("cat", "dog"))
    asked = torch.tensor([4, 2])
    oracle = Page(answers=2).inside(tmp_path, 0)
    said.record([one(4, "Ada", 1), one(2, "Ada", 0), one(2, "Bert", 1)])
    with pytest.raises(
        AwaitingLabels, match=r"1 of 2 images wait for a label, 1 for a decision: `robal label .*resume"
    ):
        oracle(pool, asked, 0)
    said.record([one(4, "Bert", 1), one(2, "Bert", 0)])
    assert oracle(pool, asked, 0).tolist() == [1, 0]
    with pytest.raises(InputError, match="answers"):
        Page(answers=0)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(RunFolderError, match=r"state\.sqlite could not be used"):
        Judgements(path).prepare()
    with pytest.raises(RunFolderError, match="could not be used"), Judgements(path).at_hand():
        pass


def test_at_hand_leaves_one_plain_file(said: Judgements) -> None:
    with said.at_hand():
        said.record([one(1, "Ada", 1)])
        assert said.path.with_name("state.sqlite-wal").exists()
    assert [file.name for file in said.path.parent.iterdir()] == ["state.sqlite"]
    database = sqlite3.connect(said.path)
    assert database.execute("SELECT COUNT(*) FROM judgements").fetchall() == [(1,)]
    database.close()
