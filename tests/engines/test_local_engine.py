"""The engine: results depend on the images and the seed, not on how the work is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robal.engines import Local
from robal.errors import ContractError, InputError
from robal.images import InMemory
from robal.seeds import generator
from small_models import condition, convnet

IMAGES = InMemory(torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "images")))


def pixel_sums(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """Whole numbers, exact whatever the batch."""
    return {"sum": (batch * 255).round().long().flatten(1).sum(1), "first": batch[:, 0, :2]}


def noise(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    return {"noise": torch.rand(len(batch), 3, generator=draw)}


def logits(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    return {"logits": model(batch)}


@pytest.mark.parametrize("tile", [1, 7, 20, 256])
def test_rows_belong_to_their_indices_whatever_the_tile(tile: int) -> None:
    indices = torch.tensor([3, 19, 0, 7, 7, 12, 1, 2, 18])
    rows = Local(tile).map(pixel_sums, convnet(), IMAGES, indices, 0)
    assert torch.equal(rows["sum"], IMAGES.pixels[indices].long().flatten(1).sum(1))
    torch.testing.assert_close(rows["first"], IMAGES.pixels[indices, 0, :2].float() / 255)
    assert rows["first"].shape == (9, 2, 8)


def test_logits_depend_on_the_tile_by_rounding_alone() -> None:
    wanted = Local(20).map(logits, convnet(), IMAGES, torch.arange(20), 0)["logits"]
    with torch.no_grad():
        torch.testing.assert_close(wanted, convnet().eval()(IMAGES.batch(torch.arange(20))))
    for tile in (1, 7, 256):
        rows = Local(tile).map(logits, convnet(), IMAGES, torch.arange(20), 0)["logits"]
        torch.testing.assert_close(rows, wanted, rtol=0, atol=1e-5)


def test_a_tile_is_full_to_the_last_so_memory_is_bounded_and_batch_sizes_are_one() -> None:
    seen = []

    def watch(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        seen.append(tuple(batch.shape))
        return {"x": batch[:, 0, 0, 0]}

    rows = Local(8).map(watch, convnet(), IMAGES, torch.arange(20), 0)
    assert seen == [(8, 1, 8, 8)] * 3
    assert rows["x"].shape == (20,)


def test_the_noise_of_a_tile_is_a_function_of_the_seed_and_its_number() -> None:
    first = Local(8).map(noise, convnet(), IMAGES, torch.arange(20), 5)["noise"]
    assert torch.equal(first[8:16], torch.rand(8, 3, generator=generator(5, "tile", 1)))
    assert torch.equal(first[16:], torch.rand(8, 3, generator=generator(5, "tile", 2))[:4])
    assert torch.equal(first, Local(8).map(noise, convnet(), IMAGES, torch.arange(20), 5)["noise"])
    assert not torch.equal(first, Local(8).map(noise, convnet(), IMAGES, torch.arange(20), 6)["noise"])
    shorter = Local(8).map(noise, convnet(), IMAGES, torch.arange(13), 5)["noise"]
    assert torch.equal(shorter, first[:13])  # padding draws, too: it is invisible


def test_no_index_gives_no_row_of_the_right_shape() -> None:
    rows = Local(8).map(logits, convnet(), IMAGES, torch.tensor([], dtype=torch.int64), 0)
    assert rows["logits"].shape == (0, 4)


def test_the_model_is_looked_at_in_eval_mode_without_gradients_and_given_back() -> None:
    model = convnet().train()
    model[3].eval()
    before = condition(model)

    def watch(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        return {"logits": model(batch)}

    rows = Local(8).map(watch, model, IMAGES, torch.arange(20), 0)
    assert not rows["logits"].requires_grad
    assert condition(model) == before


def test_a_function_may_switch_gradients_on_for_itself() -> None:
    def slope(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        with torch.enable_grad():
            moved = batch.requires_grad_()
            (gradient,) = torch.autograd.grad(model(moved).sum(), moved)
        return {"slope": gradient.flatten(1).norm(dim=1)}

    model = convnet().train()
    before = condition(model)
    assert (Local(8).map(slope, model, IMAGES, torch.arange(20), 0)["slope"] > 0).all()
    assert condition(model) == before


def test_the_model_is_given_back_when_the_function_raises() -> None:
    def fail(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        raise ZeroDivisionError

    model = convnet().train()
    before = condition(model)
    with pytest.raises(ZeroDivisionError):
        Local(8).map(fail, model, IMAGES, torch.arange(20), 0)
    assert condition(model) == before


def test_a_function_that_loses_rows_is_refused() -> None:
    def mean(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        return {"mean": batch.mean((0, 1))}

    with pytest.raises(ContractError, match="returned 8 rows of 'mean' for a tile of 5"):
        Local(5).map(mean, convnet(), IMAGES, torch.arange(20), 0)


def test_a_tile_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="a tile holds at least one image; 0 came"):
        Local(0)
