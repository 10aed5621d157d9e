"""Configuration of SLSR."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from raid.config import Schema
from raid.data.augment import Augmentation
from raid.data.statistics import IMAGENET, Statistics
from raid.methods.encoder import EncoderSettings
from raid.methods.execution import Extract, Numerics, Pool, Run, Track
from raid.methods.sections import (
    Augment,
    Data,
    Evaluate,
    Model,
    Share,
    crop_problems,
    sharing_problems,
)
from raid.models.backbone import BackboneName, PoolName
from raid.models.dcgan import Form
from raid.models.heads import NoiseLayer

Label = Literal["sparse", "uniform", "all_in_one", "none"]


@dataclass(frozen=True, kw_only=True)
class SlsrData(Data):
    """The labelled set that is trained on and evaluated; images are evaluated whole, at this size."""

    height: Annotated[PositiveInt, "image height in pixels; training crops augment.input_size of it"] = 288
    width: Annotated[PositiveInt, "image width in pixels"] = 144


@dataclass(frozen=True, kw_only=True)
class SlsrModel(Model):
    """The network that the run ends with: backbone and classifier, which retrieval leaves out."""

    last_stride: Annotated[Literal[1, 2], "stride of the last stage"] = 2
    pool: Annotated[PoolName, "pooling of the last map"] = "average"
    neck: Annotated[bool, "batch normalisation of the pooled features"] = False
    noise_layer: Annotated[
        NoiseLayer,
        "bottleneck: linear, norm, leaky ReLU and dropout before the classifier, as released; transition: a "
        "K x K matrix on its softmax; none: the classifier alone",
    ] = "bottleneck"
    bottleneck_width: Annotated[PositiveInt, "outputs of the bottleneck"] = 512


@dataclass(frozen=True, kw_only=True)
class SlsrAugment(Augment):
    """Augmentation of the training images, real and generated: random crop, flip, erasing."""

    pad: Annotated[NonNegativeInt, "black pixels added on every side before the random crop"] = 0
    input_size: Annotated[
        tuple[PositiveInt, PositiveInt] | None,
        "height and width of the random crop that the network is trained on (224, 224 with data 256x256: the "
        "paper's ResNet); null: the whole image",
    ] = (256, 128)
    erase_fill: Annotated[
        tuple[float, float, float], "colour of an erased rectangle, put in after the normalisation"
    ] = (0.4914, 0.4822, 0.4465)


@dataclass(frozen=True, kw_only=True)
class Supervised(Schema):
    """A supervised training by stochastic gradient descent with Nesterov's momentum."""

    epochs: Annotated[PositiveInt, "passes over the images, or `steps` at a time"] = 130
    steps: Annotated[PositiveInt | None, "training steps of an epoch; null: one pass over the images"] = None
    batch_size: Annotated[PositiveInt, "images of a step, real and generated"] = 32
    learning_rate: Annotated[PositiveFloat, "of the backbone, at first"] = 0.01
    head_learning_rate: Annotated[PositiveFloat, "of the classifier, at first"] = 0.05
    momentum: Annotated[Share, "of the gradient, Nesterov's"] = 0.9
    weight_decay: Annotated[NonNegativeFloat, "on all parameters"] = 5e-4
    schedule: Annotated[
        Literal["step", "inv"],
        "step: times gamma every step_epochs (released); inv: (1 + inv_gamma * iteration) ** -inv_power "
        "(paper, whose constants are lost)",
    ] = "step"
    step_epochs: Annotated[PositiveInt, "step: epochs between two drops"] = 40
    gamma: Annotated[PositiveFloat, "step: factor of a drop"] = 0.1
    inv_gamma: Annotated[NonNegativeFloat, "inv: of the iteration"] = 1e-4
    inv_power: Annotated[NonNegativeFloat, "inv: exponent"] = 0.75
    erase_probability: Annotated[Share, "of erasing a rectangle, in place of augment.erase_probability"] = 0.8
    label_smoothing: Annotated[
        Share,
        "epsilon of the real images' labels: (1 - epsilon) on the identity, epsilon over all (plain LSR)",
    ] = 0.0

    def factor(self, epoch: int, iteration: int) -> float:
        """Return what the learning rates are multiplied by, in `epoch` (0-based) at `iteration` of all."""
        if self.schedule == "inv":
            return float((1 + self.inv_gamma * iteration) ** -self.inv_power)
        return self.gamma ** (epoch // self.step_epochs)


@dataclass(frozen=True, kw_only=True)
class Baseline(Supervised):
    """Stage 1: the paper's baseline, whose features are clustered; the release's own settings."""

    checkpoint: Annotated[
        Path | None, "baseline.pt of another run on the same images, in place of this stage; null: do it"
    ] = None
    backbone: Annotated[
        BackboneName | None, "of this stage (the paper clusters ResNet-50's features); null: model.backbone"
    ] = None
    weights: Annotated[str | None, "starting weights of `backbone`; null: model.weights"] = None
    epochs: Annotated[PositiveInt, "passes over the images, or `steps` at a time"] = 60
    head_learning_rate: Annotated[PositiveFloat, "of the classifier, at first"] = 0.1
    erase_probability: Annotated[Share, "of erasing a rectangle, in place of augment.erase_probability"] = 0.0


@dataclass(frozen=True, kw_only=True)
class ImageClusters(Schema):
    """Stage 2: k-means on the baseline's features of the training images."""

    num_clusters: Annotated[PositiveInt, "k: clusters of images, and generators"] = 3
    features: Annotated[
        Literal["pooled", "map"],
        "pooled: the pooled features, of any length (released); map: the last convolution's map (paper)",
    ] = "pooled"
    restarts: Annotated[PositiveInt, "starts of k-means, the best of which is kept"] = 10
    silhouettes: Annotated[
        tuple[Annotated[int, Field(ge=2)], ...], "numbers of clusters in the table of silhouettes"
    ] = (2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Gan(Schema):
    """Stage 3: a DCGAN a cluster."""

    height: Annotated[PositiveInt, "of the generated images; 128x64 has the aspect of people"] = 128
    width: Annotated[PositiveInt, "of the generated images; 128: as published, people are squeezed"] = 128
    form: Annotated[
        Form,
        "released: leaky ReLU, no norm in the judge's first layer; paper: norm and ReLU after every layer",
    ] = "released"
    channels: Annotated[
        PositiveInt, "of the last hidden layer; those before have 2, 4 and 8 times as many"
    ] = 64
    num_latent: Annotated[PositiveInt, "numbers that an image is made of"] = 100
    epochs: Annotated[PositiveInt, "passes over a cluster's images, or `steps` at a time"] = 30
    steps: Annotated[PositiveInt | None, "steps of an epoch; null: one pass over the cluster's images"] = None
    batch_size: Annotated[
        Annotated[int, Field(ge=2)], "images of a step; a smaller cluster trains on all it has at every step"
    ] = 64
    learning_rate: Annotated[PositiveFloat, "of Adam, for both networks"] = 2e-4
    beta1: Annotated[Share, "of Adam"] = 0.5
    generator_steps: Annotated[PositiveInt, "steps of the generator for one of the discriminator"] = 2
    parent: Annotated[
        Literal["none", "all_images"],
        "all_images: the clusters' GANs start from one that was trained on all images (as the release's text "
        "has it), `epochs` long too",
    ] = "none"
    min_images: Annotated[
        Annotated[int, Field(ge=2)], "a smaller cluster gets no GAN, and no generated images"
    ] = 16
    grid_epochs: Annotated[PositiveInt, "epochs between two grids of samples; the last always has one"] = 5
    collapse: Annotated[
        Share, "alarm: samples vary less than this share of the real images (0.3: three tenths)"
    ] = 0.3

    def num_steps(self, num_images: float) -> int:
        """Return the steps of an epoch on so many images."""
        return self.steps or max(1, int(num_images // self.batch_size))


@dataclass(frozen=True, kw_only=True)
class Generated(Schema):
    """Stage 4: the generated images, and how they are labelled."""

    folder: Annotated[
        Path | None, "another run's folder whose clusters and generated images are taken; null: make them"
    ] = None
    label: Annotated[
        Label,
        "sparse: shared by the identities of the cluster (paper); uniform: by all (LSRO, and the release); "
        "all_in_one: a class of their own; none: no generated images, which is the matched baseline",
    ] = "sparse"
    count: Annotated[PositiveInt, "images over all clusters, 12,000 to 36,000 in the paper"] = 12_000
    split: Annotated[
        Literal["equal", "proportional"], "of the count over the clusters: alike, or by their real images"
    ] = "equal"
    min_images: Annotated[PositiveInt, "images in a cluster that make an identity one of the cluster's"] = 1
    control: Annotated[
        Literal["none", "permuted"],
        "permuted: each cluster's images get the identities of another, so that they tell nothing",
    ] = "none"


@dataclass(frozen=True, kw_only=True)
class Finetuning(Supervised):
    """Stage 5: the network on real and generated images."""

    epochs: Annotated[NonNegativeInt, "0: the run ends with stage 1, the paper's baseline row"] = 130
    start: Annotated[
        Literal["weights", "baseline"],
        "backbone: model.weights, as released, or what stage 1 has learned, the classifier too",
    ] = "weights"


@dataclass(frozen=True, kw_only=True)
class SlsrEvaluate(Evaluate):
    """Retrieval on the query and gallery images, as the paper does it."""

    flip: Annotated[bool, "features of an image and of its mirror image, added"] = True


@dataclass(frozen=True, kw_only=True)
class SlsrConfig(Schema):
    """Everything that `raid slsr` takes."""

    method = "slsr"

    preset: Annotated[
        Literal["default", "as_released"],
        "the paper's loss with the release's numbers; and the release as it is, whose generated images have "
        "uniform labels",
    ] = "default"
    seed: Annotated[int, Field(ge=0, lt=2**63), "of everything random"] = 1
    data: SlsrData = SlsrData()
    model: SlsrModel = SlsrModel()
    augment: SlsrAugment = SlsrAugment()
    baseline: Baseline = Baseline()
    clusters: ImageClusters = ImageClusters()
    gan: Gan = Gan()
    generated: Generated = Generated()
    finetuning: Finetuning = Finetuning()
    evaluate: SlsrEvaluate = SlsrEvaluate()
    extract: Extract = Extract()
    pool: Pool = Pool()
    numerics: Numerics = Numerics()
    track: Track = Track()
    run: Run = Run()

    PRESETS = {  # noqa: RUF012
        "as_released": {"generated": {"label": "uniform"}, "evaluate": {"ap": "market_trapezoid"}},
    }
    NOT_IN_HASH = (
        "run",
        "track",
        "extract",
        "pool",
        "baseline.checkpoint",  # its content is part of the fingerprint, as is the folder's
        "generated.folder",
        "gan.grid_epochs",
        "data.root",
        "data.cache_folder",
        "data.cache_limit_gib",
        "data.read_timeout_s",
        "evaluate",
    )

    def also_determining(self) -> tuple[str, ...]:
        """Return `run.workers` where what batch norm sees depends on it."""
        return ("run.workers",) if self.model.batch_norm == "local" else ()

    @property
    def uses_images(self) -> bool:
        """Whether the network is trained on generated images."""
        return self.finetuning.epochs > 0 and self.generated.label != "none"

    @property
    def makes_images(self) -> bool:
        """Whether stages 2 to 4 are part of this run."""
        return self.uses_images and self.generated.folder is None

    @property
    def uses_baseline(self) -> bool:
        """Whether anything comes of stage 1: clusters, a start, or the run's own result."""
        return self.makes_images or not self.finetuning.epochs or self.finetuning.start == "baseline"

    @property
    def baseline_epochs(self) -> int:
        """Epochs of stage 1 in this run."""
        return self.baseline.epochs if self.uses_baseline and self.baseline.checkpoint is None else 0

    @property
    def gan_epochs(self) -> int:
        """Epochs of stage 3 in this run; those of all clusters are counted once."""
        return self.gan.epochs if self.makes_images else 0

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        return self.baseline_epochs + self.gan_epochs + self.finetuning.epochs

    @property
    def baseline_model(self) -> SlsrModel:
        """The network of stage 1."""
        own = self.baseline
        return replace(
            self.model,
            backbone=own.backbone or self.model.backbone,
            weights=own.weights or self.model.weights,
        )

    def encoder(self, statistics: Statistics = IMAGENET) -> EncoderSettings:
        """Return what the encoder needs, as it extracts; see `training_augmentation` for its training."""
        return EncoderSettings(self.seed, self.model, self.augment.as_drawn(statistics), self.numerics)

    @property
    def as_baseline(self) -> "SlsrConfig":
        """The same with stage 1's network for the network: what `baseline.pt` is a model of."""
        own = replace(self.baseline, backbone=None, weights=None)
        return replace(self, model=self.baseline_model, baseline=own)

    def training_augmentation(self, stage: Supervised) -> Augmentation:
        """Return what is done to the training images of a stage."""
        return replace(self.augment.as_drawn(), erase_probability=stage.erase_probability)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield combinations of sections that cannot work."""
        if self.baseline.checkpoint and not self.finetuning.epochs:
            yield (
                "finetuning.epochs",
                "is 0, and baseline.checkpoint leaves stage 1 out: nothing is trained",
            )
        model, finetuning = self.baseline_model, self.finetuning
        if finetuning.epochs and finetuning.start == "baseline" and model.backbone != self.model.backbone:
            yield "finetuning.start", f"baseline is a {model.backbone}, the network {self.model.backbone}"
        if self.baseline.weights is not None and self.baseline.backbone is None:
            yield "baseline.weights", "goes with baseline.backbone; without, model.weights is meant"
        yield from ((f"baseline.{path}", text) for path, text in model.problems() if path == "weights")
        yield from self._image_problems()
        yield from self._sharing_problems()

    def _image_problems(self) -> Iterator[tuple[str, str]]:
        generated, gan = self.generated, self.gan
        if generated.control == "permuted" and generated.label != "sparse":
            yield "generated.control", f"permutes sparse labels, and generated.label is {generated.label}"
        elif generated.control == "permuted" and self.clusters.num_clusters < 2:
            yield "generated.control", "needs another cluster to take identities from: num_clusters is 1"
        for side in ("height", "width"):
            size = getattr(gan, side)
            if size % 16:
                yield f"gan.{side}", f"{size} is no multiple of 16: four layers double or halve it"
        yield from crop_problems(self.augment, self.data)

    def _sharing_problems(self) -> Iterator[tuple[str, str]]:
        """Yield batches of either stage that workers or ghost groups cannot share evenly."""
        yield from self.numerics.problems_with(self.model)
        stages: dict[str, Supervised] = {"baseline": self.baseline} if self.baseline_epochs else {}
        if self.finetuning.epochs:
            stages["finetuning"] = self.finetuning
        for name, stage in stages.items():
            found = sharing_problems(stage.batch_size, self.model, self.run.workers)
            yield from ((path, f"{name}: {message}") for path, message in found)
