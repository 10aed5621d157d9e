"""Classifiers of identities on the features of a backbone (SLSR section 4.3, and its release).

Retrieval uses the backbone's features, and no head. The paper adds "an extra linear layer, i.e. a noise
layer" that adapts the outputs to the labels of generated images. It is read in two ways here, or left out:

- `bottleneck`: the release's ClassBlock, linear - batch norm - leaky ReLU - dropout, before the classifier;
- `transition`: a K x K matrix on the classifier's softmax, whose row i says as which classes those of class
  i are labelled, so that its rows are distributions;
- `none`: the classifier alone.

The dropout's coins are an argument. Drawn for the global batch by `Head.draw`, from a generator that is keyed
by seed and step, they do not depend on the number of workers. Neither does the rest, in either of two ways:

- every worker gathers the features of the batch and computes all of it alike, as MAR does with its agents:
  the head has the norms of a solo group then, and its gradient needs no reduction;
- each worker takes its rows of features and coins, in whole ghost groups, as it does in the backbone.
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raid.models.batch_norm import NormFactory

NoiseLayer = Literal["bottleneck", "transition", "none"]


class ClassBlock(nn.Module):
    """Linear - batch norm - leaky ReLU (.1) - dropout: (B, D) to (B, width)."""

    def __init__(self, num_features: int, norm: NormFactory, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(num_features, width), norm(width)
        self.width, self.dropout = width, dropout
        nn.init.kaiming_normal_(self.linear.weight, mode="fan_out")
        nn.init.zeros_(self.linear.bias)
        nn.init.normal_(self.norm.weight, mean=1.0, std=0.02)

    def forward(self, features: Tensor, kept: Tensor | None) -> Tensor:
        """Return rows (B, width); `kept` (B, width) bool says in training which of their entries stay."""
        rows = functional.leaky_relu(self.norm(self.linear(features)), 0.1)
        if not self.training:
            return rows
        assert kept is not None, "in training, dropout needs its coins: Head.draw"
        return rows * kept / (1 - self.dropout)


class Transition(nn.Module):
    """A row-stochastic K x K matrix on probabilities: q_j = sum_i p_i T_ij.

    T is the softmax of the rows of a parameter, so no step leaves the simplex. It starts as the identity but
    for `slip`, spread over the other classes: an exact 0 could not be left, and its log-likelihood has a
    gradient without bound. Memory: K * K numbers, and as many again for T, for each gradient and for each
    moment of the optimiser.
    """

    def __init__(self, num_classes: int, *, slip: float = 1e-3) -> None:
        super().__init__()
        others = max(num_classes - 1, 1)
        self.logits = nn.Parameter(torch.eye(num_classes) * math.log((1 - slip) / slip * others))

    def matrix(self) -> Tensor:
        """Return T (K, K); its rows sum to 1."""
        return self.logits.softmax(dim=1)

    def forward(self, log_probabilities: Tensor) -> Tensor:
        """Return log q (B, K) of log p (B, K)."""
        mixed = log_probabilities.exp() @ self.matrix().to(log_probabilities.dtype)
        tiny = torch.finfo(mixed.dtype).tiny  # what underflows has a large loss, not an infinite one
        return mixed.clamp_min(tiny).log()


class Head(nn.Module):
    """Features (B, D) -> log-probabilities of the classes (B, K), float32 at least."""

    def __init__(
        self, block: ClassBlock | None, classifier: nn.Linear, transition: Transition | None
    ) -> None:
        super().__init__()
        self.block, self.classifier, self.transition = block, classifier, transition

    def draw(self, num_rows: int, generator: np.random.Generator) -> Tensor | None:
        """Draw the dropout's coins of a batch, (B, width) bool on the CPU; None for a head without dropout.

        Those of row i depend on the generator and i alone.
        """
        if self.block is None:
            return None
        return torch.from_numpy(generator.random((num_rows, self.block.width)) >= self.block.dropout)

    def forward(self, features: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return log-probabilities (B, K).

        Args:
            features: (B, D), as the backbone pools them: not normalised.
            kept: their rows of what `draw` returned, on the features' device; not looked at in evaluation.
        """
        rows = features if self.block is None else self.block(features, kept)
        logits = self.classifier(rows)
        logs = functional.log_softmax(logits, dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return logs if self.transition is None else self.transition(logs)


def build(
    noise_layer: NoiseLayer,
    *,
    num_features: int,
    num_classes: int,
    norm: NormFactory,
    seed: int,
    width: int = 512,
) -> Head:
    """Build a head with random weights; the same seed gives the same ones.

    Args:
        noise_layer: see the module's docstring.
        num_features: D.
        num_classes: K.
        norm: makes the bottleneck's batch norm (`batch_norm.norm_factory`).
        seed: of the initial weights; the global generators are left as they were.
        width: of the bottleneck.

    Raises:
        ValueError: an unknown noise layer.
    """
    if noise_layer not in get_args(NoiseLayer):
        raise ValueError(f"noise layer {noise_layer!r} is none of {', '.join(get_args(NoiseLayer))}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' as well
        block = ClassBlock(num_features, norm, width) if noise_layer == "bottleneck" else None
        classifier = nn.Linear(num_features if block is None else block.width, num_classes)
        nn.init.normal_(classifier.weight, std=0.001)
        nn.init.zeros_(classifier.bias)
    return Head(block, classifier, Transition(num_classes) if noise_layer == "transition" else None)
