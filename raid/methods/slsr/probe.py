"""How fast this machine is at what a run of SLSR does: images, classifiers, clusterings, GANs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from raid.data import synthetic
from raid.data.streams import stream
from raid.distributed.group import Group
from raid.losses.soft_targets import soft_target_loss
from raid.methods.encoder import Encoder, build_model, device_of
from raid.methods.networks import Networks
from raid.methods.probe import (
    EncoderSpeed,
    RandomImages,
    probe_encoder,
    probe_ranking,
    probed_batch,
    seconds_of,
    timed,
    timed_again,
)
from raid.methods.slsr.config import Gan, ImageClusters, SlsrConfig, SlsrModel, Supervised
from raid.methods.slsr.dcgan_state import Dcgan
from raid.methods.slsr.weights import build_head
from raid.ops.diversity import nearest_images
from raid.ops.frechet import frechet_distance, moments
from raid.ops.kmeans import kmeans
from raid.ops.silhouettes import principal_plane, silhouettes

_GPU_BATCH = 64
_MOST_PEOPLE = 8192  # of the probe: beyond, times are in proportion
_ROWS = 1000  # that are clustered
_COLUMNS = 2048  # of them: beyond, times are in proportion
_MOMENT_COLUMNS = 512  # of the covariances that are compared, whose time goes with their cube
_COMPARED = 128  # images that are compared pixel by pixel
_GRADIENTS = 1.25  # what a backward pass holds beside what was kept for it, as measured
_GAN_SECONDS = 0.7  # a step is tried on more images as long as it takes less

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class ClusteringSpeed:
    """Seconds of the parts of stage 2's clustering, of one process; see `seconds`.

    Attributes:
        kmeans: of all the k-means of the features, a number of a feature.
        silhouettes: of the features' silhouettes, a number of a pair of images.
        plane_kmeans: of all the k-means in the plane of two principal components, an image.
        plane_silhouettes: of the silhouettes there, a pair of images.
        plane: of the plane itself, a number of a feature.
        table: whether there is a table of silhouettes.
    """

    kmeans: float
    silhouettes: float
    plane_kmeans: float
    plane_silhouettes: float
    plane: float

    def seconds(self, num_images: int, dimensions: int) -> float:
        """Return the time of the clustering of (N, D) features."""
        pairs = float(num_images) ** 2
        return (
            self.kmeans * num_images * dimensions
            + self.silhouettes * pairs * dimensions
            + self.plane_kmeans * num_images
            + self.plane_silhouettes * pairs
            + self.plane * num_images * dimensions
        )


@dataclass(frozen=True)
class GanSpeed:
    """Of one process; seconds and bytes an image.

    Attributes:
        step: seconds of an image in a step: of the discriminator, and all of the generator.
        generate: seconds of a generated image.
        activations: bytes of an image in a step.
        weights: bytes of both networks.
        on_gpu: whether it was measured on a GPU.
    """

    step: float
    generate: float
    activations: float
    weights: float
    on_gpu: bool

    @property
    def fixed(self) -> float:
        """Bytes of weights, gradients and Adam's two moments."""
        return 4 * self.weights


@dataclass(frozen=True)
class MakingSpeed:
    """Of what stages 2 to 4 do beside the extraction.

    Attributes:
        clustering: stage 2.
        gan: stages 3 and 4.
        compared: seconds of each pair of a generated and a real image whose pixels are compared.
        frechet: seconds of a cluster's Frechet distance.
    """

    clustering: ClusteringSpeed
    gan: GanSpeed
    compared: float
    frechet: float


@dataclass(frozen=True)
class SlsrSpeed:
    """Of one process.

    Attributes:
        baseline: stage 1's network.
        encoder: the network that the run ends with; the same speed where it is the same network.
        baseline_loss: seconds of stage 1's classifier of a batch, forward and backward; every worker has it.
        loss: seconds of stage 5's, likewise.
        making: what makes images; None where the run makes none.
        ranked_pair: seconds of an evaluation for each pair of a query and a gallery image.
    """

    baseline: EncoderSpeed
    encoder: EncoderSpeed
    baseline_loss: float
    loss: float
    making: MakingSpeed | None
    ranked_pair: float


