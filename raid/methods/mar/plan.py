"""What a run of MAR will take: see `raid.methods.plan`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from raid.errors import InputError
from raid.methods.encoder import device_of
from raid.methods.mar.check import check_batches
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import source_samples
from raid.methods.mar.memory import (
    MarSizes,
    adaptation_bytes,
    agreement_bytes,
    dense_agreement_bytes,
    first_worker_bytes,
    pretraining_bytes,
    table_bytes,
    what_would_fit,
)
from raid.methods.mar.probe import MarSpeed, compared_pairs, probe
from raid.methods.mar.start import mines_by_agreement
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
    training,
)
from raid.methods.plan_text import describe_counts, describe_disk, describe_plan, size_text
from raid.methods.probe import EncoderSpeed


@dataclass(frozen=True)
class MarCounts:
    """Images of the target, and the labelled images of the source with the people on them."""

    target: Counts
    source: int
    people: int

    def sizes(self, dimensions: int) -> MarSizes:
        """Return what the memory of a run depends on."""
        return MarSizes(self.target.train, self.people, dimensions)


def plan_run(config: MarConfig, given: Given, *, tflops: float | None = None) -> tuple[str, list[str]]:
    """Probe this machine and return the plan of the run, and what of it does not fit on this machine.

    Args:
        config: of the run.
        given: of its images; what is not given is counted.
        tflops: 10^12 operations a second that a processor of the run achieves, where it is not this one's.

    Raises:
        InputError: a set is not there, or is smaller than a batch.
    """
    counts = _counts(config, given)
    speed = probe(config, counts.people, len(counts.target.cameras), tflops=tflops)
    plan = measured(make_plan(config, counts, speed), given.scaling, config.run.workers)
    return _describe(plan, counts, config, speed.encoder), misfits_here(plan)


def make_plan(config: MarConfig, counts: MarCounts, speed: MarSpeed) -> Plan:
    """Reckon the run of `config` on sets of `counts` images."""
    encoder, workers, target = speed.encoder, config.run.workers, counts.target
    steps, evaluations = [], 0
    if config.pretraining_epochs:
        steps.append(_pretraining(config, counts, speed))
        evaluations += 1
    epochs = config.training.epochs
    if epochs:
        if config.losses.cml or mines_by_agreement(config):
            steps += [extraction(target.train, 1, encoder, workers), _start(config, counts, speed)]
        steps.append(_adaptation(config, counts, speed))
        evaluations += sum(config.evaluate.due(epoch, epochs) for epoch in range(epochs))
    evaluations *= target.query > 0
    steps.append(
        evaluation(target, evaluations, encoder, speed.ranked_pair, workers, flip=config.evaluate.flip)
    )
    return Plan(tuple(steps), sum(_sets(config, counts)))


def _pretraining(config: MarConfig, counts: MarCounts, speed: MarSpeed) -> Step:
    chosen, encoder = config.pretraining, speed.encoder
    num_steps = chosen.steps or counts.source // chosen.batch_size

    def needed(config: MarConfig) -> float:
        share = config.pretraining.batch_size // config.run.workers
        images = config.numerics.pass_size(share, config.pretraining_model)
        losses = pretraining_bytes(config, counts.sizes(encoder.dimensions))
        return encoder.fixed + images * encoder.activations + losses

    seconds = chosen.batch_size * encoder.train / config.run.workers + speed.softmax
    images = num_steps * chosen.batch_size
    return _training("pretraining", images, num_steps * seconds, chosen.epochs, config, encoder, needed)


def _start(config: MarConfig, counts: MarCounts, speed: MarSpeed) -> Step:
    """Return the look at all target images: by the first worker, the agreements by the whole pool."""
    encoder, workers, device = speed.encoder, config.run.workers, device_of(config.run.device)
    sizes, num_images = counts.sizes(encoder.dimensions), counts.target.train
    compared = num_images if config.mining.start == "exact" else min(num_images, config.mining.start)
    by_agreement = mines_by_agreement(config)

    # A GPU has its own.
    networks = 0.0 if device.type == "cuda" else encoder.fixed

    def needed(config: MarConfig) -> float:
        return networks + first_worker_bytes(config, sizes, device)

    table = 0.0 if device.type == "cuda" else table_bytes(config, sizes, device)[0]
    others = (workers - 1) * (networks + table + feature_bytes(num_images, encoder))
    seconds = num_images * speed.multilabel
    if by_agreement:
        seconds += compared_pairs(compared) * speed.pair / config.pool.processes(workers)
    return Step(
        "start",
        *repeated(seconds, 1),
        workers,
        needed(config),
        together=needed(config) + others,
        dense=dense_agreement_bytes(num_images) if by_agreement else 0.0,
        advice=partial(what_would_fit, config, needed),
    )


def _adaptation(config: MarConfig, counts: MarCounts, speed: MarSpeed) -> Step:
    chosen, encoder, device = config.training, speed.encoder, device_of(config.run.device)
    sizes = counts.sizes(encoder.dimensions)
    num_steps = chosen.steps or counts.source // chosen.source

    def needed(config: MarConfig) -> float:
        images = config.numerics.pass_size(config.batch_size // config.run.workers, config.model)
        beside = table_bytes(config, sizes, device)[0] + adaptation_bytes(config, sizes)
        return encoder.fixed + images * encoder.activations + beside

    seconds = config.batch_size * encoder.train / config.run.workers + speed.losses
    images = num_steps * config.batch_size
    return _training("training", images, num_steps * seconds, chosen.epochs, config, encoder, needed)


def _training(
    stage: str,
    images: int,
    seconds: float,
    epochs: int,
    config: MarConfig,
    encoder: EncoderSpeed,
    needed: Callable[[MarConfig], float],
) -> Step:
    """Return the epochs of a stage, of each of which one worker takes `needed` bytes."""
    return training(
        {"pretraining": "pretrain, an epoch", "training": "train, an epoch"}[stage],
        seconds,
        epochs,
        workers=config.run.workers,
        memory=needed(config),
        on_gpu=encoder.on_gpu,
        advice=partial(what_would_fit, config, needed),
        stage=stage,
        images=images,
    )


def _counts(config: MarConfig, given: Given) -> MarCounts:
    target, source, people = given.target, given.source_images, given.source_people
    if (source is None) != (people is None):
        raise InputError("--source-images, --source-people: give both, or none and they are counted")
    if source is None or people is None:
        samples, _ = source_samples(config)
        source, people = len(samples), len(np.unique(samples.identities))
    counts = MarCounts(target or counts_of(config.data), source, people)
    check_batches(config, counts.source, counts.target.train)
    return counts


def _sets(config: MarConfig, counts: MarCounts) -> list[float]:
    target = counts.target
    numbers = (counts.source, target.train, target.query, target.gallery)
    return [image_bytes(number, config.data) for number in numbers]


def _describe(plan: Plan, counts: MarCounts, config: MarConfig, encoder: EncoderSpeed) -> str:
    head = (
        f"source: {counts.source:,} images of {counts.people:,} people; "
        f"target: {describe_counts(counts.target, encoder)}"
    )
    remarks = []
    if config.training.epochs and mines_by_agreement(config):
        remarks = [*_agreements(counts, config, encoder), _table(counts, config, encoder)]
    return describe_plan(
        plan,
        config,
        encoder,
        head=head,
        remarks=remarks,
        disk=describe_disk(_sets(config, counts), config.data),
    )


def _agreements(counts: MarCounts, config: MarConfig, encoder: EncoderSpeed) -> list[str]:
    images = counts.target.train
    here = agreement_bytes(config, counts.sizes(encoder.dimensions))
    sampled = "" if config.mining.start == "exact" else f" ({config.mining.start:,} of them, drawn)"
    return [
        f"To compare the multilabels of {images:,} images{sampled} the dense way would need "
        f"{size_text(dense_agreement_bytes(images))}, this one {size_text(here)}."
    ]


def _table(counts: MarCounts, config: MarConfig, encoder: EncoderSpeed) -> str:
    sizes, workers, choice = counts.sizes(encoder.dimensions), config.run.workers, config.multilabel.table
    here, sharded = table_bytes(config, sizes, device_of(config.run.device))
    where = f"a part of {size_text(here)}" if sharded else "whole"
    return (
        f"multilabels    {size_text(here * (workers if sharded else 1))}, {sizes.images:,} images times "
        f"{sizes.people:,} reference persons, {where} on each worker (multilabel.table={choice})"
    )
