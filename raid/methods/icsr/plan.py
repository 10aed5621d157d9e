"""What a run of ICSR will take: see `raid.methods.plan`."""

from collections.abc import Callable, Sequence

from raid.errors import InputError
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.memory import ClusterTask, cluster_bytes, dense_bytes, disk_bytes, what_would_fit
from raid.methods.icsr.probe import ClusterSpeed, probe_clustering, probe_training
from raid.methods.makespan import makespan
from raid.methods.measured_plan import measured
from raid.methods.plan import (
    Counts,
    Given,
    Plan,
    Step,
    counts_of,
    evaluation,
    extraction,
    feature_bytes,
    image_bytes,
    misfits_here,
    repeated,
)
from raid.methods.plan_text import (
    describe_counts,
    describe_disk,
    describe_makespans,
    describe_plan,
    size_text,
)
from raid.methods.probe import EncoderSpeed

_GIB = 2**30


def plan_run(config: IcsrConfig, given: Given, *, tflops: float | None = None) -> tuple[str, list[str]]:
    """Probe this machine and return the plan of the run, and what of it does not fit on this machine.

    Args:
        config: of the run.
        given: of its images.
        tflops: 10^12 operations a second that a processor of the run achieves, where it is not this one's.

    Raises:
        InputError: the set is not there, or a source set is given.
    """
    if given.source_images is not None or given.source_people is not None:
        raise InputError("--source-images, --source-people: are for `raid plan mar`; icsr has no source set")
    counts = given.target or counts_of(config.data)
    encoder = probe_training(config, tflops=tflops)
    clustering = probe_clustering(
        config, dimensions=encoder.dimensions, cluster_size=counts.train / config.inter.num_clusters
    )
    plan = measured(make_plan(config, counts, encoder, clustering), given.scaling, config.run.workers)
    cameras = given.scaling.camera_seconds if given.scaling is not None else []
    if config.makes_labels and not cameras:
        cameras = camera_seconds(config, counts, encoder, clustering)
    return _describe(plan, counts, config, encoder, clustering, cameras), misfits_here(plan)


def make_plan(config: IcsrConfig, counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed) -> Plan:
    """Reckon the run of `config` on sets of `counts` images."""
    workers, epochs = config.run.workers, config.inter.epochs
    processes = config.pool.processes(workers)
    steps = []
    if config.makes_labels:
        steps.append(_intra_camera(config, counts, encoder, clustering, processes))
    batch = config.training.sampler.batch_size
    evaluations = sum(config.evaluate.due(epoch, epochs) for epoch in range(epochs)) if counts.query else 0
    task = ClusterTask.inter(config, counts.train, encoder.dimensions)
    entries = clustering.expected_entries(task)
    clustered = cluster_bytes(task, entries)
    # While the first worker clusters, the others hold the features as well.
    others = (workers - 1) * feature_bytes(counts.train, encoder) + workers * encoder.fixed
    images = config.numerics.pass_size(batch // workers, config.model)
    training = encoder.fixed + images * encoder.activations
    steps += [
        extraction(counts.train, epochs, encoder, workers),
        Step(
            "cluster", *repeated(clustering.seconds(task, processes), epochs), workers, clustered,
            together=clustered + others, dense=dense_bytes(counts.train), advice=_advice(task, entries),
            span="training/cluster",
        ),
        Step(
            "train", *repeated(config.inter.steps * batch * encoder.train / workers, epochs), workers,
            training, together=workers * training, on_gpu=encoder.on_gpu,
            span="training/train", images=config.inter.steps * batch,
        ),
        evaluation(counts, evaluations, encoder, clustering.ranked_pair, workers, flip=config.evaluate.flip),
    ]  # fmt: skip
    return Plan(tuple(steps), sum(_sets(config, counts)))


def camera_seconds(
    config: IcsrConfig, counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed
) -> list[float]:
    """Return what stage 1 takes for each camera, in the order in which they are handed out: largest first."""
    intra, batch = config.intra, config.camera_training.sampler.batch_size
    training = (intra.epochs - 1) * intra.steps * batch * encoder.train
    seconds = []
    for count in sorted(counts.cameras, reverse=True):
        task = ClusterTask.intra(config, count, encoder.dimensions)
        seconds.append(training + intra.epochs * (count * encoder.extract + clustering.seconds(task)))
    return seconds


def _intra_camera(
    config: IcsrConfig, counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed, processes: int
) -> Step:
    batch, largest = config.camera_training.sampler.batch_size, max(counts.cameras)
    task = ClusterTask.intra(config, largest, encoder.dimensions)
    cameras = camera_seconds(config, counts, encoder, clustering)
    entries = clustering.expected_entries(task)
    images = config.numerics.pass_size(batch, config.model)
    memory = max(encoder.fixed + images * encoder.activations, cluster_bytes(task, entries))
    return Step(
        "stage 1, a camera",
        sum(cameras) / len(cameras),
        len(cameras),
        makespan(cameras, processes),
        processes,
        memory,
        together=processes * memory,
        dense=dense_bytes(largest),
        advice=_advice(task, entries),
        span="cameras",
    )


def _stage_1(cameras: Sequence[float], config: IcsrConfig) -> list[str]:
    if not config.makes_labels:
        return []
    number = f"{len(cameras)} camera{'s' if len(cameras) > 1 else ''}"
    return describe_makespans(cameras, f"stage 1        {number}, the largest first, on so many processes")


def _advice(task: ClusterTask, entries: float) -> Callable[[float], str]:
    """Return what says how a clustering would fit, where it is what does not."""

    def advice(available: float) -> str:
        fits = cluster_bytes(task, entries) <= available
        return "" if fits else what_would_fit(task, entries, available)

    return advice


def _sets(config: IcsrConfig, counts: Counts) -> list[float]:
    return [image_bytes(number, config.data) for number in (counts.train, counts.query, counts.gallery)]


def _describe(
    plan: Plan,
    counts: Counts,
    config: IcsrConfig,
    encoder: EncoderSpeed,
    clustering: ClusterSpeed,
    cameras: Sequence[float],
) -> str:
    task = ClusterTask.inter(config, counts.train, encoder.dimensions)
    entries = clustering.expected_entries(task)
    clustered = next(step for step in plan.steps if step.name == "cluster")
    disk, similarity = describe_disk(_sets(config, counts), config.data), disk_bytes(task, entries)
    if similarity:
        disk += f"; {size_text(similarity)} of similarity where it is clustered, while it is"
    return describe_plan(
        plan,
        config,
        encoder,
        head=describe_counts(counts, encoder),
        speeds=f"; similarity of {entries:,.0f} entries a row",
        remarks=[
            f"To cluster {counts.train:,} images the dense way would need {clustered.dense / _GIB:,.1f} GiB, "
            f"this one {clustered.memory / _GIB:,.1f}.",
            *_stage_1(cameras, config),
        ],
        disk=disk,
    )
