"""Write the run files of SLSR's tables 2 and 4 to 7 from one template: `python jobs/slsr_tables.py`.

With `--check` nothing is written: the files that are not current are named, and the exit status is 1.

    slsr_SET.yaml                          SLS+ResNet; SET: market1501 (table 4), cuhk03, dukemtmc, viper (7)
    slsr_SET_densenet121.yaml              SLS+DenseNet, and the row re-ranked
    slsr_SET[_densenet121]_baseline.yaml   ResNet Basel., DenseNet Basel.: as the release trains them
    slsr_SET[_densenet121]_matched.yaml    the baseline that differs from SLS in the generated images alone
    slsr_table2_kK_COUNT.yaml              K clusters, 2 to 4, and COUNT images, 12000 to 36000
    slsr_as_released.yaml                  SLS+ResNet on Market-1501 with the release's uniform labels

Every run goes to runs/NAME_OF_THE_FILE. The figures are in slsr_figures.py.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slsr_figures import RETRIEVAL, SETS, TABLE_2, TITLES, Figures, Set, Settings

JOBS = Path(__file__).parent
BATCH, GAN_BATCH = 32, 64
DENSENET: Settings = {"model.backbone": "densenet121"}
OF_RESNET: Settings = {"baseline.backbone": "resnet50"}
EVERY: Settings = {"evaluate.every": 10}
SECTIONS = ("preset", "data", "model", "baseline", "clusters", "generated", "finetuning", "evaluate", "run")
COMMENTS = {
    "baseline.backbone": "whose features are clustered",
    "data.multi_query": "reads gt_bbox, which multi-query averages",
    "data.protocol": "1,367 people trained on, 100 tested; boxes are the detector's",
    "evaluate.every": "epochs; the result is the last one's",
    "finetuning.epochs": "stage 1 is the row",
    "generated.label": "real images alone: no clusters, no stage 1",
    "model.ghost_size": "batch norm over the whole batch, on one worker",
}

HARDWARE = "Hardware (an estimate): one GPU of 12 GB"
WORKERS = ", or two with run.workers=2 (1 or 2: whole ghost groups of 16)"
SIZES = (
    "Sizes are the release's: images of 288x144, crops of 256x128. The paper's text has 256x256 and 224x224 "
    "for ResNet: data.height=256 data.width=256 augment.input_size=[224,224]."
)
LABELS = (
    "Labels are sparse, as in the paper; the release's are uniform, generated.label=uniform. The baseline of "
    "the paper's table has no erasing, 60 epochs for 130 and another learning rate: the one to compare with "
    "is {matched}.yaml."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run file.

    Attributes:
        name: of the file, without its suffix.
        title: what it is.
        root: of the images.
        variants: (what for, overrides) of further commands.
        workers: how many can share a batch, in words.
        cost: steps, in words.
        figures: the paper's, in words.
        notes: what else a reader must know.
        settings: what differs from the defaults.
    """

    name: str
    title: str
    root: str
    variants: tuple[tuple[str, str], ...] = ()
    workers: str = WORKERS
    cost: str
    figures: str
    notes: tuple[str, ...] = ()
    settings: Settings


def rows() -> Iterator[Row]:
    """Yield all rows."""
    for key in SETS:
        for backbone in TITLES:
            yield _baseline(key, backbone)
            yield _matched(key, backbone)
            yield _sls(key, backbone)
    for (clusters, count), figures in TABLE_2.items():
        yield _of_table_2(clusters, count, figures)
    yield _as_released()


