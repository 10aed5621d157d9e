"""The losses of MAR, one step after the other, written down from methods.md 3.2 and 3.3 in plain loops."""

from collections import defaultdict
from itertools import combinations

import torch
from torch import Tensor


class Reference:
    """What follows the batches, and the loss of a step.

    Attributes:
        remembered: multilabels by image, of those that have been seen.
        threshold: T.
        mean: centre of the log multilabels' means; `deviation` of their deviations.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, threshold: float, **settings: float | str) -> None:
        self.mean, self.deviation, self.threshold = mean.clone(), deviation.clone(), threshold
        self.remembered: dict[int, Tensor] = {}
        self.settings = settings  # scale, ratio, share, form, margin, lambda1, lambda2, beta

    def step(
        self,
        source: Tensor,
        target: Tensor,
        agents: Tensor,
        labels: list[int],
        rows: list[int],
        views: list[int],
        *,
        mines: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and its parts, and move on."""
        chosen = self.settings
        unit = [agent / agent.norm() for agent in agents]
        fixed = [agent.detach() for agent in unit]
        multilabels = [_softmax([chosen["scale"] * feature @ agent for agent in fixed]) for feature in target]
        parts = {
            "cml": self._cml([y.log() for y in multilabels], views),
            "al": sum(
                -_softmax([chosen["scale"] * feature @ agent for agent in unit])[label].log()
                for feature, label in zip(source, labels, strict=True)
            )
            / len(labels),
            "rj": self._rj(source, labels, target, fixed),
        }
        total = chosen["lambda1"] * parts["cml"]
        total = total + chosen["lambda2"] * (parts["al"] + chosen["beta"] * parts["rj"])
        if mines:
            parts["mdl"] = self._mdl(target, multilabels, rows)
            total = total + parts["mdl"]
        return total, parts

    def _mdl(self, target: Tensor, multilabels: list[Tensor], rows: list[int]) -> Tensor:
        for row, y in zip(rows, multilabels, strict=True):
            old = self.remembered.get(row)
            self.remembered[row] = y.detach() if old is None else 0.9 * old + 0.1 * y.detach()
        pairs = list(combinations(range(len(rows)), 2))
        distance = {(i, j): (target[i] - target[j]).square().sum() for i, j in pairs}
        agreement = {
            (i, j): 1 - float((self.remembered[rows[i]] - self.remembered[rows[j]]).abs().sum()) / 2
            for i, j in pairs
        }
        number = max(1, int(self.settings["ratio"] * len(pairs)))
        similar = sorted(pairs, key=lambda pair: float(distance[pair].detach()))[:number]
        same = [torch.exp(-distance[pair]) for pair in similar if agreement[pair] > self.threshold]
        other = [torch.exp(-distance[pair]) for pair in similar if not agreement[pair] > self.threshold]
        self.threshold = 0.9 * self.threshold + 0.1 * sorted(agreement.values())[-number]
        p = sum(same) / len(same) if same else torch.tensor(1.0)
        n = sum(other) / len(other) if other else torch.tensor(0.5)
        return -torch.log(p) + torch.log(p + n)

    def _cml(self, logs: list[Tensor], views: list[int]) -> Tensor:
        of_view = defaultdict(list)
        for log, view in zip(logs, views, strict=True):
            of_view[view].append(log)
        means, deviations = [], []
        for found in of_view.values():
            if len(found) < 2:
                continue
            mean = sum(found) / len(found)
            means.append(mean)
            deviations.append((sum((log - mean) ** 2 for log in found) / (len(found) - 1)).sqrt())
        if not means:
            return sum(log.sum() for log in logs) * 0
        share = self.settings["share"]
        self.mean = (1 - share) * self.mean + share * sum(means).detach() / len(means)
        self.deviation = (1 - share) * self.deviation + share * sum(deviations).detach() / len(means)
        total = sum(((mean - self.mean) ** 2).sum() for mean in means)
        total = total + sum(((own - self.deviation) ** 2).sum() for own in deviations)
        return total if self.settings["form"] == "paper" else total / (2 * len(means))

    def _rj(self, source: Tensor, labels: list[int], target: Tensor, agents: list[Tensor]) -> Tensor:
        margin = self.settings["margin"]

        def distance(feature: Tensor, agent: Tensor) -> Tensor:
            return (feature - agent).square().sum()

        if self.settings["form"] == "paper":
            terms = [
                margin - distance(x, agent) + distance(z, agent)
                for k, agent in enumerate(agents)
                for x in target
                if distance(x, agent) < margin
                for z, label in zip(source, labels, strict=True)
                if label == k
            ]
            return sum(terms) if terms else source.sum() * 0
        terms = [distance(z, agents[label]) for z, label in zip(source, labels, strict=True)]
        for feature, own in [*zip(source, labels, strict=True), *((x, None) for x in target)]:
            near = [
                margin - distance(feature, agent)
                for k, agent in enumerate(agents)
                if k != own and distance(feature, agent) < margin
            ]
            if near:
                terms.append(sum(near) / len(near))
        return sum(terms) / len(terms)


def _softmax(logits: list[Tensor]) -> Tensor:
    raised = torch.stack([torch.exp(logit) for logit in logits])
    return raised / raised.sum()
