"""What a run of SLSR will take: see `raid.methods.plan`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from raid.errors import InputError
from raid.methods.inputs import load_samples
from raid.methods.makespan import longest_first
from raid.methods.measured_plan import measured
from raid.methods.plan import (
    Counts,
    Given,
    Plan,
    Step,
    camera_sizes,
    counts_in,
    evaluation,
    feature_bytes,
    image_bytes,
    misfits_here,
    repeated,
    training,
)
from raid.methods.plan_text import describe_counts, describe_disk, describe_plan, size_text
from raid.methods.probe import EncoderSpeed
from raid.methods.slsr.check import check_sizes
from raid.methods.slsr.config import SlsrConfig, Supervised
from raid.methods.slsr.gan_quality import SAMPLES as COMPARED
from raid.methods.slsr.gan_training import SAMPLES as FOLLOWED
from raid.methods.slsr.memory import (
    SlsrSizes,
    clustering_bytes,
    extracted_bytes,
    gan_image_bytes,
    generation_bytes,
    head_bytes,
    label_bytes,
    num_clustered,
    num_outputs,
    what_would_fit,
)
from raid.methods.slsr.probe import MakingSpeed, SlsrSpeed, probe


@dataclass(frozen=True)
class SlsrCounts:
    """Images of the set, those of nobody known left out, and the people on the training images."""

    target: Counts
    identities: int

    @property
    def sizes(self) -> SlsrSizes:
        """What the memory of a run depends on."""
        return SlsrSizes(self.target.train, self.identities)


def plan_run(config: SlsrConfig, given: Given, *, tflops: float | None = None) -> tuple[str, list[str]]:
    """Probe this machine and return the plan of the run, and what of it does not fit on this machine.

    Args:
        config: of the run.
        given: of its images; what is not given is counted.
        tflops: 10^12 operations a second that a processor of the run achieves, where it is not this one's.

    Raises:
        InputError: the set is not there or is smaller than a batch, or what is given of it is not enough.
    """
    counts = _counts(config, given)
    speed = probe(config, counts.identities, tflops=tflops)
    plan = measured(make_plan(config, counts, speed), given.scaling, config.run.workers)
    return _describe(plan, counts, config, speed), misfits_here(plan)


def make_plan(config: SlsrConfig, counts: SlsrCounts, speed: SlsrSpeed) -> Plan:
    """Reckon the run of `config` on a set of `counts` images."""
    steps = []
    if config.baseline_epochs:
        steps.append(_baseline(config, counts, speed))
    if config.makes_images:
        assert speed.making is not None
        steps += [
            _extraction(config, counts, speed.baseline),
            _clustering(config, counts, speed.making),
            *_gans(config, counts, speed.making),
            _generation(config, counts, speed.making, speed.baseline),
        ]
    if config.finetuning.epochs:
        steps.append(_finetuning(config, counts, speed))
    steps += _evaluations(config, counts.target, speed)
    return Plan(tuple(steps), sum(_sets(config, counts)))


def disk_bytes(config: SlsrConfig, gan_weights: float) -> float:
    """Return what a run folder holds of generated images and GANs at its fullest.

    Args:
        config: of the run.
        gan_weights: bytes of a GAN's networks; its checkpoint has Adam's two moments too.
    """
    number = config.clusters.num_clusters + (config.gan.parent == "all_images")
    return gan_image_bytes(config, config.generated.count) + number * 3 * gan_weights


def pool_processes(config: SlsrConfig) -> int:
    """Return the processes of the pool: no more than there are clusters."""
    return min(config.pool.processes(config.run.workers), config.clusters.num_clusters)


def _baseline(config: SlsrConfig, counts: SlsrCounts, speed: SlsrSpeed) -> Step:
    stage = partial(
        _stage, "baseline", "baseline, an epoch", counts, encoder=speed.baseline, loss=speed.baseline_loss
    )
    return stage(config, lambda config: config.baseline, generated=0)


def _finetuning(config: SlsrConfig, counts: SlsrCounts, speed: SlsrSpeed) -> Step:
    generated = config.generated.count if config.uses_images else 0
    stage = partial(_stage, "training", "fine-tune, an epoch", counts, encoder=speed.encoder, loss=speed.loss)
    return stage(config, lambda config: config.finetuning, generated=generated)


def _stage(
    recorded: str,
    name: str,
    counts: SlsrCounts,
    config: SlsrConfig,
    chosen: Callable[[SlsrConfig], Supervised],
    *,
    encoder: EncoderSpeed,
    loss: float,
    generated: int,
) -> Step:
    """Return the epochs of a supervised stage on the real and so many generated images."""
    stage = chosen(config)
    num_steps = stage.steps or (counts.target.train + generated) // stage.batch_size

    def needed(config: SlsrConfig) -> float:
        stage = chosen(config)
        outputs = num_outputs(config, counts.identities, generated=generated > 0)
        beside = head_bytes(config, stage, encoder.dimensions, outputs)
        beside += label_bytes(config, counts.sizes, generated=generated > 0)
        images = config.numerics.pass_size(stage.batch_size // config.run.workers, config.model)
        return encoder.fixed + images * encoder.activations + beside

    return training(
        name,
        num_steps * (stage.batch_size * encoder.train / config.run.workers + loss),
        stage.epochs,
        workers=config.run.workers,
        memory=needed(config),
        on_gpu=encoder.on_gpu,
        advice=partial(what_would_fit, config, needed),
        stage=recorded,
        images=num_steps * stage.batch_size,
    )


def _extraction(config: SlsrConfig, counts: SlsrCounts, encoder: EncoderSpeed) -> Step:
    """Return the extraction of the features that are clustered: on the pool, for the driver."""
    images, processes = counts.target.train, pool_processes(config)

    def needed(config: SlsrConfig) -> float:
        return encoder.weights + extracted_bytes(config, images)

    memory = needed(config)
    return Step(
        "extract",
        *repeated(images * encoder.extract / processes, 1),
        processes,
        memory,
        together=memory + processes * encoder.weights,
        advice=partial(what_would_fit, config, needed),
    )


def _clustering(config: SlsrConfig, counts: SlsrCounts, speed: MakingSpeed) -> Step:
    """Return k-means and the silhouettes: one process of the pool has all features, as has the driver."""
    images, processes = counts.target.train, pool_processes(config)

    def needed(config: SlsrConfig) -> float:
        return clustering_bytes(config, images)

    memory = needed(config)
    shared = extracted_bytes(config, images) if processes > 1 else 0.0
    return Step(
        "cluster",
        *repeated(speed.clustering.seconds(images, num_clustered(config)), 1),
        processes,
        memory,
        together=memory + shared,
        # The silhouettes' distances of all pairs, in float64.
        dense=8.0 * images**2,
        advice=partial(what_would_fit, config, needed),
    )


def _gans(config: SlsrConfig, counts: SlsrCounts, speed: MakingSpeed) -> list[Step]:
    """Return the training of the parent, if there is one, and that of all clusters' GANs."""
    number, images, processes = config.clusters.num_clusters, counts.target.train, pool_processes(config)
    of_cluster = images / number  # nobody knows before
    steps = []
    if config.gan.parent == "all_images":
        steps.append(_gan("GAN of all images", images, 1, processes, 1, config, speed))
    return [*steps, _gan("GAN, a cluster", of_cluster, number, processes, processes, config, speed)]