def text(row: Row) -> str:
    """Return the file of a row."""
    command = f"#   raid slsr jobs/{row.name}.yaml data.root={row.root}"
    lines = [f"# {row.title}", command]
    for what_for, overrides in row.variants:
        lines += [f"# {what_for}", f"{command} {overrides}"]
    for paragraph in (f"{HARDWARE}{row.workers}. {row.cost}", row.figures, *filter(None, row.notes)):
        lines += textwrap.wrap(
            paragraph,
            118,
            initial_indent="# ",
            subsequent_indent="#   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    lines.append("# Written by jobs/slsr_tables.py.")
    return "\n".join([*lines, *_yaml({**row.settings, "run.folder": f"runs/{row.name}"})]) + "\n"


def stale(folder: Path = JOBS) -> dict[Path, str]:
    """Return the files that are missing or not as the rows have them, with the text they should have."""
    wanted = {folder / f"{row.name}.yaml": text(row) for row in rows()}
    return {
        file: content
        for file, content in wanted.items()
        if not file.exists() or file.read_text(encoding="utf-8") != content
    }


def _baseline(key: str, backbone: str) -> Row:
    of_set = SETS[key]
    return Row(
        name=f"{_name(key, backbone)}_baseline",
        title=f"SLSR's table {of_set.table}, {of_set.title}: {TITLES[backbone]} Basel.",
        root=of_set.root,
        cost=f"{_stage_1(of_set.images)}.",
        figures=_paper(of_set, backbone, "baseline"),
        notes=(
            "As the release's train.py: 60 epochs, no erasing, learning rate 0.1 of the classifier. The "
            f"baseline to compare SLS with is {_name(key, backbone)}_matched.yaml.",
            SIZES if backbone == "resnet50" else "",
            of_set.note,
        ),
        settings={
            **of_set.layout,
            **(DENSENET if backbone == "densenet121" else {}),
            "finetuning.epochs": 0,
            **of_set.evaluate,
        },
    )


def _matched(key: str, backbone: str) -> Row:
    of_set, sls = SETS[key], _name(key, backbone)
    steps = (of_set.images + of_set.count) // BATCH
    name = f"{sls}_matched"
    return Row(
        name=name,
        title=f"SLSR's table {of_set.table}, {of_set.title}: matched baseline of SLS+{TITLES[backbone]}.",
        root=of_set.root,
        variants=(("with as many steps too", f"finetuning.steps={steps} run.folder=runs/{name}_steps"),),
        cost=f"130 x {of_set.images // BATCH} steps of {BATCH} images, no other stage.",
        figures="Paper: no such row; its baseline differs from SLS in erasing, learning rate and epochs too, "
        f"this one differs from {sls}.yaml in generated.label alone.",
        notes=(SIZES if backbone == "resnet50" else "", of_set.note),
        settings=_sls_settings(of_set, backbone) | {"generated.label": "none"},
    )


def _sls(key: str, backbone: str) -> Row:
    of_set, name = SETS[key], _name(key, backbone)
    variants = {
        "resnet50": (
            "from the stage 1 of the row ResNet Basel.",
            f"baseline.checkpoint=runs/slsr_{key}_baseline/baseline.pt",
        ),
        "densenet121": (
            "with the clusters and images of SLS+ResNet, which are the same",
            f"generated.folder=runs/slsr_{key}",
        ),
    }
    return Row(
        name=name,
        title=f"SLSR's table {of_set.table}, {of_set.title}: SLS+{TITLES[backbone]}.",
        root=of_set.root,
        variants=(variants[backbone],),
        cost=_all_stages(of_set.images, of_set.count, 3),
        figures=_paper(of_set, backbone, "sls"),
        notes=(
            LABELS.format(matched=f"{name}_matched"),
            SIZES if backbone == "resnet50" else "",
            of_set.note,
        ),
        settings=_sls_settings(of_set, backbone),
    )


def _of_table_2(clusters: int, count: int, figures: Figures) -> Row:
    of_set, largest = SETS["market1501"], f"slsr_table2_k{clusters}_36000"
    name = f"slsr_table2_k{clusters}_{count}"
    variants = {
        True: ("from the stage 1 of the row ResNet Basel.", _sls("market1501", "resnet50").variants[0][1]),
        False: (
            f"with the first images of {largest}, which are the same",
            f"generated.folder=runs/{largest}",
        ),
    }
    numbers: Settings = {"clusters.num_clusters": clusters, "generated.count": count}
    defaults = {"clusters.num_clusters": 3, "generated.count": 12_000}
    return Row(
        name=name,
        title=f"SLSR's table 2, Market-1501: {clusters} clusters, {count:,} images (DenseNet, re-ranked).",
        root=of_set.root,
        variants=(variants[name == largest],),
        cost=_all_stages(of_set.images, count, clusters),
        figures=f"Paper, re-ranked: {_words(figures, RETRIEVAL)}. One run each, no seeds: at their best the "
        "three numbers of clusters are half a point of rank-1 apart.",
        notes=(
            "The same training as slsr_market1501_densenet121.yaml."
            if (clusters, count) == (3, 12_000)
            else "",
        ),
        settings={
            **DENSENET,
            **OF_RESNET,
            **{path: value for path, value in numbers.items() if value != defaults[path]},
            **EVERY,
            "evaluate.rerank": True,
        },
    )


def _as_released() -> Row:
    of_set = SETS["market1501"]
    return Row(
        name="slsr_as_released",
        title="SLSR on Market-1501 as the authors' release runs: uniform labels, its average precision.",
        root=of_set.root,
        variants=(
            (
                "and DenseNet-121, with the same clusters and images",
                "model.backbone=densenet121 generated.folder=runs/slsr_as_released "
                "run.folder=runs/slsr_as_released_densenet121",
            ),
        ),
        workers=" and one worker",
        cost=_all_stages(of_set.images, of_set.count, 3),
        figures=f"{_paper(of_set, 'resnet50', 'sls')} Whether they are of this or of the paper's own loss "
        "is not known.",
        notes=(
            "Where this still differs: clusters are of the features of stage 1, not of a ResNet-50 trained "
            "in Keras, and GANs see their images in a random order, not in the folder's.",
        ),
        settings={
            "preset": "as_released",
            **of_set.layout,
            "model.ghost_size": BATCH,
            **EVERY,
            **of_set.evaluate,
        },
    )


def _sls_settings(of_set: Set, backbone: str) -> Settings:
    dense = backbone == "densenet121"
    reranked = ("re-ranked", backbone, "sls") in of_set.further
    return {
        **of_set.layout,
        **(DENSENET | OF_RESNET if dense else {}),
        **({} if of_set.count == 12_000 else {"generated.count": of_set.count}),
        **EVERY,
        **of_set.evaluate,
        **({"evaluate.rerank": True} if reranked else {}),
    }


def _name(key: str, backbone: str) -> str:
    return f"slsr_{key}" if backbone == "resnet50" else f"slsr_{key}_{backbone}"


def _stage_1(images: int) -> str:
    return f"Steps of {BATCH} images: 60 x {images // BATCH}"


def _all_stages(images: int, count: int, clusters: int) -> str:
    return (
        f"{_stage_1(images)} of ResNet-50, then 130 x {(images + count) // BATCH}; between them {clusters} "
        f"DCGANs at the same time, about 30 x {images // clusters // GAN_BATCH} steps of {GAN_BATCH} each."
    )


def _paper(of_set: Set, backbone: str, kind: str) -> str:
    figures = {"baseline": of_set.baseline, "sls": of_set.sls}[kind][backbone]
    parts = [_words(figures, of_set.columns)] + [
        f"{what} {_words(more, of_set.columns)}"
        for (what, *row), more in of_set.further.items()
        if row == [backbone, kind]
    ]
    return f"Paper: {'; '.join(parts)}. One run, no seeds."


def _words(figures: Figures, columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column} {figure:.2f}" for column, figure in zip(columns, figures, strict=True))


def _yaml(settings: Settings) -> Iterator[str]:
    """Yield the lines of a YAML file."""
    above = ""
    for path in sorted(settings, key=lambda path: SECTIONS.index(path.partition(".")[0])):
        section, _, name = path.rpartition(".")
        if section != above:
            yield f"{section}:"
        above, value = section, settings[path]
        shown = value if isinstance(value, str) else json.dumps(value)
        comment = f"  # {COMMENTS[path]}" if path in COMMENTS else ""
        yield f"{'  ' if section else ''}{name}: {shown}{comment}"


def main() -> int:
    """Write the files, or say which are not current."""
    parser = argparse.ArgumentParser(description="write the run files of SLSR's tables")
    parser.add_argument("--check", action="store_true", help="write nothing; say which are not current")
    check = parser.parse_args().check
    found = stale()
    for file, content in found.items():
        if check:
            print(f"{file} is not what jobs/slsr_tables.py writes")
        else:
            file.write_text(content, encoding="utf-8")
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
