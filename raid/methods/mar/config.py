"""Configuration of MAR."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from raid.config import Schema
from raid.data.statistics import IMAGENET, Statistics
from raid.methods.encoder import EncoderSettings
from raid.methods.execution import Extract, Numerics, Pool, Run, Track
from raid.methods.sections import (
    Augment,
    Data,
    Evaluate,
    ImageSet,
    Model,
    Share,
    sharing_problems,
)
from raid.models.backbone import PoolName

Form = Literal["released", "paper"]


@dataclass(frozen=True, kw_only=True)
class Target(Data):
    """The unlabelled set: trained on without its identities, and evaluated."""

    height: Annotated[PositiveInt, "image height in pixels, of both sets"] = 384


@dataclass(frozen=True, kw_only=True)
class Source(ImageSet):
    """The labelled set, whose people are the reference persons; size and cache are those of section data."""

    layout: Annotated[
        Literal["market1501", "dukemtmc", "msmt17", "cuhk03", "viper", "folder", "table", "manifest"],
        "how `root` is read, as data.layout",
    ] = "msmt17"


@dataclass(frozen=True, kw_only=True)
class MarModel(Model):
    """The network: MAR's ResNet-50 has standard strides, and neither a neck nor a last ReLU."""

    last_stride: Annotated[Literal[1, 2], "stride of the last stage"] = 2
    pool: Annotated[PoolName, "pooling of the last map"] = "average"
    neck: Annotated[bool, "batch normalisation of the pooled features"] = False
    final_relu: Annotated[bool, "a ReLU after the last block"] = False
    ghost_size: Annotated[
        PositiveInt, "images of a ghost group, in which source and target have the same shares"
    ] = 92


@dataclass(frozen=True, kw_only=True)
class MarAugment(Augment):
    """Augmentation of the training images of both sets: flip and padded crop."""

    pad: Annotated[NonNegativeInt, "black pixels added on every side before the random crop"] = 7
    erase_probability: Annotated[Share, "probability of erasing a rectangle"] = 0.0


@dataclass(frozen=True, kw_only=True)
class Sgd(Schema):
    """Stochastic gradient descent with momentum, and a learning rate that drops."""

    learning_rate: Annotated[PositiveFloat, "at the first epoch; a smaller batch needs a smaller one"] = 2e-4
    momentum: Annotated[Share, "of the gradient"] = 0.9
    weight_decay: Annotated[NonNegativeFloat, "on all parameters but those of batch norm"] = 2.5e-2
    drops: Annotated[
        tuple[Share, ...], "shares of the epochs, rounded down, after which the learning rate drops"
    ] = (0.625, 0.875)
    gamma: Annotated[PositiveFloat, "factor of a drop"] = 0.1

    def rate(self, epoch: int, epochs: int) -> float:
        """Return the learning rate of `epoch` (0-based) of `epochs`; the first never has a dropped one."""
        drops = (max(1, int(share * epochs)) for share in self.drops)
        return self.learning_rate * self.gamma ** sum(epoch >= drop for drop in drops)


@dataclass(frozen=True, kw_only=True)
class Pretraining(Sgd):
    """Stage 1: the source set's people as classes, by a plain softmax over features of any length."""

    checkpoint: Annotated[
        Path | None, "pretrained.pt of another run, in place of this stage; null: do it"
    ] = None
    epochs: Annotated[PositiveInt, "passes, or `steps` at a time"] = 40
    steps: Annotated[PositiveInt | None, "training steps of an epoch; null: one pass over the source set"] = (
        None
    )
    batch_size: Annotated[PositiveInt, "source images of a step"] = 64
    ghost_size: Annotated[PositiveInt, "images of a ghost group of this stage"] = 16
    learning_rate: Annotated[PositiveFloat, "at the first epoch"] = 1e-2
    weight_decay: Annotated[NonNegativeFloat, "on all parameters but those of batch norm"] = 1e-2


@dataclass(frozen=True, kw_only=True)
class Training(Schema):
    """Stage 2: source and target side by side; its optimiser is section optimizer."""

    epochs: Annotated[NonNegativeInt, "0: the run ends with stage 1, the paper's row `source only`"] = 20
    steps: Annotated[PositiveInt | None, "training steps of an epoch; null: one pass over the source set"] = (
        None
    )
    source: Annotated[PositiveInt, "source images of a step"] = 184
    target: Annotated[PositiveInt, "target images of a step"] = 184


