"""What choosing costs beyond one forward pass over the pool: uncertainty functions, MCP and DRE on 60,000 images.

The forward pass is a plain loop over uint8 images in batches of 256; each method is timed right after one, in pairs.

    python benchmarks/scoring.py [--images 60000] [--pairs 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from robal.acquisition import DRE, MCP, DeepGini, LeastConfidence, Margin, MaxEntropy, select
from robal.networks import LeNet5, channels_last, frozen


def forward_pass(model: nn.Module, images: torch.Tensor) -> None:
    """Logits of all images, as anybody would compute them."""
    with frozen(model), torch.no_grad():
        for part in images.split(256):
            model(part.float().div_(255))


def main() -> None:
    """Print the median ratio of each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(256, (arguments.images, 1, 28, 28), dtype=torch.uint8, generator=noise)
    model = channels_last(LeNet5()((1, 28, 28), 10, 0))
    print(f"{arguments.images} images, LeNet5, {arguments.threads} thread(s), torch {torch.__version__}")
    print(f"{'method':16} {'forward pass':>12} {'select 200':>11}   ratio (min, max)")
    forward_pass(model, images)
    for method in (MaxEntropy(), DeepGini(), LeastConfidence(), Margin(), MCP(), DRE()):
        passes, whole = [], []
        for _ in range(arguments.pairs):
            started = time.perf_counter()
            forward_pass(model, images)
            middle = time.perf_counter()
            select(method, model, images, 200)
            passes.append(middle - started)
            whole.append(time.perf_counter() - middle)
        ratios = [ours / plain for ours, plain in zip(whole, passes, strict=True)]
        print(
            f"{type(method).__name__:16} {statistics.median(passes):10.2f} s {statistics.median(whole):9.2f} s   "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}, {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
