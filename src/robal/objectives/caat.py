"""CAAT: each example trains on its adversary or its anti-adversary, in shares that a meta set teaches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from robal.attacks import ascend, crafting
from robal.errors import InputError
from robal.images import unit
from robal.objectives.awp import Forward
from robal.objectives.class_costs import ClassCosts, Multipliers, multipliers_of
from robal.objectives.objective import Batch, Lesson, cross_entropy
from robal.objectives.trades import kl_divergence
from robal.objectives.weighing import FEATURES, Learned, Weighing
from robal.pool import Examples
from robal.threats import Linf, Threat

CLASS_LOSS = 1  # which of the features
_TILE = 500


class Companion(nn.Module):
    """All that CAAT learns beside the model.

    Args:
        multipliers: of the classes.
        learned: what divides the examples.
    """

    sums: Tensor
    counts: Tensor
    means: Tensor
    steps: Tensor

    def __init__(self, multipliers: Multipliers, learned: nn.Module) -> None:
        super().__init__()
        classes, device = len(multipliers.natural), multipliers.natural.device
        self.multipliers, self.learned = multipliers, learned.to(device)
        self.normaliser = nn.BatchNorm1d(FEATURES, affine=False, device=device).eval()
        self.register_buffer("sums", torch.zeros(classes, device=device))  # of the losses in this epoch, by class
        self.register_buffer("counts", torch.zeros(classes, device=device))
        self.register_buffer("means", torch.full((classes,), math.log(classes), device=device))  # of the last epoch
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # over all epochs and rounds

    def features(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, 6]: loss, mean loss of the class in the last epoch, ‖onehot − p‖₂, p_y − max p_other, Σ p log p, the
        class's share of the examples."""
        logits = logits.detach()
        log_probs = logits.log_softmax(1)
        probs, wanted = log_probs.exp(), F.one_hot(labels, logits.shape[1]).bool()
        own, other = probs[wanted], probs.masked_fill(wanted, -1.0).amax(1)
        return torch.stack(
            [
                -log_probs[wanted],
                self.means[labels],
                (wanted.to(probs) - probs).norm(dim=1),
                own - other,
                (probs * log_probs).sum(1),
                self.multipliers.proportions[labels],
            ],
            1,
        )

    @torch.no_grad()
    def note(self, features: Tensor, labels: Tensor) -> None:
        """Take the features of a batch into the statistics by which later ones are normalised."""
        self.sums.index_add_(0, labels, features[:, 0])
        self.counts += labels.bincount(minlength=len(self.counts))
        if len(labels) > 1:
            tracked = self.normaliser.num_batches_tracked
            self.normaliser.momentum = 0.1 if tracked is not None and int(tracked) else 1.0
            self.normaliser.train()(features)
            self.normaliser.eval()

    @torch.no_grad()
    def turn_over(self) -> None:
        """An epoch begins: its classes' losses are those of the last one. A class that was not seen keeps its own.

        That feature is normalised by what it is now: by running statistics of the last epoch, in which it was another
        constant, it would be hundreds of deviations away and decide every share.
        """
        self.means.copy_(torch.where(self.counts > 0, self.sums / self.counts.clamp_min(1), self.means))
        self.sums.zero_()
        self.counts.zero_()
        often, mean, variance = self.multipliers.proportions, self.normaliser.running_mean, self.normaliser.running_var
        assert mean is not None
        assert variance is not None
        mean[CLASS_LOSS] = (often * self.means).sum()
        variance[CLASS_LOSS] = (often * (self.means - mean[CLASS_LOSS]) ** 2).sum()


