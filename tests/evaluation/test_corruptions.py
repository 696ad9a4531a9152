"""Corruptions: each by hand or against another implementation, the laws that all obey, and what is refused."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from robal.errors import InputError
from robal.evaluation import clean
from robal.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, mean_accuracy, under_corruptions
from robal.seeds import generator
from small_models import Counting, condition, convnet, linear

EVERY_KIND = pytest.mark.parametrize("kind", CORRUPTIONS)


def smooth(count: int, channels: int, height: int, width: int) -> Tensor:
    """Pictures with structure, in [0, 1]: random waves."""
    draw = generator(0, "waves", channels, height, width)
    turns, phase = torch.rand((2, count, channels, 2), generator=draw)
    y, x = torch.linspace(0, 6, height)[:, None], torch.linspace(0, 6, width)
    waves = [
        torch.sin((1 + turns[..., i, None, None]) * axis + 6 * phase[..., i, None, None])
        for i, axis in ((0, y), (1, x))
    ]
    return (0.5 + 0.25 * (waves[0] + waves[1])).clamp(0, 1)


def test_the_eight_kinds_are_there() -> None:
    assert CORRUPTIONS == (
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "gaussian_blur",
        "contrast",
        "brightness",
        "jpeg_compression",
        "shift",
    )


@EVERY_KIND
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 48), (1, 5, 9), (3, 1, 1)])
def test_any_size_grey_and_rgb_stays_float_images_of_its_shape(kind: str, shape: tuple[int, int, int]) -> None:
    images = smooth(3, *shape)
    before = images.clone()
    for severity in SEVERITIES:
        moved = corrupt(images, kind, severity, generator(0))
        assert moved.shape == images.shape
        assert moved.dtype == torch.float32
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert torch.equal(images, before)
    assert corrupt(images[:0], kind, 3, generator(0)).shape == (0, *shape)


@EVERY_KIND
def test_severity_zero_is_the_identity_in_a_new_tensor(kind: str) -> None:
    images = smooth(3, 3, 16, 16)
    same = corrupt(images, kind, 0, generator(0))
    assert torch.equal(same, images)
    assert same.data_ptr() != images.data_ptr()


@EVERY_KIND
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_the_distance_to_the_original_grows_with_severity(kind: str, shape: tuple[int, int, int]) -> None:
    images = smooth(40, *shape)
    distances = [
        float((corrupt(images, kind, severity, generator(1)) - images).flatten(1).norm(dim=1).mean())
        for severity in (0, *SEVERITIES)
    ]
    assert distances[0] == 0
    assert all(near < far for near, far in pairwise(distances))


@EVERY_KIND
def test_equal_generators_give_equal_images_and_chance_enters_noise_and_shift_only(kind: str) -> None:
    images = smooth(8, 3, 16, 16)
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        first = corrupt(images, kind, 3, generator(0))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(corrupt(images, kind, 3, generator(0)), first)
    random = kind.endswith("noise") or kind == "shift"
    assert torch.equal(corrupt(images, kind, 3, generator(1)), first) is not random


def test_gaussian_noise_has_the_spread_of_its_level_and_is_clipped() -> None:
    grey = torch.full((4, 1, 100, 100), 0.5)
    for severity, spread in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        noise = corrupt(grey, "gaussian_noise", severity, generator(0)) - 0.5
        assert float(noise.std()) == pytest.approx(spread, rel=0.03)  # 40,000 draws: a standard error of 0.35 %
        assert abs(float(noise.mean())) < 4 * spread / 200
    black = corrupt(torch.zeros(4, 1, 100, 100), "gaussian_noise", 5, generator(0))
    assert float((black == 0).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_shot_noise_counts_photons() -> None:
    for severity, photons in zip(SEVERITIES, (500, 250, 100, 75, 50), strict=True):
        seen = corrupt(torch.full((4, 1, 100, 100), 0.25), "shot_noise", severity, generator(0))
        counts = seen * photons
        assert torch.allclose(counts, counts.round(), atol=1e-3)
        assert float(seen.mean()) == pytest.approx(0.25, rel=0.02)
        assert float(seen.std()) == pytest.approx(math.sqrt(0.25 / photons), rel=0.03)
    assert not corrupt(torch.zeros(2, 1, 8, 8), "shot_noise", 5, generator(0)).any()


def test_impulse_noise_hits_its_share_half_with_salt_and_leaves_the_rest() -> None:
    grey = torch.full((2, 3, 100, 100), 0.5)
    hit_before = torch.zeros_like(grey, dtype=torch.bool)
    for severity, share in zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True):
        moved = corrupt(grey, "impulse_noise", severity, generator(0))
        hit = moved != 0.5
        assert float(hit.double().mean()) == pytest.approx(share, rel=0.1)
        assert set(moved[hit].tolist()) == {0.0, 1.0}
        assert float(moved[hit].mean()) == pytest.approx(0.5, abs=0.07)
        assert not (hit_before & ~hit).any()
        hit_before = hit


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.4), (3, 0.7), (5, 1.0)])
def test_blur_agrees_with_scipy_and_grows_with_the_picture(severity: int, sigma: float) -> None:
    for side in (32, 64):
        images = torch.rand(2, 3, side, side + 7, generator=generator(0))
        scale = sigma * side / 32
        wanted = gaussian_filter(images.numpy(), (0, 0, scale, scale), mode="nearest", truncate=4.0)
        assert np.allclose(corrupt(images, "gaussian_blur", severity, generator(0)).numpy(), wanted, atol=1e-5)


def test_contrast_by_hand_keeps_the_mean_of_each_channel() -> None:
    image = torch.tensor([[0.0, 0.8], [0.1, 0.3]]).view(1, 2, 1, 2)
    moved = corrupt(image, "contrast", 2, generator(0))
    assert torch.allclose(moved, torch.tensor([[0.2, 0.6], [0.15, 0.25]]).view(1, 2, 1, 2))


def test_brightness_agrees_with_a_conversion_to_hsv() -> None:
    images = torch.rand(2, 3, 9, 9, generator=generator(0))
    images[0, :, 0, 0] = 0  # black becomes grey
    hsv = rgb_to_hsv(images.permute(0, 2, 3, 1).double().numpy())
    for severity, more in zip(SEVERITIES, (0.05, 0.1, 0.15, 0.2, 0.3), strict=True):
        brighter = np.concatenate([hsv[..., :2], np.minimum(hsv[..., 2:] + more, 1)], -1)
        moved = corrupt(images, "brightness", severity, generator(0)).permute(0, 2, 3, 1).numpy()
        assert np.allclose(moved, hsv_to_rgb(brighter), atol=1e-6)
        assert np.allclose(moved[0, 0, 0], more)
    grey = corrupt(torch.tensor([0.0, 0.5, 0.9]).view(1, 1, 1, 3), "brightness", 4, generator(0))
    assert torch.allclose(grey, torch.tensor([0.2, 0.7, 1.0]).view(1, 1, 1, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_writes_at_that_quality(channels: int) -> None:
    images = smooth(2, channels, 24, 40)
    moved = corrupt(images, "jpeg_compression", 4, generator(0))
    for image, got in zip(images, moved, strict=True):
        file = io.BytesIO()
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(pixels).save(file, format="JPEG", quality=50)
        wanted = np.asarray(Image.open(file)).reshape(24, 40, channels) / 255
        assert np.allclose(got.permute(1, 2, 0).numpy(), wanted, atol=1e-6)
    assert 0 < float((moved - images).abs().mean()) < 0.03


def test_shift_moves_the_whole_picture_and_repeats_its_edge() -> None:
    """At 28 × 28, severity 3 is three pixels; a point goes to one of eight places three steps away."""
    images = torch.zeros(200, 1, 28, 28)
    images[:, :, 14, 10] = 1.0
    places = corrupt(images, "shift", 3, generator(0)).nonzero()
    assert len(places) == 200
    moves = {(y - 14, x - 10) for _, _, y, x in places.tolist()}
    assert moves == {(y, x) for y in (-3, 0, 3) for x in (-3, 0, 3)} - {(0, 0)}
    ramp = torch.linspace(0, 1, 28).expand(50, 2, 28, 28)
    for before, after in zip(ramp, corrupt(ramp.contiguous(), "shift", 1, generator(0)), strict=True):
        right = torch.cat([before[..., :1], before[..., :-1]], -1)
        left = torch.cat([before[..., 1:], before[..., -1:]], -1)
        assert any(torch.equal(after, moved) for moved in (before, left, right))


def test_accuracy_under_a_corruption_by_hand() -> None:
    """The class of the brighter pixel after 0.55 is taken away: contrast moves 0.6 below that at severity 2, not 1."""
    above = linear([[0.0, 0.0], [10.0, 0.0]], [0.0, -5.5])
    images, labels = torch.tensor([[0.65, 0.35], [0.95, 0.05]]).view(2, 1, 1, 2), torch.tensor([1, 1])
    table = under_corruptions(above, images, labels, 0, kinds=["contrast"])
    # 0.5 + share · 0.15 and 0.5 + share · 0.45 for the shares 1, 0.75, 0.5, 0.4, 0.3, 0.15 against 0.55
    assert table == {"contrast": {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 0.5, 5: 0.5}}
    assert mean_accuracy(table) == pytest.approx(0.8)


def test_a_real_model_loses_accuracy_under_corruptions(lenet: nn.Module, unseen: tuple[Tensor, Tensor]) -> None:
    table = under_corruptions(lenet, *unseen, seed=0)
    assert tuple(table) == CORRUPTIONS
    for levels in table.values():
        assert list(levels) == [0, 1, 2, 3, 4, 5]
        assert levels[0] == clean(lenet, *unseen).accuracy == 1
    assert table["shift"][5] < table["shift"][1] < 1
    every = [accuracy for levels in table.values() for severity, accuracy in levels.items() if severity]
    assert mean_accuracy(table) == pytest.approx(sum(every) / 40)
    assert 0.5 < mean_accuracy(table) < 1


def test_accuracies_depend_on_the_seed_and_not_on_batches_bytes_or_company() -> None:
    model = convnet(size=12)
    stored = (255 * smooth(260, 1, 12, 12)).to(torch.uint8)
    labels = clean(model, stored, torch.zeros(260, dtype=torch.int64)).labels + torch.arange(260) % 4
    first = under_corruptions(model, stored, labels, 0)
    assert under_corruptions(model, stored.float() / 255, labels, 0, batch_size=50) == first
    alone = under_corruptions(model, stored, labels, 0, kinds=["shift", "gaussian_noise", "shift"])
    assert alone == {kind: first[kind] for kind in ("shift", "gaussian_noise")}
    others = [under_corruptions(model, stored, labels, seed, kinds=["shift"])["shift"] for seed in (1, 2, 3)]
    assert any(other != alone["shift"] for other in others)


def test_every_image_has_noise_of_its_own_and_a_higher_severity_the_same_noise_stronger() -> None:
    model, seen = convnet(), []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0] - 0.5))
    grey, labels = torch.full((300, 1, 8, 8), 0.5), torch.zeros(300, dtype=torch.int64)
    under_corruptions(model, grey, labels, 0, kinds=["gaussian_noise"])
    noise = [part for part in seen if part.any()]  # 250 images at five severities, then the other 50
    assert [len(part) for part in noise] == [250] * 5 + [50] * 5
    assert len(torch.cat([noise[0], noise[5]]).flatten(1).unique(dim=0)) == 300
    assert torch.allclose(noise[4] / 0.10, noise[0] / 0.04, atol=1e-4)


def test_the_model_and_the_images_come_back_as_they_were() -> None:
    model, images = convnet().train(), torch.rand(6, 1, 8, 8)
    before, pixels = condition(model), images.clone()
    counting = Counting(model)
    under_corruptions(counting, images, torch.arange(6) % 4, 0, kinds=["contrast"], batch_size=4)
    assert condition(model) == before
    assert torch.equal(images, pixels)
    assert max(counting.passes) == 4


@pytest.mark.parametrize(
    ("images", "kind", "severity", "message"),
    [
        (torch.ones(1, 1, 4, 4) * 2, "contrast", 1, r"must lie in \[0, 1\]"),
        (torch.ones(1, 1, 4, 4) * math.nan, "contrast", 1, "NaN"),
        (torch.ones(1, 4, 4), "contrast", 1, r"shape \[N, C, H, W\]"),
        (torch.ones(1, 1, 4, 4, dtype=torch.uint8), "contrast", 1, "take float32 images.*uint8"),
        (torch.ones(1, 1, 4, 4), "contrasts", 1, "unknown corruption 'contrasts'; did you mean 'contrast'"),
        (torch.ones(1, 1, 4, 4), "contrast", 6, "whole number from 0 to 5; 6 came"),
        (torch.ones(1, 1, 4, 4), "contrast", -1, "whole number from 0 to 5; -1 came"),
        (torch.ones(1, 1, 4, 4), "contrast", 1.5, "whole number from 0 to 5; 1.5 came"),
        (torch.ones(1, 2, 4, 4), "jpeg_compression", 1, "grey and RGB images; these have 2 channels"),
    ],
)
def test_what_cannot_be_right_is_refused(images: Tensor, kind: str, severity: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(images, kind, severity, generator(0))


def test_no_images_and_no_corruptions_are_refused() -> None:
    with pytest.raises(InputError, match="there is no image to evaluate on"):
        under_corruptions(convnet(), torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), 0)
    with pytest.raises(InputError, match="no corruption to take the mean over"):
        mean_accuracy(under_corruptions(convnet(), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), 0, kinds=[]))