def probe(config: SlsrConfig, num_identities: int, *, tflops: float | None) -> SlsrSpeed:
    """Do everything that a run does for a moment.

    Args:
        config: of the run.
        num_identities: K.
        tflops: of a processor that is not here: seconds of networks are reckoned from the operations then.
    """
    torch.set_num_threads(config.numerics.threads)
    baseline = _probe_images(config, config.baseline_model, config.baseline, tflops)
    encoder = baseline
    if config.finetuning.epochs and config.model.backbone != config.baseline_model.backbone:
        encoder = _probe_images(config, config.model, config.finetuning, tflops)
    baseline_loss = _head_seconds(config, config.baseline, baseline, num_identities, tflops)
    loss = _head_seconds(config, config.finetuning, encoder, num_identities, tflops)
    making = _probe_making(config, baseline.dimensions, tflops) if config.makes_images else None
    return SlsrSpeed(baseline, encoder, baseline_loss, loss, making, probe_ranking(_simulated(256)))


def _probe_images(
    config: SlsrConfig, model: SlsrModel, stage: Supervised, tflops: float | None
) -> EncoderSpeed:
    device = device_of(config.run.device)
    batch = probed_batch(min(_GPU_BATCH, stage.batch_size), device)
    settings = replace(config.encoder(), model=replace(model, ghost_size=batch))
    network = build_model(settings, Group.solo())
    encoder = Encoder(settings, network.state_dict(), Group.solo(), device)
    encoder.model.unit_features = False
    networks = Networks(encoder, nn.Identity(), torch.optim.SGD(encoder.parameters, lr=1e-9, momentum=0.9))
    images = RandomImages(batch, config.data.height, config.data.width)
    augmentation = config.training_augmentation(stage)

    def step(features: Tensor) -> None:
        inputs = encoder.augmented(images, np.arange(batch), batch, (0,), augmentation)
        networks.step(inputs, Tensor.sum)

    return probe_encoder(encoder, images, step, optimizer="sgd", tflops=tflops)


def _head_seconds(
    config: SlsrConfig,
    stage: Supervised,
    speed: EncoderSpeed,
    num_identities: int,
    tflops: float | None,
) -> float:
    people = min(num_identities, _MOST_PEOPLE)
    step = head_step(config, stage, speed.dimensions, people)
    return num_identities / people * seconds_of(step, device_of(config.run.device), tflops)


def head_step(config: SlsrConfig, stage: Supervised, dimensions: int, outputs: int) -> Callable[[], None]:
    """Return the classifier's part of a step on a random batch, with its update."""
    device, dtype = device_of(config.run.device), config.encoder().dtype
    head = build_head(config.model, dimensions, outputs, config.seed).to(device=device, dtype=dtype).train()
    features = torch.randn(stage.batch_size, dimensions, device=device, dtype=dtype).requires_grad_()
    table = torch.full((stage.batch_size, outputs), 1 / outputs, device=device, dtype=dtype)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        kept = head.draw(stage.batch_size, stream(1))
        loss = soft_target_loss(head(features, None if kept is None else kept.to(device)), table)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _probe_making(config: SlsrConfig, dimensions: int, tflops: float | None) -> MakingSpeed:
    side = min(dimensions, _MOMENT_COLUMNS)
    found = moments(_simulated(side).features)
    _, frechet = timed_again(lambda: frechet_distance(found, found), torch.device("cpu"))
    return MakingSpeed(
        probe_clustering(config.clusters, config.seed),
        probe_gan(config.gan, device_of(config.run.device), tflops),
        _compared_pair(config.gan),
        frechet * (dimensions / side) ** 3,
    )


