"""The demonstration of SLSR: what generated images and their labels add to a supervised training.

All arms of a seed start from the same weights and take as many steps on batches of one size; those with
generated images have the same ones, of one baseline's clusters. They differ in the images' labels. The last
is a control: sparse labels of other clusters' identities.
"""

import logging
from typing import Any

from raid.config import flatten, load
from raid.distributed.backend import Backend
from raid.methods.demo import PEOPLE, Figures, histogram_figures, render_set, table
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.gan_quality import ClusterQuality
from raid.methods.slsr.generation import GeneratedRecord, read_record
from raid.methods.slsr.inputs import open_slsr_inputs
from raid.run_folder import RunFolder

logger = logging.getLogger(__name__)

# The first one makes the images.
ARMS: dict[str, dict[str, Any]] = {
    "sparse": {},
    "none": {"generated.label": "none"},
    "LSRO": {"generated.label": "uniform"},
    "sparse, clusters permuted": {"generated.control": "permuted"},
}
COMPARED = [
    ("LSRO", "none"),
    ("sparse", "none"),
    ("sparse", "LSRO"),
    ("sparse", "sparse, clusters permuted"),
]


def render_people(config: SlsrConfig) -> None:
    """Render the set if it is not there."""
    render_set(config.data, PEOPLE)


def compare(config: SlsrConfig, backend: Backend, *, num_seeds: int) -> str:
    """Render the set if it is not there, train all arms, and return the comparison as text.

    Args:
        config: of the arm sparse; the runs go below its `run.folder`.
        backend: where they run, one after the other.
        num_seeds: train with so many seeds, the first being that of `config`.
    """
    render_people(config)
    inputs = open_slsr_inputs(config)
    retrieval = inputs.inputs.retrieval
    assert retrieval is not None
    logger.info(
        "%d training images of %d people, %d queries, %d gallery images",
        len(inputs.labels), inputs.num_identities, len(retrieval.query), len(retrieval.gallery),
    )  # fmt: skip
    seeds = range(config.seed, config.seed + num_seeds)
    rows: dict[str, list[Figures]] = {
        "colour histogram": [histogram_figures(retrieval, config.evaluate)] * num_seeds,
        "baseline (its features are clustered)": [],
    }
    made = []
    for seed in seeds:
        start = _trained(config, backend, f"baseline_seed{seed}", {"seed": seed, "finetuning.epochs": 0})
        rows["baseline (its features are clustered)"].append(start.metrics()[-1])
        maker: RunFolder | None = None
        for arm, switches in ARMS.items():
            values = {"seed": seed, "baseline.checkpoint": str(start.baseline), **switches}
            if maker is not None:
                values["generated.folder"] = str(maker.path)
            name = f"{arm.replace(',', '').replace(' ', '_')}_seed{seed}".lower()
            folder = _trained(config, backend, name, values)
            maker = maker or folder
            rows.setdefault(arm, []).append(folder.metrics()[-1])
        assert maker is not None
        made.append(_of_images(seed, read_record(maker.path)))
    return "\n".join([table(rows, seeds, COMPARED), "", "the generated images", *made])


def _trained(config: SlsrConfig, backend: Backend, name: str, values: dict[str, Any]) -> RunFolder:
    logger.info("== %s", name)
    folder = {"run.folder": str(config.run.folder / name)}
    changed = load(SlsrConfig, overrides={**flatten(config), **values, **folder})
    return slsr.run(changed, backend, fresh=True)


def _of_images(seed: int, record: GeneratedRecord) -> str:
    """Return what the images of a seed are worth."""
    lines = [f"seed {seed}: {sum(record.counts)} images" + _own_cluster(record)]
    lines += [f"    {_of_cluster(quality)}" for quality in record.quality]
    return "\n".join(lines)


def _own_cluster(record: GeneratedRecord) -> str:
    if record.own_cluster is None:
        return ""
    real = "" if record.own_cluster_real is None else f" (of real images {record.own_cluster_real:.0%})"
    return f", {record.own_cluster:.0%} in their own cluster by a classifier of colour histograms{real}"


def _of_cluster(quality: ClusterQuality) -> str:
    return (
        f"cluster {quality.cluster}: pixel variance {quality.variance_ratio:.2f} of the real images', "
        f"{quality.copies} copies, nearest real image {quality.nearest_real:.1f} levels away "
        f"(real ones among themselves: {quality.real_nearest:.1f})"
    )
