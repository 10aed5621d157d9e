"""The supervised stages of SLSR: a classifier of identities on real images, or on real and generated ones.

The loss of a batch is the mean over all its images, real and generated together (equation 13). Features are
gathered and the classifier's part is computed on every worker alike, as MAR's agents are.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.ahead import Ahead
from raid.data.images import Images
from raid.data.streams import DROPOUT, stream
from raid.losses.soft_targets import soft_target_loss
from raid.methods.encoder import Encoder
from raid.methods.networks import Networks, on_cpu
from raid.methods.slsr.config import SlsrConfig, SlsrModel, Supervised
from raid.methods.slsr.job import SlsrWorker
from raid.methods.slsr.targets import Targets
from raid.methods.slsr.weights import Weights, build_head, put_into
from raid.methods.stage import Figures, batch
from raid.models.heads import Head

# First part of the keys of the stages' random numbers; 1 to 5 are ICSR's and MAR's.
KEYS = {"baseline": 6, "finetuning": 7}
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Classified:
    """The images of a stage and what they are labelled with: row i of one is row i of the other."""

    images: Images
    targets: Targets


@dataclass(frozen=True)
class _Drawn:
    """What is drawn for a step.

    Attributes:
        inputs: this worker's images, augmented.
        mine: their rows.
        of_table: (B,) rows of the targets' table, of the global batch.
        is_real: (B,) whether an image was not generated.
        kept: what the head's dropout leaves.
    """

    inputs: Tensor
    mine: Ints
    of_table: Tensor
    is_real: Tensor
    kept: Tensor | None


class ClassifierNetworks(Networks):
    """Backbone and head in training."""

    beside: Head

    def weights(self) -> Weights:
        """Return a copy of what has been learned."""
        return Weights(on_cpu(self.encoder.model.state_dict()), on_cpu(self.beside.state_dict()))


class ClassificationStage:
    """See `raid.methods.stage.Stage`.

    Attributes:
        name: baseline or finetuning, also the section of the configuration.
    """

    def __init__(
        self,
        name: Literal["baseline", "finetuning"],
        worker: SlsrWorker,
        model: SlsrModel,
        weights: Weights,
        classified: Classified,
        epochs: range,
    ) -> None:
        """Start from `weights`."""
        config = worker.job.config
        self.name, self.rate_path = name, f"{name}.learning_rate"
        self.is_last = name == "finetuning"
        self.worker, self.classified, self.epochs = worker, classified, epochs
        self.chosen: Supervised = config.finetuning if self.is_last else config.baseline
        self.networks = _networks(worker, config, model, weights, classified.targets, self.chosen)
        self.networks.encoder.rate_path = self.rate_path
        self.augmentation = config.training_augmentation(self.chosen)
        self.batch_size = self.chosen.batch_size
        self.num_steps = self.chosen.steps or len(classified.images) // self.chosen.batch_size
        device, dtype = worker.device, self.networks.encoder.settings.dtype
        targets = classified.targets
        self.table = torch.from_numpy(targets.table).to(device=device, dtype=dtype)
        self.hits = torch.from_numpy(targets.hits).to(device)
        self.batches = Ahead(self._batch, self.num_steps, device)

    @property
    def shown(self) -> dict[str, Any]:
        """What the log says of an epoch."""
        return {
            "baseline/loss": "loss {:.3f}".format,
            "baseline/accuracy": "accuracy {:.1%}".format,
            "train/loss_real": "loss {:.3f} real".format,
            "train/loss_generated": "{:.3f} generated".format,
            "train/accuracy": "accuracy {:.1%}".format,
        }

    def rate(self, epoch: int, step: int) -> float:
        """Return the backbone's learning rate of a step."""
        within = epoch - self.epochs.start
        return self.chosen.learning_rate * self.chosen.factor(within, within * self.num_steps + step)

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Train on one global batch; return its loss, and sums over its real and its generated images."""
        with self.networks.encoder.spans("data_wait"):
            drawn = self.batches.take(epoch, step)
        self.networks.encoder.latest = [(self.classified.images, drawn.mine)]
        found: dict[str, Tensor] = {}

        def loss_of(features: Tensor) -> Tensor:
            logs = self.networks.beside(features, drawn.kept)
            wanted = self.table[drawn.of_table]
            found.update(_sums(logs.detach(), wanted, self.hits[drawn.of_table], drawn.is_real))
            return soft_target_loss(logs, wanted)

        return {"loss": self.networks.step(drawn.inputs, loss_of), **found}

    def _batch(self, epoch: int, step: int) -> _Drawn:
        """Return what is drawn for a step."""
        within, size, key = epoch - self.epochs.start, self.chosen.batch_size, KEYS[self.name]
        targets, device = self.classified.targets, self.table.device
        number = within * self.num_steps + step
        rows = batch(self.worker, key, len(self.classified.images), size, number)
        mine = rows[self.worker.group.slice(size)]
        kept = self.networks.beside.draw(
            size, stream(self.worker.job.config.seed, DROPOUT, key, within, step)
        )
        return _Drawn(
            self.networks.encoder.augmented(
                self.classified.images, mine, size, (key, within, step), self.augmentation
            ),
            mine,
            torch.from_numpy(targets.rows[rows]).to(device),
            torch.from_numpy(rows < targets.num_real).to(device),
            None if kept is None else kept.to(device),
        )

    def end_epoch(self, epoch: int, means: Figures) -> tuple[Figures, None]:
        """Return an epoch's figures."""
        kinds = {
            kind: {name: means[f"{kind}_{name}"] / means[f"{kind}_images"] for name in ("loss", "hits")}
            for kind in ("real", "generated")
            if means[f"{kind}_images"] > 0
        }
        accuracy = kinds["real"]["hits"] if "real" in kinds else 0.0
        if not self.is_last:
            return {"baseline/loss": means["loss"], "baseline/accuracy": accuracy}, None
        figures = {
            "train/loss": means["loss"],
            "train/accuracy": accuracy,
            **{f"train/loss_{kind}": values["loss"] for kind, values in kinds.items()},
        }
        if "generated" in kinds:
            figures["train/accuracy_generated"] = kinds["generated"]["hits"]
        return figures, None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the networks: nothing."""
        return {}


def _sums(logs: Tensor, wanted: Tensor, hits: Tensor, is_real: Tensor) -> dict[str, Tensor]:
    """Return loss, hits and number of the real and of the generated images of a batch."""
    losses = -(wanted * logs).sum(dim=1)
    right = hits.gather(1, logs.argmax(dim=1)[:, None])[:, 0]
    found = {}
    for kind, rows in (("real", is_real), ("generated", ~is_real)):
        found[f"{kind}_loss"] = (losses * rows).sum()
        found[f"{kind}_hits"] = (right & rows).sum().to(losses.dtype)
        found[f"{kind}_images"] = rows.sum().to(losses.dtype)
    return found


def _networks(
    worker: SlsrWorker,
    config: SlsrConfig,
    model: SlsrModel,
    weights: Weights,
    targets: Targets,
    chosen: Supervised,
) -> ClassifierNetworks:
    settings = replace(config.encoder(), model=model)
    encoder = Encoder(settings, weights.model, worker.group, worker.device)
    encoder.model.unit_features = False
    head = build_head(model, encoder.model.num_features, targets.num_outputs, config.seed)
    head = head.to(device=worker.device, dtype=settings.dtype)  # before, or what is put in loses digits
    if weights.head is not None:
        put_into(head, weights.head)
    groups: list[dict[str, Any]] = [
        {"params": encoder.parameters},
        {"params": list(head.parameters()), "factor": chosen.head_learning_rate / chosen.learning_rate},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=chosen.learning_rate,
        momentum=chosen.momentum,
        weight_decay=chosen.weight_decay,
        nesterov=chosen.momentum > 0,
        fused=encoder.on_gpu,
    )
    return ClassifierNetworks(encoder, head, optimizer)