def probe_clustering(chosen: ImageClusters, seed: int) -> ClusteringSpeed:
    """Cluster some simulated features as stage 2 does; on the CPU, as there."""
    features, plane = _simulated(_COLUMNS).features, _simulated(2).features
    numbers = [min(number, _ROWS) for number in chosen.silhouettes]
    labels = [_random_labels(number) for number in numbers]
    used = min(chosen.num_clusters, _ROWS)

    def clustered(points: Rows, numbers: Sequence[int]) -> None:
        for number in numbers:
            kmeans(points, num_clusters=number, seed=seed, restarts=chosen.restarts)

    cpu = torch.device("cpu")
    _, all_kmeans = timed_again(lambda: clustered(features, [used, *numbers]), cpu)
    _, silhouette = timed_again(lambda: silhouettes(features, labels), cpu)
    _, plane_kmeans = timed_again(lambda: clustered(plane, numbers), cpu)
    _, in_plane = timed_again(lambda: silhouettes(plane, labels), cpu)
    _, of_plane = timed_again(lambda: principal_plane(features), cpu)
    return ClusteringSpeed(
        kmeans=all_kmeans / (_ROWS * _COLUMNS),
        silhouettes=silhouette / (_ROWS**2 * _COLUMNS),
        plane_kmeans=plane_kmeans / _ROWS,
        plane_silhouettes=in_plane / _ROWS**2,
        plane=of_plane / (_ROWS * _COLUMNS),
    )


def probe_gan(gan: Gan, device: torch.device, tflops: float | None) -> GanSpeed:
    """Train and generate for a moment, at the GANs' own size.

    Batches begin with two images and double while there is time; the whole batch takes in proportion.
    """
    networks = Dcgan(gan, (1, 2), device)
    weights = float(sum(value.numel() * value.element_size() for value in _values(networks)))
    activations = _activations(networks, gan)
    if tflops is None:
        size, step = _timed_step(networks, gan)
        _, generate = timed_again(lambda: networks.generate(_noise(gan, size)), device)
    else:
        size = 2
        step, generate = (
            _operations(work) / (tflops * 1e12)
            for work in (lambda: _step(networks, gan, size), lambda: networks.generate(_noise(gan, size)))
        )
    return GanSpeed(step / size, generate / size, activations, weights, device.type == "cuda")


def _timed_step(networks: Dcgan, gan: Gan) -> tuple[int, float]:
    """Return the images of the largest batch that there is time for, and the seconds of its step."""
    size = 2
    _step(networks, gan, size)  # allocates, and loads what there is
    while True:
        _, seconds = timed(partial(_step, networks, gan, size))
        if size == gan.batch_size or 2 * seconds > _GAN_SECONDS:
            return size, seconds
        size = min(2 * size, gan.batch_size)


def _step(networks: Dcgan, gan: Gan, size: int) -> None:
    pictures = torch.zeros(size, 3, gan.height, gan.width, device=networks.device)
    losses = networks.step(pictures, _noise(gan, size).to(networks.device))
    float(losses.generator)  # waits for a GPU


def _noise(gan: Gan, size: int) -> Tensor:
    return torch.rand(size, gan.num_latent)


def _values(networks: Dcgan) -> Iterator[Tensor]:
    for network in (networks.generator, networks.discriminator):
        yield from network.state_dict().values()


def _activations(networks: Dcgan, gan: Gan) -> float:
    """Return the bytes of an image that a step holds at its fullest.

    The discriminator looks at a real and a generated image at once, or at one that the generator makes. What
    these keep for the backward pass is counted, not measured: the process may have had a higher peak before.
    """
    pictures = torch.zeros(2, 3, gan.height, gan.width, device=networks.device)
    noise = _noise(gan, 2).to(networks.device)
    judged = _kept_bytes(networks.discriminator.train(), pictures)
    made = _kept_bytes(networks.generator.train(), noise)
    return _GRADIENTS * max(2 * judged, judged + made) / 2


def _kept_bytes(network: nn.Module, inputs: Tensor) -> float:
    """Return the bytes that a forward pass keeps beside the weights."""
    own = {value.untyped_storage().data_ptr() for value in network.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        network(inputs)
    return float(sum(kept.values()))


def _operations(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _compared_pair(gan: Gan) -> float:
    """Return the seconds of a pair of images whose pixels are compared."""
    images = stream(1).integers(0, 256, (_COMPARED, 3, gan.height, gan.width), dtype=np.uint8)
    _, seconds = timed_again(lambda: nearest_images(images, images), torch.device("cpu"))
    return seconds / _COMPARED**2


def _simulated(dimensions: int) -> synthetic.SimulatedFeatures:
    return synthetic.features(1, num_identities=_ROWS // 10, images_per_identity=10, dim=dimensions)


def _random_labels(number: int) -> NDArray[np.int64]:
    return np.arange(_ROWS) % number
