"""The tables of Li et al., "Pseudo labels refinement with intra-camera similarity" (ICSR)."""

from collections.abc import Iterator

from raid.methods.papers.sets import MARKET1501, MSMT17, PaperSet
from raid.methods.papers.tables import Cell, Job, Table

COLUMNS = ("mAP", "rank-1")
# On Market-1501 and MSMT17.
TABLE_1 = ((83.2, 93.1), (43.3, 71.5))
# By row: its name in run files, and as above.
TABLE_2 = {
    "Baseline": ("baseline", (81.8, 92.9), (33.0, 61.4)),
    "Ours, no decay": ("none", (82.5, 92.7), (39.8, 68.5)),
    "Ours, linear": ("linear", (81.3, 91.9), (41.3, 69.7)),
    "Ours, exponential": ("exponential", (83.1, 92.6), (41.4, 69.3)),
    "Ours, cosine": ("cosine", (83.2, 93.1), (43.3, 71.5)),
}
_LAST = "The release keeps the epoch of the best mAP on the test set; what is measured is of the last one."


def _cell(row: str, of: PaperSet, figures: tuple[float, float], file: str, overrides: str = "") -> Cell:
    return Cell(
        block=of.title,
        row=row,
        of=of,
        job=Job(method="icsr", file=file, overrides=f"data.root={of.root}{overrides}"),
        figures=dict(zip(COLUMNS, figures, strict=True)),
    )


def _table_2() -> Iterator[Cell]:
    for row, (name, market, _) in TABLE_2.items():
        setting = "refine.enabled=false" if name == "baseline" else f"refine.decay={name}"
        overrides = f" {setting} run.folder=runs/market_{name}"
        yield _cell(row, MARKET1501, market, "icsr_market1501.yaml", overrides)
    for row, (name, _, msmt17) in TABLE_2.items():
        yield _cell(row, MSMT17, msmt17, f"icsr_table2_{name}.yaml")


TABLES = (
    Table(
        paper="ICSR",
        number=1,
        title="comparison with other methods",
        digits=1,
        cells=(
            _cell("Ours", MARKET1501, TABLE_1[0], "icsr_market1501.yaml"),
            _cell("Ours", MSMT17, TABLE_1[1], "icsr_msmt17.yaml"),
        ),
        notes=(_LAST,),
    ),
    Table(
        paper="ICSR",
        number=2,
        title="ablation study on decay methods",
        digits=1,
        cells=tuple(_table_2()),
        notes=(
            _LAST,
            "The paper has no formula for the linear and the exponential decay; here they fall over the same "
            "horizon as the cosine (refine.horizon).",
        ),
    ),
)
