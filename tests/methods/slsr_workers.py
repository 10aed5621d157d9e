"""What the workers of SLSR's invariance tests do: steps of both stages in every mode, with faults, and runs.

Each worker writes what it ended with, so that the test can compare workers with each other and with the
training on one worker.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import mar_workers
import numpy as np
import small_network
import torch
from comparing import flat
from dying import Killed, dying
from torch import Tensor
from workers import SummedGradients

from raid import machine
from raid.distributed.fanout import FanOut, InProcess
from raid.distributed.group import Group
from raid.methods import stage as stage_loop
from raid.methods.slsr import classification
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.classification import ClassificationStage, ClassifierNetworks
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.job import SlsrJob
from raid.models.heads import Head

BASELINE_STEPS, STEPS = 2, 4  # of the baseline, of the fine-tuning
Patch = Callable[[Group], Any]


@dataclass(frozen=True)
class Run:
    """A whole run, or one that is killed after it has saved its state so many times (0: never)."""

    config: SlsrConfig
    killed_after: int = 0


@dataclass(frozen=True)
class Job:
    """All that one start of the workers does.

    Attributes:
        modes: the jobs of both stages; the fine-tuning starts from its weights, or, where the configuration
            says so, from the baseline's.
        faults: whether to train with each of the faults too.
        runs: whole ones.
        out: where the findings go.
    """

    modes: dict[str, SlsrJob]
    faults: bool
    runs: list[Run]
    out: Path


@dataclass(frozen=True)
class WorkersAtHand:
    """A backend whose workers have been started: the first calls the recipe, the others `follow` it."""

    group: Group
    fanout: FanOut = field(default_factory=InProcess)

    def prepare(self, folder: Path) -> None:
        """There is nothing to find out."""

    def memory_bytes(self) -> int:
        """Return the memory of this machine."""
        return machine.memory_bytes()

    @contextmanager
    def pool(self, num_items: int) -> Iterator[FanOut]:
        """Give the first worker's process."""
        yield self.fanout

    def run_workers(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call the function on all workers."""
        self.group.once(lambda: (function, arguments))
        function(self.group, self.fanout, *arguments)

    def follow(self) -> None:
        """Do as the first worker says until it says that it has ended; it says so itself."""
        while (call := self.group.once(lambda: None)) is not None:
            function, arguments = call
            with suppress(Killed):
                function(self.group, self.fanout, *arguments)


@contextmanager
def _coins_of_own_rows(group: Group) -> Iterator[None]:
    """Every worker draws coins for as many rows as it has, by the step's key alone."""
    real = Head.draw

    def draw(head: Head, num_rows: int, generator: np.random.Generator) -> Tensor | None:
        kept = real(head, num_rows // group.size, generator)
        return None if kept is None else kept.repeat(group.size, 1)

    with mock.patch.object(Head, "draw", draw):
        yield


@contextmanager
def _head_of_own_rows(group: Group) -> Iterator[None]:
    """Every worker passes its own rows through the head, whose norm sees no others."""
    real = Head.forward

    def forward(head: Head, features: Tensor, kept: Tensor | None = None) -> Tensor:
        own = group.slice(len(features))
        return group.gather_rows(real(head, features[own], None if kept is None else kept[own]))

    with mock.patch.object(Head, "forward", forward):
        yield


@contextmanager
def _head_s_gradient_times_workers(group: Group) -> Iterator[None]:
    """The head's gradient, which every worker has whole, is added up over the workers."""
    real = classification.build_head

    def build_head(*arguments: Any) -> Head:
        head = real(*arguments)
        for parameter in head.parameters():
            parameter.register_hook(lambda gradient: gradient * group.size)
        return head

    with mock.patch.object(classification, "build_head", build_head):
        yield


@contextmanager
def _loss_of_own_rows(group: Group) -> Iterator[None]:
    """The loss is the mean over the rows of each worker, and the others' gradient is lost."""
    real = classification.soft_target_loss

    def loss(logs: Tensor, wanted: Tensor) -> Tensor:
        own = group.slice(len(logs))
        return real(logs[own], wanted[own])

    with mock.patch.object(classification, "soft_target_loss", loss):
        yield


@contextmanager
def _loss_of_kinds_apart(group: Group) -> Iterator[None]:
    """Real and generated images have a mean each: the few generated ones weigh as much as the many real."""

    def loss(logs: Tensor, wanted: Tensor) -> Tensor:
        losses = -(wanted * logs).sum(dim=1)
        is_real = wanted.amax(dim=1) == 1
        parts = [losses[rows].mean() for rows in (is_real, ~is_real) if rows.any()]
        return torch.stack(parts).sum()

    with mock.patch.object(classification, "soft_target_loss", loss):
        yield


@contextmanager
def _one_factor(group: Group) -> Iterator[None]:
    """The classifier learns at the backbone's rate."""

    def set_learning_rate(networks: ClassifierNetworks, rate: float) -> None:
        for parameters in networks.optimizer.param_groups:
            parameters["lr"] = rate

    with mock.patch.object(ClassifierNetworks, "set_learning_rate", set_learning_rate):
        yield


PATCHES: dict[str, Patch] = {
    "coins of own rows": _coins_of_own_rows,
    "head of own rows": _head_of_own_rows,
    "head's gradient times workers": _head_s_gradient_times_workers,
    "loss of own rows": _loss_of_own_rows,
    "loss of real and generated images apart": _loss_of_kinds_apart,
    "no factor of the head's rate": _one_factor,
    "factor of workers forgotten": mar_workers.PATCHES["factor of workers forgotten"],
}
GROUPS = {
    "statistics of the first worker": mar_workers.StatisticsOfSmallNetwork,
    "summed gradients": SummedGradients,
}


def work(group: Group, fanout: FanOut, job: Job) -> None:
    """Do everything that `job` asks for, on a small network; write it to `job.out`."""
    with small_network.in_use():
        found = {name: train(group, fanout, mode) for name, mode in job.modes.items()}
        if job.faults:
            found |= _with_faults(group, fanout, job.modes)
        torch.save(found, job.out / f"worker_{group.rank}_of_{group.size}.pt")
        for run in job.runs:
            whole_run(WorkersAtHand(group), run)


def whole_run(workers: WorkersAtHand, run: Run) -> None:
    """Run the recipe, or go on with it, on all workers; every worker calls this."""
    # All workers die together, for none to wait for another.
    save = dying(stage_loop.save, run.killed_after, after=True)
    with mock.patch.object(stage_loop, "save", save):
        if not workers.group.is_first:
            workers.follow()
            return
        with suppress(Killed):
            slsr.run(run.config, workers, resume=True)
        workers.group.once(lambda: None)


def _with_faults(group: Group, fanout: FanOut, modes: dict[str, SlsrJob]) -> dict[str, Any]:
    found, honest = {}, modes["ghost"]
    for name, patch in PATCHES.items():
        with patch(group):
            found[name] = train(group, fanout, honest)
    with _head_of_own_rows(group):
        found["head of own rows, sync"] = train(group, fanout, modes["sync"])
    for name, faulty in GROUPS.items():
        found[name] = train(faulty(group.rank, group.size), fanout, honest)
    config = honest.config
    local = replace(honest, config=replace(config, model=replace(config.model, batch_norm="local")))
    return found | {"local batch norm": train(group, fanout, local)}


def train(group: Group, fanout: FanOut, job: SlsrJob) -> dict[str, Any]:
    """Train a few steps of both stages; return losses, first gradients, and all that is learned."""
    first = stage_of(slsr.train_baseline, group, fanout, replace(job, generated=None))
    found = {f"baseline {name}": value for name, value in _steps(first, BASELINE_STEPS).items()}
    if job.config.finetuning.start == "baseline":
        job = replace(job, weights=first.networks.weights())
    second = stage_of(slsr.finetune, group, fanout, job)
    return found | _steps(second, STEPS)


def stage_of(
    function: Callable[..., None], group: Group, fanout: FanOut, job: SlsrJob
) -> ClassificationStage:
    """Return the stage that a function of the recipe trains, before its first step."""
    with mock.patch.object(slsr, "_train") as trained, mock.patch.object(slsr, "_write_model"):
        function(group, fanout, job)
    stage: ClassificationStage = trained.call_args.args[1]
    return stage


def _steps(stage: ClassificationStage, number: int) -> dict[str, Tensor]:
    """Train the first steps; return their losses, the gradients of the first, and what has been learned."""
    found: dict[str, list[Tensor]] = {}
    gradients = {}
    backbone, head = stage.networks.encoder.model, stage.networks.beside
    for step in range(number):
        stage.networks.set_learning_rate(stage.rate(stage.epochs.start, step))
        for name, value in stage.step(stage.epochs.start, step).items():
            found.setdefault(name, []).append(value)
        if step == 0:
            gradients["gradient"] = flat([parameter.grad for parameter in backbone.parameters()])
            gradients["head gradient"] = flat([parameter.grad for parameter in head.parameters()])
    learned = {
        "parameters": flat(list(backbone.parameters())),
        "head": flat(list(head.parameters())),
        "statistics": flat(list(backbone.buffers())),
    }
    if list(head.buffers()):
        learned["head statistics"] = flat(list(head.buffers()))
    sums = {name: torch.stack(values) for name, values in found.items()}
    return {"losses": sums.pop("loss"), **sums, **gradients, **learned}


def trained(file: Path) -> dict[str, Tensor]:
    """Return the weights and statistics of a model's file, of the backbone and of the head."""
    content = torch.load(file, weights_only=True)
    return content["model"] | {f"head.{name}": value for name, value in content["head"].items()}


def made_images(folder: Path) -> dict[str, Any]:
    """Return what stages 2 to 4 left: the bytes of all files, but not when each GAN was trained."""
    files = [folder / "clusters.npz", folder / "generated.npy", folder / "generated.json"]
    content: dict[str, Any] = {}
    for file in [*files, *(folder / "gans").rglob("*.*")]:
        content[str(file.relative_to(folder))] = file.read_bytes()
    for name in [name for name in content if name.endswith("result.json")]:
        content[name] = json.loads(content[name]) | {"started": 0.0, "ended": 0.0}
    return content