@dataclass(frozen=True)
class CAAT:
    """(1 − b)[w₀ CE(f(x), y) + β w₁ KL(f(x) ‖ f(x'))] + b CE(f(x''), y), with b in [0, 1] for each example.

    x' climbs the KL, as in TRADES; x'', the anti-adversary, descends CE(f(x''), y); both from x + 0.001 · N(0, 1), in
    one batch, the model in eval mode. b follows from six features ζ of the example (`Companion.features`) by
    `weighing`. w₀, w₁ and the radius follow from the class by `costs`, and the radius from the example too: with
    g = ‖onehot(y) − p‖₂ and its running mean ḡ it is multiplied by clip(1 + gradient_bound · (ḡ − g), ½, 2).

    A learned weighing is taught before every so many steps: the model is taken one step of the trainer's optimiser
    ahead, W(Ω), on the batch; the loss of W(Ω) on a batch of the meta set, which is w₀ CE + β w₁ KL + γ CE(f(x''), y),
    the mean over classes of their means, is differentiated with respect to the weights Ω, and Ω takes a step of Adam.
    ζ and all crafted images are constants.

    An example whose share is 0 or 1 needs one crafted image; with a learned weighing two are charged to the budget all
    the same, so that at a low temperature it buys fewer steps than it might.

    Args:
        beta: weight of the stability term, ≥ 0.
        steps: gradient steps of the crafting.
        step_size: in units of the threat's norm; None: 2.5 · eps / steps. It grows and shrinks with the radius.
        weighing: divides the examples.
        costs: of the classes; None: they cost the same.
        gradient_bound: how far the radius follows the example, ≥ 0.
        meta_anti: γ, of anti-adversaries in the meta loss, ≥ 0; 0: the meta loss is that of TRADES.
        threat: None: the plan's; alone, Linf(8/255).

    Raises:
        InputError: for settings out of range.

    Source: Zhou, Yang and Wu, AAAI 2023, arXiv 2304.12550, and its released code.

    Differs from the released code: ζ's mean loss of the class is kept up to date (there it stays 5 for ever); the
    weights of classes in the meta loss are those of the meta batch (there, of the training batch); no gradient flows
    through ζ; features are normalised by statistics of earlier batches, and the class weights over all examples, so
    that the images of a batch do not weigh on each other; the temperature is 1 (there 0.001, at which nearly no example
    has a gradient); images are not normalised before they are attacked; steps grow with the radius, and the errors of
    classes are measured under the threat of training. There the meta set is balanced; here its loss weighs classes
    evenly, beside w₀ and w₁. The bound by the gradient is named in the paper and was not released: its formula is ours.
    """

    beta: float = 1.5
    steps: int = 10
    step_size: float | None = None
    weighing: Weighing = Learned()
    costs: ClassCosts | None = ClassCosts()
    gradient_bound: float = 0.0
    meta_anti: float = 1.0
    threat: Threat | None = None

    def __post_init__(self) -> None:
        said = (self.beta, self.gradient_bound, self.meta_anti)
        if not all(0 <= one < math.inf for one in said) or self.steps < 1:
            raise InputError(
                "CAAT needs beta, gradient_bound and meta_anti >= 0 and steps >= 1; "
                f"{', '.join(map(str, said))} and {self.steps} came"
            )

    @property
    def needs_meta(self) -> bool:
        return self.costs is not None or self.weighing.every > 0

    @property
    def passes(self) -> int:
        every, both = self.weighing.every, 2 * self._passes + 6  # the batch, differentiated twice, and a meta batch
        return self._passes + (round(both / every) if every else 0)

    @property
    def _passes(self) -> int:
        return self.weighing.sides * (self.steps + 1) + 1

    @property
    def meta_passes(self) -> int:
        return 0 if self.costs is None else self.costs.meta_passes

    def begin(self, model: nn.Module, examples: Examples) -> Companion:
        return Companion(multipliers_of(model, examples), self.weighing.build())

    def learn(
        self, model: nn.Module, companion: nn.Module, batch: Batch, lesson: Lesson, generator: torch.Generator
    ) -> None:
        """Costs of the classes once an epoch, the weighing every so many steps."""
        assert isinstance(companion, Companion)
        if lesson.place == 0:
            companion.turn_over()
            if self.costs is not None:
                threat = self.threat or Linf()
                self.costs.update(companion.multipliers, model, threat, lesson.images, lesson.labels, generator)
        due = self.weighing.every and int(companion.steps) % self.weighing.every == 0
        companion.steps += 1
        if due:
            self.weighing.teach(companion.learned, self.meta_gradient(model, companion, batch, lesson, generator))

    def __call__(
        self, model: nn.Module, companion: nn.Module | None, batch: Batch, generator: torch.Generator
    ) -> Tensor:
        assert isinstance(companion, Companion)
        crafted = self._craft(model, companion, batch, generator)
        companion.note(crafted.features, batch.labels)
        return self._losses(model, companion, batch, crafted, crafted.shares)

    def distrust(self, model: nn.Module, companion: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """[N] float32 in [0, 1], on the CPU: the anti-adversary's share of each image at rest, under its label.

        The higher it is, the less the label is believed.
        """
        assert isinstance(companion, Companion)
        device, found = companion.means.device, []
        for tile in torch.arange(len(labels)).split(_TILE):
            inputs, said = unit(images[tile].to(device)), labels[tile].to(device)
            with crafting(model, inputs) as twin, torch.no_grad():
                features = companion.features(twin(inputs), said)
                found.append(self.weighing.shares(companion.learned, features, companion.normaliser(features)).cpu())
        return torch.cat(found) if found else torch.empty(0)

    def meta_gradient(
        self, model: nn.Module, companion: Companion, batch: Batch, lesson: Lesson, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """By name, how the meta loss one step ahead changes with each of the weighing's parameters.

        With losses Σ (1 − bᵢ) Aᵢ + bᵢ Bᵢ it is Σ ∂bᵢ/∂Ω · ⟨∇_W (Bᵢ − Aᵢ), u⟩, u the meta loss's derivative by the
        gradient that the step was taken with: one double backward pass, for the bᵢ alone.
        """
        crafted = self._craft(model, companion, batch, generator, both=True)
        shares = crafted.shares.clone().requires_grad_()
        weights = {
            name: one.detach().clone().requires_grad_(one.requires_grad) for name, one in model.named_parameters()
        }
        trained = [name for name, one in weights.items() if one.requires_grad]

        def at(weights: dict[str, Tensor]) -> Forward:
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            return lambda images: functional_call(model, weights | buffers, (images,))

        losses = self._losses(at(weights), companion, batch, crafted, shares)
        chosen = [weights[name] for name in trained]
        found = torch.autograd.grad((losses * batch.weights).mean(), chosen, create_graph=True, allow_unused=True)
        pairs = [(name, gradient) for name, gradient in zip(trained, found, strict=True) if gradient is not None]
        leaves = {name: gradient.detach().requires_grad_() for name, gradient in pairs}
        ahead = lesson.step({name: weight.detach() for name, weight in weights.items()}, leaves)

        order = torch.randperm(len(lesson.labels), generator=generator, device=generator.device)
        drawn = order[: len(batch.labels)].to(lesson.labels.device)
        if len(drawn) == 1:  # twice is the same mean, and BatchNorm wants two
            drawn = drawn.repeat(2)
        inputs = unit(lesson.images[drawn].to(batch.inputs.device))
        wanted = lesson.labels[drawn].to(batch.labels.device)
        meta = Batch(inputs, wanted, evenly_by_class(wanted))
        with _holding(model, ahead):
            beside = self._craft(model, companion, meta, generator, both=True)
        anti = self.meta_anti / (1 + self.meta_anti)
        evenly = torch.full((len(drawn),), anti, device=inputs.device)
        losses = self._losses(at(ahead), companion, meta, beside, evenly)
        loss = (1 + self.meta_anti) * (losses * meta.weights).mean()
        ascent = torch.autograd.grad(loss, [leaves[name] for name, _ in pairs])
        along = sum((gradient * up).sum() for (_, gradient), up in zip(pairs, ascent, strict=True))
        assert isinstance(along, Tensor)
        (slopes,) = torch.autograd.grad(along, shares)

        scores = {name: one.detach().clone().requires_grad_() for name, one in companion.learned.named_parameters()}
        again = self.weighing.shares(
            lambda features: functional_call(companion.learned, scores, (features,)),
            crafted.features,
            companion.normaliser(crafted.features),
        )
        return dict(zip(scores, torch.autograd.grad(again, list(scores.values()), slopes), strict=True))

    def _craft(
        self, model: nn.Module, companion: Companion, batch: Batch, generator: torch.Generator, both: bool = False
    ) -> _Crafted:
        """Divide the examples and craft what they need; with `both`, each gets both its images."""
        threat, inputs, labels = self.threat or Linf(), batch.inputs, batch.labels
        noise = torch.randn(inputs.shape, generator=generator, device=generator.device).to(inputs.device)
        with crafting(model, inputs) as twin:
            with torch.no_grad():
                logits = twin(inputs)
                features = companion.features(logits, labels)
                normalised = companion.normaliser(features)
                shares = self.weighing.shares(companion.learned, features, normalised)
            adversaries, antis = (
                (torch.ones_like(shares) if both else side).nonzero().flatten() for side in (1 - shares, shares)
            )
            rows, count = torch.cat([adversaries, antis]), len(adversaries)
            eps = threat.eps * self._radii(companion, features, labels)[rows]
            step = 2.5 * threat.eps / self.steps if self.step_size is None else self.step_size

            def climbed(moved: Tensor) -> Tensor:
                answers = twin(moved)
                return torch.cat(
                    [
                        kl_divergence(logits[adversaries], answers[:count]),
                        F.cross_entropy(answers[count:], labels[antis], reduction="none"),
                    ]
                )

            moved = ascend(
                climbed,
                inputs[rows],
                threat,
                steps=self.steps,
                step_size=step * eps / threat.eps if threat.eps else step,
                direction=torch.where(torch.arange(len(rows), device=rows.device) < count, 1.0, -1.0),
                eps=eps,
                start=(inputs + 0.001 * noise)[rows],
            )
        return _Crafted(features, shares, moved, adversaries, antis)

    def _radii(self, companion: Companion, features: Tensor, labels: Tensor) -> Tensor:
        """[B], in units of eps."""
        radii = torch.ones_like(features[:, 0])
        if self.costs is not None:
            radii = self.costs.radii(companion.multipliers, labels)
        if self.gradient_bound and bool(companion.normaliser.num_batches_tracked):
            mean = companion.normaliser.running_mean
            assert mean is not None
            radii = radii * (1 + self.gradient_bound * (mean[2] - features[:, 2])).clamp(0.5, 2.0)
        return radii

    def _losses(
        self, forward: Forward, companion: Companion, batch: Batch, crafted: _Crafted, shares: Tensor
    ) -> Tensor:
        """[B], differentiable in the weights that `forward` has and in the shares."""
        natural, stable = torch.ones_like(shares), torch.ones_like(shares)
        if self.costs is not None:
            natural, stable = self.costs.weights(companion.multipliers, batch.labels)
        rows, antis, count = crafted.adversaries, crafted.antis, len(crafted.adversaries)
        logits, moved = forward(batch.inputs), forward(crafted.moved)  # as many as the batch has, or more: BatchNorm
        losses = (1 - shares) * natural * cross_entropy(logits, batch)
        divergence = kl_divergence(logits[rows], moved[:count])
        losses = losses.index_add(0, rows, self.beta * ((1 - shares) * stable)[rows] * divergence)
        wanted = batch.labels if batch.targets is None else batch.targets
        eased = F.cross_entropy(moved[count:], wanted[antis], reduction="none")
        return losses.index_add(0, antis, shares[antis] * eased)


@dataclass(frozen=True, eq=False)
class _Crafted:
    """A batch's features [B, 6] and shares [B]; then [A + N] crafted images, of which examples the A adversaries are,
    and of which the N anti-adversaries."""

    features: Tensor
    shares: Tensor
    moved: Tensor
    adversaries: Tensor
    antis: Tensor


def evenly_by_class(labels: Tensor) -> Tensor:
    """[B] weights of mean 1, by which each class that is there weighs as much as any other.

    >>> evenly_by_class(torch.tensor([0, 0, 0, 2]))
    tensor([0.6667, 0.6667, 0.6667, 2.0000])
    """
    counts = labels.bincount()
    return len(labels) / (counts.count_nonzero() * counts[labels])


@contextmanager
def _holding(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The model has these weights inside the block, and its own afterwards."""
    parameters = dict(model.named_parameters())
    own = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                parameters[name].copy_(weight)
        yield
    finally:
        with torch.no_grad():
            for name, weight in own.items():
                parameters[name].copy_(weight)
