"""The tables of Ainam et al., "Sparse label smoothing for semi-supervised person re-identification" (SLSR).

`jobs/slsr_tables.py` writes their run files from what stands here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from raid.methods.papers.sets import CUHK03, DUKEMTMC, MARKET1501, VIPER, PaperSet
from raid.methods.papers.tables import SEED, Cell, Job, Table

Figures = tuple[float, ...]
Kind = Literal["", "multi_query", "rerank"]

RETRIEVAL = ("rank-1", "rank-5", "rank-10", "mAP")
WITHOUT_MAP = ("rank-1", "rank-5", "rank-10", "rank-20")
TITLES = {"resnet50": "ResNet", "densenet121": "DenseNet"}


@dataclass(frozen=True, kw_only=True)
class SetTable:
    """A set and its table, 4 to 7.

    Attributes:
        of: the set.
        number: of the table.
        count: generated images.
        columns: of the table.
        baseline: figures of the rows "Basel.", by backbone.
        sls: of the rows "SLS+".
        further: of other columns or rows, by (protocol, backbone, "baseline" or "sls").
        note: what a reader of any of its rows must know.
    """

    of: PaperSet
    number: int
    count: int = 12_000
    columns: tuple[str, ...] = RETRIEVAL
    baseline: Mapping[str, Figures]
    sls: Mapping[str, Figures]
    further: Mapping[tuple[Kind, str, str], Figures] = field(default_factory=dict)
    note: str = ""


# By the name that their run files have.
SETS = {
    "market1501": SetTable(
        of=MARKET1501,
        number=4,
        baseline={"resnet50": (87.29, 95.57, 96.94, 69.70), "densenet121": (90.05, 96.82, 98.10, 74.16)},
        sls={"resnet50": (89.16, 95.78, 97.33, 75.15), "densenet121": (92.43, 97.27, 98.39, 79.08)},
        further={
            ("multi_query", "resnet50", "baseline"): (91.27, 96.85, 98.19, 76.94),
            ("multi_query", "densenet121", "baseline"): (92.90, 97.89, 98.69, 81.22),
            ("multi_query", "resnet50", "sls"): (92.25, 97.51, 98.34, 81.92),
            ("multi_query", "densenet121", "sls"): (94.06, 98.16, 98.84, 85.20),
            ("rerank", "densenet121", "sls"): (93.82, 96.73, 97.42, 90.20),
        },
    ),
    "cuhk03": SetTable(
        of=CUHK03,
        number=5,
        count=18_000,
        baseline={"resnet50": (75.11, 94.97, 97.87, 83.91), "densenet121": (67.55, 90.78, 95.26, 77.85)},
        sls={"resnet50": (91.03, 98.22, 99.26, 94.21), "densenet121": (83.61, 96.95, 98.88, 89.47)},
        further={("rerank", "densenet121", "sls"): (92.95, 97.79, 99.27, 95.10)},
        note="The paper's figures are not of features: the release compares the classifier's 1,367 outputs, "
        "without mirror images. Here as there: detected boxes, the first of the 20 splits, a hundred drawn "
        "galleries (evaluate.cuhk03=sls).",
    ),
    "dukemtmc": SetTable(
        of=DUKEMTMC,
        number=6,
        baseline={"resnet50": (76.66, 87.83, 91.47, 58.35), "densenet121": (79.67, 89.85, 92.86, 63.19)},
        sls={"resnet50": (76.53, 88.15, 91.02, 60.79), "densenet121": (82.94, 91.69, 94.43, 67.78)},
        further={("rerank", "densenet121", "sls"): (86.66, 92.91, 94.97, 83.35)},
    ),
    "viper": SetTable(
        of=VIPER,
        number=7,
        count=8_000,
        columns=WITHOUT_MAP,
        baseline={"resnet50": (62.03, 75.00, 80.22, 86.71), "densenet121": (63.45, 72.78, 79.11, 86.23)},
        sls={"resnet50": (65.98, 81.49, 88.45, 95.25), "densenet121": (67.41, 81.01, 88.61, 93.51)},
        note="One half of the people, as in the paper, drawn here: the paper's is not published. The set's "
        "protocol is the mean of ten: data.split_number=0 to 9, each trained into a run.folder of its own.",
    ),
}
# By the number of clusters, with two principal components as features.
TABLE_1 = {2: 51.75, 3: 70.03, 4: 68.49, 5: 61.76}
# Of k clusters and so many images.
TABLE_2 = {
    (2, 12_000): (93.41, 96.61, 97.62, 90.15),
    (2, 18_000): (92.87, 96.02, 97.12, 89.59),
    (2, 24_000): (93.20, 95.62, 97.03, 89.41),
    (2, 30_000): (93.02, 95.99, 97.09, 89.51),
    (2, 36_000): (92.31, 95.87, 96.94, 88.51),
    (3, 12_000): (93.82, 96.73, 97.42, 90.20),
    (3, 18_000): (92.96, 95.96, 97.06, 89.54),
    (3, 24_000): (92.70, 96.05, 96.94, 89.01),
    (3, 30_000): (93.08, 96.02, 96.91, 89.00),
    (3, 36_000): (92.78, 96.26, 97.12, 88.13),
    (4, 12_000): (93.02, 96.17, 97.42, 89.89),
    (4, 18_000): (93.32, 96.23, 97.18, 89.26),
    (4, 24_000): (92.42, 96.99, 96.94, 88.99),
    (4, 30_000): (92.66, 96.02, 97.09, 88.65),
    (4, 36_000): (92.27, 95.81, 96.97, 88.55),
}
_PRECISION = (
    "The release's average precision is the trapezoidal one (evaluate.ap=market_trapezoid); what is measured "
    "is the standard one."
)
_LABELS = (
    "Labels are sparse, as in the paper; the release's are uniform. The paper's baseline has no erasing, 60 "
    "epochs for 130 and another learning rate: compare SLS with jobs/slsr_*_matched.yaml, of which there is "
    "no row."
)


def run_name(key: str, backbone: str, kind: str = "sls") -> str:
    """Return what the run file of a row of tables 4 to 7 is called, and its folder."""
    parts = ("slsr", key, "" if backbone == "resnet50" else backbone, "" if kind == "sls" else kind)
    return "_".join(filter(None, parts))


def sweep_name(clusters: int, count: int) -> str:
    """Return what the run file of a cell of table 2 is called, and its folder."""
    return f"slsr_table2_k{clusters}_{count}"


def _job(name: str, of: PaperSet) -> Job:
    return Job(method="slsr", file=f"{name}.yaml", overrides=f"data.root={of.root}")


def _cells(key: str) -> Iterator[Cell]:
    """Yield the cells of a set's table in the paper's order: multi-query last."""
    table = SETS[key]
    rows = [("baseline", table.baseline), ("sls", table.sls)]
    for kind, figures_of in rows:
        for backbone in TITLES:
            yield _cell(key, "", backbone, kind, figures_of[backbone])
    further = sorted(table.further, key=lambda row: row[0] == "multi_query")
    for protocol, backbone, kind in further:
        yield _cell(key, protocol, backbone, kind, table.further[protocol, backbone, kind])


def _cell(key: str, protocol: Kind, backbone: str, kind: str, figures: Figures) -> Cell:
    table, title = SETS[key], TITLES[backbone]
    row = f"{title} Basel." if kind == "baseline" else f"SLS+{title}"
    part = ", multi-query" if protocol == "multi_query" else ""
    # Any half of VIPeR's people is as good as another.
    halves = ("data.split_number",) if table.of is VIPER else ()
    return Cell(
        block=f"{table.of.title}{part}",
        row="SLS+Re-rank" if protocol == "rerank" else row,
        of=table.of,
        job=_job(run_name(key, backbone, kind), table.of),
        figures=dict(zip(table.columns, figures, strict=True)),
        kind=protocol,
        varying=(SEED, *halves),
    )


def _of_set(key: str) -> Table:
    table = SETS[key]
    notes = () if table.columns == WITHOUT_MAP else (_PRECISION,)
    of_set = (f"{table.of.note}.",) if table.of.note else ()
    return Table(
        paper="SLSR",
        number=table.number,
        title=f"{table.of.title}, {table.count:,} generated images",
        digits=2,
        cells=tuple(_cells(key)),
        notes=(*filter(None, (table.note,)), *notes, _LABELS, *of_set),
    )


_SILHOUETTES = Cell(
    block=MARKET1501.title,
    row="average silhouette",
    of=MARKET1501,
    job=_job(run_name("market1501", "resnet50"), MARKET1501),
    figures={f"k = {clusters}": figure for clusters, figure in TABLE_1.items()},
    kind="silhouette",
)
_SWEEP = tuple(
    Cell(
        block=f"{clusters} clusters",
        row=f"{count:,} images",
        of=MARKET1501,
        job=_job(sweep_name(clusters, count), MARKET1501),
        figures=dict(zip(RETRIEVAL, figures, strict=True)),
        kind="rerank",
    )
    for (clusters, count), figures in TABLE_2.items()
)
TABLES = (
    Table(
        paper="SLSR",
        number=1,
        title="silhouette by the number of clusters",
        digits=2,
        cells=(_SILHOUETTES,),
        notes=(
            "As in the release, of the clusters of two principal components of the features; those that "
            "images are generated from are clusters of the features themselves.",
        ),
    ),
    Table(
        paper="SLSR",
        number=2,
        title="clusters and generated images on Market-1501 (DenseNet, re-ranked)",
        digits=2,
        cells=_SWEEP,
        notes=(_PRECISION,),
    ),
    *map(_of_set, SETS),
)
