"""The stages that trials of a method share: what does not depend on the settings that a sweep searches."""

from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.preparation import prepare_local_labels
from raid.methods.mar.config import MarConfig
from raid.methods.mar.preparation import prepare_pretraining
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.preparation import prepare_baseline, prepare_images
from raid.methods.sweeps.definition import SharedStage


def _takes_local_labels(config: IcsrConfig) -> bool:
    return config.refine.enabled and config.intra.labels is None


def _takes_pretraining(config: MarConfig) -> bool:
    return config.training.epochs > 0 and config.pretraining.checkpoint is None


def _takes_baseline(config: SlsrConfig) -> bool:
    return config.baseline_epochs > 0 and config.finetuning.epochs > 0


def _takes_images(config: SlsrConfig) -> bool:
    return config.makes_images


LOCAL_LABELS = SharedStage("local_labels", "intra.labels", _takes_local_labels, prepare_local_labels)
PRETRAINING = SharedStage("pretraining", "pretraining.checkpoint", _takes_pretraining, prepare_pretraining)
BASELINE = SharedStage("baseline", "baseline.checkpoint", _takes_baseline, prepare_baseline)
IMAGES = SharedStage(
    "images",
    "generated.folder",
    _takes_images,
    prepare_images,
    of=("clusters.num_clusters",),
    largest=("generated.count",),
)
