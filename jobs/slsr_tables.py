"""Write the run files of SLSR's tables 2 and 4 to 7 from one template: `python jobs/slsr_tables.py`.

With `--check` nothing is written: the files that are not current are named, and the exit status is 1.

    slsr_SET.yaml                          SLS+ResNet; SET: market1501 (table 4), cuhk03, dukemtmc, viper (7)
    slsr_SET_densenet121.yaml              SLS+DenseNet, and the row re-ranked
    slsr_SET[_densenet121]_baseline.yaml   ResNet Basel., DenseNet Basel.: as the release trains them
    slsr_SET[_densenet121]_matched.yaml    the baseline that differs from SLS in the generated images alone
    slsr_table2_kK_COUNT.yaml              K clusters, 2 to 4, and COUNT images, 12000 to 36000
    slsr_as_released.yaml                  SLS+ResNet on Market-1501 with the release's uniform labels

Every run goes to runs/NAME_OF_THE_FILE. The figures are those of `raid tables`.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raid.methods.papers.slsr import (
    RETRIEVAL,
    SETS,
    TABLE_2,
    TITLES,
    Figures,
    SetTable,
    run_name,
    sweep_name,
)

Settings = dict[str, str | int | bool]

JOBS = Path(__file__).parent
BATCH, GAN_BATCH = 32, 64
DENSENET: Settings = {"model.backbone": "densenet121"}
OF_RESNET: Settings = {"baseline.backbone": "resnet50"}
EVERY: Settings = {"evaluate.every": 10}
# What a set adds to section data, and to section evaluate.
LAYOUTS: dict[str, Settings] = {
    "market1501": {"data.multi_query": True},
    "cuhk03": {"data.layout": "cuhk03", "data.protocol": "classic"},
    "dukemtmc": {"data.layout": "dukemtmc"},
    "viper": {"data.layout": "viper"},
}
EVALUATIONS: dict[str, Settings] = {"market1501": {"evaluate.multi_query": True}}
PROTOCOLS = {"multi_query": "multi-query", "rerank": "re-ranked"}
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
    table = SETS[key]
    return Row(
        name=run_name(key, backbone, "baseline"),
        title=f"SLSR's table {table.number}, {table.of.title}: {TITLES[backbone]} Basel.",
        root=table.of.root,
        cost=f"{_stage_1(table.of.num_train)}.",
        figures=_paper(table, backbone, "baseline"),
        notes=(
            "As the release's train.py: 60 epochs, no erasing, learning rate 0.1 of the classifier. The "
            f"baseline to compare SLS with is {run_name(key, backbone)}_matched.yaml.",
            SIZES if backbone == "resnet50" else "",
            _note(table),
        ),
        settings={
            **LAYOUTS[key],
            **(DENSENET if backbone == "densenet121" else {}),
            "finetuning.epochs": 0,
            **EVALUATIONS.get(key, {}),
        },
    )


def _matched(key: str, backbone: str) -> Row:
    table, sls = SETS[key], run_name(key, backbone)
    steps = (table.of.num_train + table.count) // BATCH
    name = f"{sls}_matched"
    return Row(
        name=name,
        title=f"SLSR's table {table.number}, {table.of.title}: matched baseline of SLS+{TITLES[backbone]}.",
        root=table.of.root,
        variants=(("with as many steps too", f"finetuning.steps={steps} run.folder=runs/{name}_steps"),),
        cost=f"130 x {table.of.num_train // BATCH} steps of {BATCH} images, no other stage.",
        figures="Paper: no such row; its baseline differs from SLS in erasing, learning rate and epochs too, "
        f"this one differs from {sls}.yaml in generated.label alone.",
        notes=(SIZES if backbone == "resnet50" else "", _note(table)),
        settings=_sls_settings(key, backbone) | {"generated.label": "none"},
    )


def _sls(key: str, backbone: str) -> Row:
    table, name = SETS[key], run_name(key, backbone)
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
        title=f"SLSR's table {table.number}, {table.of.title}: SLS+{TITLES[backbone]}.",
        root=table.of.root,
        variants=(variants[backbone],),
        cost=_all_stages(table.of.num_train, table.count, 3),
        figures=_paper(table, backbone, "sls"),
        notes=(
            LABELS.format(matched=f"{name}_matched"),
            SIZES if backbone == "resnet50" else "",
            _note(table),
        ),
        settings=_sls_settings(key, backbone),
    )


def _of_table_2(clusters: int, count: int, figures: Figures) -> Row:
    table, largest = SETS["market1501"], sweep_name(clusters, 36_000)
    name = sweep_name(clusters, count)
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
        root=table.of.root,
        variants=(variants[name == largest],),
        cost=_all_stages(table.of.num_train, count, clusters),
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
    table = SETS["market1501"]
    return Row(
        name="slsr_as_released",
        title="SLSR on Market-1501 as the authors' release runs: uniform labels, its average precision.",
        root=table.of.root,
        variants=(
            (
                "and DenseNet-121, with the same clusters and images",
                "model.backbone=densenet121 generated.folder=runs/slsr_as_released "
                "run.folder=runs/slsr_as_released_densenet121",
            ),
        ),
        workers=" and one worker",
        cost=_all_stages(table.of.num_train, table.count, 3),
        figures=f"{_paper(table, 'resnet50', 'sls')} Whether they are of this or of the paper's own loss "
        "is not known.",
        notes=(
            "Where this still differs: clusters are of the features of stage 1, not of a ResNet-50 trained "
            "in Keras, and GANs see their images in a random order, not in the folder's.",
        ),
        settings={
            "preset": "as_released",
            **LAYOUTS["market1501"],
            "model.ghost_size": BATCH,
            **EVERY,
            **EVALUATIONS["market1501"],
        },
    )


def _sls_settings(key: str, backbone: str) -> Settings:
    table = SETS[key]
    dense = backbone == "densenet121"
    reranked = ("rerank", backbone, "sls") in table.further
    return {
        **LAYOUTS[key],
        **(DENSENET | OF_RESNET if dense else {}),
        **({} if table.count == 12_000 else {"generated.count": table.count}),
        **EVERY,
        **EVALUATIONS.get(key, {}),
        **({"evaluate.rerank": True} if reranked else {}),
    }


def _note(table: SetTable) -> str:
    """Return what must be known of the set, of its rows, or nothing."""
    note = table.of.note
    return f"{note}: this file is here for the paper's table to be complete." if note else table.note


def _stage_1(images: int) -> str:
    return f"Steps of {BATCH} images: 60 x {images // BATCH}"


def _all_stages(images: int, count: int, clusters: int) -> str:
    return (
        f"{_stage_1(images)} of ResNet-50, then 130 x {(images + count) // BATCH}; between them {clusters} "
        f"DCGANs at the same time, about 30 x {images // clusters // GAN_BATCH} steps of {GAN_BATCH} each."
    )


def _paper(table: SetTable, backbone: str, kind: str) -> str:
    figures = {"baseline": table.baseline, "sls": table.sls}[kind][backbone]
    parts = [_words(figures, table.columns)] + [
        f"{PROTOCOLS[protocol]} {_words(more, table.columns)}"
        for (protocol, *row), more in table.further.items()
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