def _gan(
    name: str,
    images: float,
    times: int,
    processes: int,
    at_a_time: int,
    config: SlsrConfig,
    speed: MakingSpeed,
) -> Step:
    """Return the training of `times` GANs of so many images each, `at_a_time` of them at a time."""
    gan, of_gan = config.gan, speed.gan
    of_epoch = gan.num_steps(images) * min(gan.batch_size, images) * of_gan.step
    seconds = gan.epochs * (of_epoch + FOLLOWED * of_gan.generate)

    def needed(config: SlsrConfig) -> float:
        # A GPU has the networks alone.
        own = 0.0 if of_gan.on_gpu else gan_image_bytes(config, images)
        return own + of_gan.fixed + min(config.gan.batch_size, images) * of_gan.activations

    memory = needed(config)
    return Step(
        name,
        seconds,
        times,
        longest_first([seconds] * times, at_a_time),
        processes,
        memory,
        together=at_a_time * memory,
        on_gpu=of_gan.on_gpu,
        advice=partial(what_would_fit, config, needed),
    )


def _generation(config: SlsrConfig, counts: SlsrCounts, speed: MakingSpeed, encoder: EncoderSpeed) -> Step:
    """Return the generated images of a cluster, and what they are worth."""
    number, processes = config.clusters.num_clusters, pool_processes(config)
    generated = config.generated.count / number
    samples, real = min(generated, COMPARED), min(counts.target.train / number, COMPARED)
    on_pool = generated * speed.gan.generate + (samples + real) * real * speed.compared
    # Features are those of all processes, one cluster after the other.
    on_driver = 2 * min(samples, real) * encoder.extract / processes + speed.frechet
    memory = generation_bytes(config)
    return Step(
        "generate, a cluster",
        on_pool + on_driver,
        number,
        longest_first([on_pool] * number, processes) + number * on_driver,
        processes,
        memory,
        together=processes * memory,
    )


