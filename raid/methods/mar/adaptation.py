"""MAR stage 2: source and target side by side, around the reference agents (equation 10)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.ahead import Ahead
from raid.data.fetched import Fetched
from raid.data.images import Images
from raid.health import multilabel_health
from raid.losses.cross_view import by_view
from raid.losses.discriminative import MinedPairs
from raid.methods.mar.job import SHOWN, MarWorker
from raid.methods.mar.losses import Batch, StepLosses, in_own_orders, mar_loss
from raid.methods.mar.mining_record import MiningTally
from raid.methods.mar.networks import MarNetworks
from raid.methods.mar.record import record_multilabels
from raid.methods.mar.start import as_threshold, empty, start_following
from raid.methods.mar.weights import Weights
from raid.methods.stage import Figures, Progress, batch, restore, train_stage

SOURCE, TARGET = 4, 5  # first part of the keys of this stage's random numbers
Ints = NDArray[np.int64]


def adapt(worker: MarWorker, weights: Weights, progress: Progress, state: dict[str, Any] | None) -> Weights:
    """Train stage 2, from stage 1's `weights` or from a checkpoint's `state`; return what was learned.

    Every worker calls this.
    """
    stage = AdaptationStage(worker, weights)
    if state is None:
        stage.start()
    else:
        restore(stage.networks, progress, state)
        stage.restore(state["of_stage"])
    train_stage(worker, stage, progress)
    learned = stage.networks.weights(stage.followed.scale)
    record_multilabels(worker, stage.networks.encoder, learned)
    return learned


class AdaptationStage:
    """See `raid.methods.stage.Stage`."""

    name, rate_path = "training", "optimizer.learning_rate"
    is_last, shown = True, SHOWN

    def __init__(self, worker: MarWorker, weights: Weights) -> None:
        """Start from `weights`; `start` or `restore` comes next."""
        job, config = worker.job, worker.job.config
        self.worker, self.config = worker, config
        self.source, self.target = job.inputs.source, job.inputs.target
        self.networks = MarNetworks(
            config.encoder(job.statistics.target),
            weights,
            worker.group,
            worker.device,
            config.optimizer,
            train_agents=config.losses.al,
        )
        self.augmentations = tuple(
            config.augment.as_drawn(statistics)
            for statistics in (job.statistics.source, job.statistics.target)
        )
        self.epochs = range(config.pretraining_epochs, config.epochs)
        chosen = config.training
        self.batch_size = config.batch_size
        self.num_steps = chosen.steps or len(self.source.labels) // chosen.source
        self.labels = torch.from_numpy(self.source.labels).to(worker.device)
        self.views = torch.from_numpy(self.target.train.cameras)
        # Looked at by the record alone.
        self.identities = self.target.train.identities
        scale = weights.scale if config.multilabel.scale == "auto" else config.multilabel.scale
        self.followed = empty(self.networks, len(self.views), scale, config)
        self.batches = Ahead(self._batch, self.num_steps, worker.device)
        self.tally = MiningTally()
        self.uncounted: tuple[Fetched, Ints] | None = None  # what the latest step mined, and its rows
        self.nearest: Ints | None = None  # reference person of each target image, after the epoch before

    def start(self) -> None:
        """Look at all target images once."""
        encoder = self.networks.encoder
        encoder.rate_path = "pretraining.learning_rate"  # that of the weights up to here
        self.followed = start_following(
            self.networks,
            self.target.train_images,
            self.target.train.cameras,
            self.followed,
            self.config,
            self.worker.fanout,
        )
        encoder.rate_path = self.rate_path

    def rate(self, epoch: int, step: int) -> float:
        """Return the learning rate of an epoch."""
        return self.config.optimizer.rate(epoch - self.epochs.start, len(self.epochs))

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Train on one global batch of both sets; return the losses, weighted in `loss` alone."""
        within = epoch - self.epochs.start
        with self.networks.encoder.spans("data_wait"):
            inputs, rows, known, seen = self.batches.take(within, step)
        self.networks.encoder.latest = seen
        found, mined_from = StepLosses(), torch.empty(0)

        def loss_of(features: Tensor) -> Tensor:
            nonlocal found, mined_from
            source, target = self._apart(features)
            mines = within >= self.config.mining.begin
            agents = self.networks.agents
            loss, found = mar_loss(source, target, agents, known, self.followed, self.config, mines=mines)
            mined_from = target.detach()
            return loss

        loss = self.networks.step(inputs, loss_of)
        self._count()  # those of the step before: nobody waits for these
        if found.mined is not None:
            self.uncounted = self._of_mined(found.mined, mined_from, loss), rows
        return {"loss": loss, **found.parts, "accuracy": found.accuracy}

    def end_epoch(self, epoch: int, means: Figures) -> tuple[Figures, dict[str, Any] | None]:
        """Return an epoch's figures and what it mined."""
        self._count()
        tally, self.tally = self.tally, MiningTally()
        names = {"accuracy": "source/accuracy"}
        figures = {names.get(name, f"train/{name}"): value for name, value in means.items()}
        return figures | tally.figures() | self._settled(), tally.details(epoch)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; every worker calls this."""
        self._count()
        followed = self.followed
        return {
            "centre": None if followed.centre is None else followed.centre.state_dict(),
            "table": None if followed.table is None else followed.table.state_dict(),
            "threshold": float(followed.threshold),
            "scale": followed.scale,
            "tally": self.tally.state(),
            "nearest": None if self.nearest is None else torch.from_numpy(self.nearest),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, of any number of workers."""
        followed = self.followed
        if followed.centre is not None:
            followed.centre.load_state_dict(state["centre"])
        if followed.table is not None:
            followed.table.load_state_dict(state["table"])
        followed.threshold = as_threshold(state["threshold"], self.worker.device)
        followed.scale = state["scale"]
        self.tally = MiningTally.of_state(state["tally"])
        nearest = state.get("nearest")  # an older raid did not keep it
        self.nearest = None if nearest is None else nearest.numpy()

    def _batch(self, epoch: int, step: int) -> tuple[Tensor, Ints, Batch, list[tuple[Images, Ints]]]:
        """Return this worker's images, mixed, rows and labels of the global batch, and which they are."""
        chosen, encoder, group = self.config.training, self.networks.encoder, self.worker.group
        number = epoch * self.num_steps + step
        parts, rows, seen = [], [], []
        for key, images, size, augmentation in (
            (SOURCE, self.source.images, chosen.source, self.augmentations[0]),
            (TARGET, self.target.train_images, chosen.target, self.augmentations[1]),
        ):
            of_set = batch(self.worker, key, len(images), size, number)
            mine = of_set[group.slice(size)]
            parts.append(encoder.augmented(images, mine, size, (key, epoch, step), augmentation))
            rows.append(of_set)
            seen.append((images, mine))
        return self._mixed(*parts), rows[1], self._known(*map(torch.from_numpy, rows)), seen

    def _known(self, of_source: Tensor, of_target: Tensor) -> Batch:
        """Return what is known of the images of a global batch, and where its losses find it."""
        device, table = self.worker.device, self.followed.table
        return Batch(
            self.labels[of_source.to(device)],
            of_target,
            tuple(view.to(device) for view in by_view(self.views[of_target])),
            None if table is None else table.places(of_target).to(device),
        )

    @property
    def _num_chunks(self) -> int:
        """Chunks of a batch in which both sets have the same shares: ghost groups, or what a worker holds.

        Batch norm sees both sets in each, as its running statistics do, which the evaluation uses.
        """
        if self.config.model.batch_norm == "ghost":
            return self.config.batch_size // self.config.model.ghost_size
        return self.worker.group.size

    def _mixed(self, source: Tensor, target: Tensor) -> Tensor:
        """Put this worker's images of both sets into one batch, chunk by chunk."""
        num_chunks = self._num_chunks // self.worker.group.size
        chunks = [images.unflatten(0, (num_chunks, -1)) for images in (source, target)]
        return torch.cat(chunks, dim=1).flatten(0, 1)

    def _apart(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Take the features of the global batch apart: source (S, D) and target (T, D), in their orders."""
        chunks = features.unflatten(0, (self._num_chunks, -1))
        num_source = self.config.training.source // self._num_chunks
        return chunks[:, :num_source].flatten(0, 1), chunks[:, num_source:].flatten(0, 1)

    def _settled(self) -> Figures:
        """Return how far the target images have settled on a reference person; every worker calls this."""
        table, before = self.followed.table, self.nearest
        if table is None:
            return {}
        self.nearest = table.nearest().cpu().numpy()
        if self.config.multilabel.control == "permuted":
            self.nearest = in_own_orders(self.nearest, len(self.networks.agents), self.config.seed)
        return multilabel_health(self.nearest, before)

    def _of_mined(self, mined: MinedPairs, target: Tensor, loss: Tensor) -> Fetched:
        """Return what is counted of the pairs of a step."""
        left, right = target[mined.rows].unbind(dim=1)
        threshold = mined.threshold if self.followed.table is None else self.followed.threshold
        similarity = (left * right).sum(dim=1)
        return Fetched(
            loss, mined.rows, mined.scores, mined.positive, similarity, threshold.clone(), mined.reached
        )

    def _count(self) -> None:
        """Take down what the latest step mined, if it has not been; the same on every worker."""
        waiting, self.uncounted = self.uncounted, None
        if waiting is None:
            return
        found, rows = waiting
        loss, places, scores, positive, similarity, threshold, reached = found.arrays()
        if np.isfinite(loss):  # or the training ends here
            self.tally.add(
                rows[places],
                scores,
                positive,
                similarity,
                threshold=float(threshold),
                reached=float(reached),
                identities=self.identities,
            )
