from __future__ import annotations

import hashlib

import numpy as np
import torch

from robal.seeds import generator, stream


def test_a_stream_is_the_hash_of_its_name() -> None:
    digest = hashlib.blake2b(b"7\x1ftrain\x1f3", digest_size=8).digest()
    assert stream(7, "train", 3) == int.from_bytes(digest, "big") // 2


def test_streams_never_change_because_saved_runs_resume_on_them() -> None:
    assert stream(0) == 4761921975702974394
    assert stream(0, "order", 1) == 4739946833832999988


def test_any_change_of_any_part_gives_another_stream() -> None:
    names = [
        (0,),
        (1,),
        (0, "a"),
        (0, "b"),
        (0, "a", 1),
        (0, "a", 2),
        (0, "a1"),
        (0, "ab", "c"),
        (0, "a", "bc"),
        (0, 0),
    ]
    assert len({stream(*name) for name in names}) == len(names)


def test_streams_are_legal_seeds_and_take_any_whole_number() -> None:
    assert all(0 <= stream(seed, "x") < 2**63 for seed in range(-50, 50))
    assert stream(np.int64(3), "x") == stream(torch.tensor(3), "x") == stream(3, "x")  # type: ignore[arg-type]


def test_generators_of_one_name_draw_the_same_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (torch.rand(4, generator=generator(0, "x", n)) for n in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
