"""The tables of Yu et al., "Unsupervised person re-identification by soft multilabel learning" (MAR)."""

from collections.abc import Iterator, Sequence

from raid.methods.papers.sets import DUKEMTMC, MARKET1501, MSMT17, REFERENCES, PaperSet
from raid.methods.papers.tables import Cell, Job, Table

COLUMNS = ("rank-1", "rank-5", "mAP")
ABLATION_COLUMNS = ("rank-1", "rank-5", "rank-10", "mAP")
TABLE_1 = (67.7, 81.9, 40.0)
TABLE_2 = (67.1, 79.8, 48.0)
# By row: its name in run files, and figures on Market-1501 and DukeMTMC-reID.
TABLE_3 = {
    "Pretrained (source only)": ("source_only", (46.2, 64.4, 71.3, 24.6), (43.1, 59.2, 65.7, 28.8)),
    "Baseline (feature-guided)": ("feature_guided", (44.4, 62.5, 69.8, 21.5), (50.0, 66.4, 71.7, 31.7)),
    "MAR w/o L_CML": ("without_cml", (60.0, 75.9, 81.9, 34.6), (63.2, 77.2, 82.5, 44.9)),
    "MAR w/o L_CML & L_RAL": ("without_cml_ral", (53.9, 71.5, 77.7, 28.2), (60.1, 73.0, 78.4, 40.4)),
    "MAR w/o L_RAL": ("without_ral", (59.2, 76.4, 82.3, 30.8), (57.9, 72.6, 77.8, 37.1)),
    "MAR": ("mar", (67.7, 81.9, 87.3, 40.0), (67.1, 79.8, 84.2, 48.0)),
}
_PRECISION = (
    "The release's average precision favours the first match (evaluate.ap=mar_official); what is measured is "
    "the standard one."
)
_WITHDRAWN = f"{DUKEMTMC.note}."


def _cell(
    row: str, of: PaperSet, columns: Sequence[str], figures: Sequence[float], file: str, *overrides: str
) -> Cell:
    roots = f"data.root={of.root} source.root={MSMT17.root}"
    return Cell(
        block=of.title,
        row=row,
        of=of,
        job=Job(method="mar", file=file, overrides=" ".join([*overrides[:1], roots, *overrides[1:]])),
        figures=dict(zip(columns, figures, strict=True)),
        source=REFERENCES,
    )


def _table_3() -> Iterator[Cell]:
    for row, (name, market, _) in TABLE_3.items():
        yield _cell(row, MARKET1501, ABLATION_COLUMNS, market, f"mar_table3_{name}.yaml")
    for row, (name, _, duke) in TABLE_3.items():
        overrides = "data.layout=dukemtmc", f"run.folder=runs/duke_{name}"
        yield _cell(row, DUKEMTMC, ABLATION_COLUMNS, duke, f"mar_table3_{name}.yaml", *overrides)


TABLES = (
    Table(
        paper="MAR",
        number=1,
        title="unsupervised methods on Market-1501",
        digits=1,
        cells=(_cell("MAR", MARKET1501, COLUMNS, TABLE_1, "mar_market1501.yaml"),),
        notes=(_PRECISION,),
    ),
    Table(
        paper="MAR",
        number=2,
        title="unsupervised methods on DukeMTMC-reID",
        digits=1,
        cells=(_cell("MAR", DUKEMTMC, COLUMNS, TABLE_2, "mar_dukemtmc.yaml"),),
        notes=(_PRECISION, _WITHDRAWN),
    ),
    Table(
        paper="MAR",
        number=3,
        title="ablation study",
        digits=1,
        cells=tuple(_table_3()),
        notes=(
            _PRECISION,
            "Baseline (feature-guided) is our reading: paper and release leave the row undefined.",
            _WITHDRAWN,
        ),
    ),
)