@dataclass(frozen=True, kw_only=True)
class Multilabel(Schema):
    """Soft multilabels: how alike an image is to each reference person (MAR equation 1)."""

    scale: Annotated[
        PositiveFloat | Literal["auto"],
        "of the product of a unit feature with a unit agent; auto: the mean product of feature and own "
        "agent at the end of stage 1, before both have unit length",
    ] = 30.0
    momentum: Annotated[Share, "of the new multilabel in the memory"] = 0.1
    control: Annotated[
        Literal["none", "permuted"],
        "permuted: each target image has the agents in a random order of its own, so that agreement tells "
        "nothing: what is left of the method without its idea (one order for all would change no agreement)",
    ] = "none"
    table: Annotated[
        Literal["auto", "whole", "sharded"],
        "the memory (target images times agents): on every worker, or a part of its rows on each; auto: "
        "sharded where it would take over a quarter of a worker's memory; the result is the same",
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Mining(Schema):
    """Positive and hard negative pairs among the most similar ones (MAR equation 3)."""

    guide: Annotated[
        Literal["agreement", "feature"],
        "agreement of the multilabels; feature: the paper's baseline in our reading, in which the nearer "
        "half of the similar pairs is positive",
    ] = "agreement"
    ratio: Annotated[float, Field(gt=0, le=1), "similar pairs among all pairs of a batch (p)"] = 0.005
    momentum: Annotated[Share, "of a batch in the threshold T"] = 0.1
    begin: Annotated[NonNegativeInt, "epochs of stage 2 before the first that mines"] = 1
    start: Annotated[
        Literal["exact"] | Annotated[int, Field(ge=2)],
        "T at the start: of all pairs of target images, or of those of so many images drawn at random",
    ] = "exact"
    form: Annotated[Form, "at agreement T: released takes the pair for negative, paper for positive"] = (
        "released"
    )


@dataclass(frozen=True, kw_only=True)
class Losses(Schema):
    """L = L_MDL + lambda1 L_CML + lambda2 (L_AL + beta L_RJ) (MAR equations 9 and 10)."""

    mdl: Annotated[bool, "discriminative loss of the mined pairs (equation 4)"] = True
    cml: Annotated[bool, "multilabels alike at every camera (equations 5 and 6)"] = True
    al: Annotated[bool, "agent loss (equation 7); false: the agents stay as they are"] = True
    rj: Annotated[bool, "joint embedding of both sets around the agents (equation 8)"] = True
    lambda1: Annotated[NonNegativeFloat, "weight of L_CML, for its released form"] = 2e-4
    lambda2: Annotated[NonNegativeFloat, "weight of L_AL and L_RJ"] = 50.0
    beta: Annotated[NonNegativeFloat, "weight of L_RJ below lambda2, for its released form"] = 0.2
    margin: Annotated[float, Field(gt=0, le=4), "m of L_RJ, of the squared distance to an agent"] = 1.0
    cml_form: Annotated[Form, "mean over the terms of equation 6, or their sum"] = "released"
    rj_form: Annotated[Form, "mean over terms, with source negatives, or equation 8's sum"] = "released"
    centre_momentum: Annotated[
        Share | None, "of a batch in L_CML's centre; null: images of a batch, of both sets, over 10,000"
    ] = None


@dataclass(frozen=True, kw_only=True)
class MarConfig(Schema):
    """Everything that `raid mar` takes."""

    method = "mar"

    preset: Annotated[
        Literal["default", "paper", "as_released"],
        "losses as their authors run them; as the paper's equations are printed; and the release whole, with "
        "its average precision",
    ] = "default"
    seed: Annotated[int, Field(ge=0, lt=2**63), "of everything random"] = 1
    data: Target = Target()
    source: Source = Source()
    auxiliary: Annotated[
        Literal["train", "all", "msmt17_train", "msmt17_all"],
        "people of the source set: of its training half, or of query and gallery too; msmt17_*: of MSMT17 "
        "without list_val, as the authors have it (msmt17_all: 4,101 people, the paper's table)",
    ] = "train"
    normalize: Annotated[
        Literal["per_set", "imagenet"],
        "mean and deviation of the colours: measured on each set's training images, or ImageNet's",
    ] = "per_set"
    model: MarModel = MarModel()
    augment: MarAugment = MarAugment()
    pretraining: Pretraining = Pretraining()
    training: Training = Training()
    optimizer: Sgd = Sgd()
    multilabel: Multilabel = Multilabel()
    mining: Mining = Mining()
    losses: Losses = Losses()
    evaluate: Evaluate = Evaluate()
    extract: Extract = Extract()
    pool: Pool = Pool()
    numerics: Numerics = Numerics()
    track: Track = Track()
    run: Run = Run()

    PRESETS = {  # noqa: RUF012
        "paper": {"losses": {"cml_form": "paper", "rj_form": "paper"}, "mining": {"form": "paper"}},
        "as_released": {"auxiliary": "msmt17_all", "evaluate": {"ap": "mar_official"}},
    }
    NOT_IN_HASH = (
        "run",
        "track",
        "extract",
        "pool",
        "multilabel.table",
        "pretraining.checkpoint",  # its content is part of the fingerprint
        "data.root",
        "data.cache_folder",
        "data.cache_limit_gib",
        "data.read_timeout_s",
        "source.root",
        "evaluate",
    )

    def also_determining(self) -> tuple[str, ...]:
        """Return `run.workers` where what batch norm sees depends on it."""
        return ("run.workers",) if self.model.batch_norm == "local" else ()

    @property
    def source_data(self) -> Data:
        """The source set as `raid.methods.inputs` reads it."""
        of_set = {field.name: getattr(self.source, field.name) for field in fields(ImageSet)}
        if self.auxiliary.startswith("msmt17"):
            of_set["with_validation"] = False
        data = self.data
        return Data(
            **of_set,
            height=data.height,
            width=data.width,
            cache_folder=data.cache_folder,
            cache_limit_gib=data.cache_limit_gib,
            read_timeout_s=data.read_timeout_s,
        )

    @property
    def pretraining_model(self) -> MarModel:
        """The network with the ghost groups of stage 1."""
        return replace(self.model, ghost_size=self.pretraining.ghost_size)

    @property
    def pretraining_epochs(self) -> int:
        """Epochs of stage 1 in this run."""
        return 0 if self.pretraining.checkpoint else self.pretraining.epochs

    @property
    def epochs(self) -> int:
        """Epochs of both stages."""
        return self.pretraining_epochs + self.training.epochs

    @property
    def batch_size(self) -> int:
        """Images of a step of stage 2."""
        return self.training.source + self.training.target

    @property
    def centre_momentum(self) -> float:
        """Share of a batch in L_CML's centre."""
        own = self.losses.centre_momentum
        return min(1.0, self.batch_size / 10_000) if own is None else own

    def encoder(self, statistics: Statistics = IMAGENET) -> EncoderSettings:
        """Return what the encoder needs; it extracts images with `statistics`."""
        return EncoderSettings(self.seed, self.model, self.augment.as_drawn(statistics), self.numerics)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield combinations of sections that cannot work."""
        if self.auxiliary.startswith("msmt17") and self.source.layout != "msmt17":
            yield "auxiliary", f"{self.auxiliary} is of MSMT17, and source.layout is {self.source.layout}"
        if self.pretraining.checkpoint and not self.training.epochs:
            yield "training.epochs", "is 0, and pretraining.checkpoint leaves stage 1 out: nothing is trained"
        losses = self.losses
        others = losses.cml or losses.al or losses.rj
        if self.training.epochs and not (losses.mdl or others):
            yield "losses", "are all off: there is nothing to train"
        elif not others and 0 < self.training.epochs <= self.mining.begin:
            yield "mining.begin", f"is {self.mining.begin}: the only loss begins after the last epoch"
        if self.training.target < 2:
            yield "training.target", "a pair takes two images"
        yield from self._sharing_problems()

    def _sharing_problems(self) -> Iterator[tuple[str, str]]:
        """Yield batches of either stage that workers or ghost groups cannot share evenly."""
        training, pretraining, workers = self.training, self.pretraining, self.run.workers
        models = [self.model] if training.epochs else []
        models += [] if pretraining.checkpoint else [self.pretraining_model]
        yield from dict.fromkeys(
            problem for model in models for problem in self.numerics.problems_with(model)
        )
        if training.epochs:
            of_sets = training.source, training.target
            found = sharing_problems(self.batch_size, self.model, workers, of_sets=of_sets)
            yield from ((path, f"stage 2: {message}") for path, message in found)
        if not pretraining.checkpoint:
            if self.model.batch_norm == "ghost" and pretraining.ghost_size < 2:
                yield "pretraining.ghost_size", "a batch norm over one image has no variance: use 2 or more"
            found = sharing_problems(
                pretraining.batch_size, self.pretraining_model, workers, ghost_path="pretraining.ghost_size"
            )
            yield from ((path, f"stage 1: {message}") for path, message in found)