def _evaluations(config: SlsrConfig, counts: Counts, speed: SlsrSpeed) -> list[Step]:
    """Return the evaluation after stage 1, and those of stage 5; together where the network is the same."""
    epochs = config.finetuning.epochs
    baseline = int(config.baseline_epochs > 0)
    due = sum(config.evaluate.due(epoch, epochs) for epoch in range(epochs))
    numbers = [(speed.encoder, due + baseline)]
    if epochs and speed.baseline != speed.encoder:
        numbers = [(speed.baseline, baseline), (speed.encoder, due)]
    steps, workers, flip = [], config.run.workers, config.evaluate.flip
    for encoder, times in numbers:
        times *= counts.query > 0
        steps.append(evaluation(counts, times, encoder, speed.ranked_pair, workers, flip=flip))
    if len(steps) > 1:
        steps[0] = replace(steps[0], name="evaluate baseline", span="baseline/evaluate")
    return steps


def _counts(config: SlsrConfig, given: Given) -> SlsrCounts:
    if given.source_images is not None or given.source_people is not None:
        raise InputError("--source-images, --source-people: are for `raid plan mar`; slsr has no source set")
    if given.target is None:
        counts = _counted(config)
    elif given.identities is None:
        raise InputError("--identities: say how many people the --images show: the classifier is as wide")
    else:
        counts = SlsrCounts(given.target, given.identities)
    check_sizes(config, counts.target.train)
    return counts


def _counted(config: SlsrConfig) -> SlsrCounts:
    """Count the set as `open_slsr_inputs` takes it."""
    samples = load_samples(config.data)
    counts, train = counts_in(samples, config.data), samples.split("train")
    known = train.take(np.flatnonzero(train.identities >= 0))
    return SlsrCounts(replace(counts, cameras=camera_sizes(known)), len(np.unique(known.identities)))


def _sets(config: SlsrConfig, counts: SlsrCounts) -> list[float]:
    target = counts.target
    return [image_bytes(number, config.data) for number in (target.train, target.query, target.gallery)]


def _describe(plan: Plan, counts: SlsrCounts, config: SlsrConfig, speed: SlsrSpeed) -> str:
    disk, remarks, speeds = describe_disk(_sets(config, counts), config.data), [], ""
    if speed.making is not None:
        gan = speed.making.gan
        disk += f"; {size_text(disk_bytes(config, gan.weights))} of generated images and GANs in run.folder"
        remarks = [_features(counts, config, speed), _of_gans(counts, config)]
        speeds = f"; {1 / gan.step:.1f} images/s of a GAN's step, {1 / gan.generate:.1f} generated"
    return describe_plan(
        plan,
        config,
        speed.encoder,
        head=f"{counts.identities:,} people, {describe_counts(counts.target, speed.encoder)}",
        speeds=speeds,
        remarks=remarks,
        disk=disk,
    )


def _features(counts: SlsrCounts, config: SlsrConfig, speed: SlsrSpeed) -> str:
    images, pooled = counts.target.train, feature_bytes(counts.target.train, speed.baseline)
    length, kind = num_clustered(config), config.clusters.features
    other = "" if kind == "pooled" else f"; pooled: {size_text(pooled)}"
    return (
        f"features       {size_text(4.0 * images * length)}, {length:,} numbers of {images:,} images "
        f"(clusters.features={kind}{other})"
    )


def _of_gans(counts: SlsrCounts, config: SlsrConfig) -> str:
    number, processes = config.clusters.num_clusters, pool_processes(config)
    of_cluster = counts.target.train / number
    steps = config.gan.epochs * config.gan.num_steps(of_cluster)
    return (
        f"GANs           {number} of {of_cluster:,.0f} images each, as if clusters were of one size: "
        f"{steps:,} steps; {processes} at a time"
    )
