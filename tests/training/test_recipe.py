from __future__ import annotations

from typing import Any

import pytest

from robal.errors import InputError
from robal.objectives import Natural
from robal.training import Recipe


def test_recipes_are_values() -> None:
    assert Recipe() == Recipe() != Recipe(Natural())
    assert hash(Recipe()) == hash(Recipe())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs >= 1 and batch_size >= 2; 0 and 100 came"),
        ({"batch_size": 1}, "epochs >= 1 and batch_size >= 2; 10 and 1 came"),
        ({"warm_start": False, "keep_optimiser": True}, "keep_optimiser goes with warm_start"),
    ],
)
def test_recipes_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**settings)
