"""benchmarks/greedy_oracle.py: the oracle keeps the best batch of those it tried, and the control the best training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robal.seeds import generator, stream

STUDY = "greedy_oracle"


@pytest.fixture
def bench(study: Any) -> Any:
    return study.Bench.of(study.Scale("digits", 0.1, 100, 40, 20, 20, 5, 1, 3, 600), None)


def test_the_oracle_keeps_the_batch_that_validates_best(study: Any, bench: Any) -> None:
    rows = study.carried_out(bench, "oracle", 0)
    known = torch.randperm(100, generator=generator(0, "start"))[:20]
    model, scores = bench.trained(known, stream(0, "round", 0)), []
    assert rows[0] == {"labels": 20, "validation": bench.validated(model)}
    for trial in range(3):
        batch = bench.batch(study.Random(), known, model, generator(0, "draw", 1, trial))
        assert not set(batch.tolist()) & set(known.tolist())
        scores.append(bench.validated(bench.trained(torch.cat([known, batch]), stream(0, "round", 1))))
    assert len(set(scores)) > 1
    assert rows[1]["validation"] == max(scores)
    assert rows[1]["labels"] == 25


def test_the_control_keeps_the_best_training_on_one_batch(study: Any, bench: Any) -> None:
    rows = study.carried_out(bench, "control", 0)
    known = torch.randperm(100, generator=generator(0, "start"))[:20]
    model = bench.trained(known, stream(0, "round", 0))
    grown = torch.cat([known, bench.batch(study.Random(), known, model, generator(0, "draw", 1, 0))])
    scores = [bench.validated(bench.trained(grown, stream(stream(0, "round", 1), trial))) for trial in range(3)]
    assert len(set(scores)) > 1
    assert rows[1]["validation"] == max(scores)


def test_nothing_that_judges_is_in_the_pool_and_a_kept_seed_is_of_its_scale(
    study: Any, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [bench.pool.at_rest(torch.arange(100)), bench.validation[0], bench.test[0]]
    rows = [tuple(image.flatten().tolist()) for part in parts for image in part]
    assert len(set(rows)) == len(rows)
    words = ["x", "--quick", "--out", str(tmp_path), "--arms", "Random", "Margin", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(study, "QUICK", bench.scale)
    study.main()
    said = capsys.readouterr().out
    assert "| Random | 1 | 25 |" in said
    assert len(list(tmp_path.glob("*.json"))) == 2
    monkeypatch.setattr(study, "QUICK", study.Scale())
    with pytest.raises(SystemExit, match="is of another scale"):
        study.main()
