"""What SLSR's paper says of its runs, and the sets they are of; see `slsr_tables.py`."""

from dataclasses import dataclass, field

Settings = dict[str, str | int | bool]
Figures = tuple[float, ...]

RETRIEVAL = ("rank-1", "rank-5", "rank-10", "mAP")
WITHOUT_MAP = ("rank-1", "rank-5", "rank-10", "rank-20")
TITLES = {"resnet50": "ResNet", "densenet121": "DenseNet"}


@dataclass(frozen=True, kw_only=True)
class Set:
    """A set and its table.

    Attributes:
        title: its name.
        table: the number of its table.
        root: as a command has it.
        images: trained on.
        count: generated images.
        layout: settings of section data.
        evaluate: settings of section evaluate.
        columns: of the table.
        baseline: figures of the rows "Basel.", by backbone.
        sls: of the rows "SLS+".
        further: of other columns or rows, by (what, backbone, "baseline" or "sls").
        note: what a reader of any of its rows must know.
    """

    title: str
    table: int
    root: str
    images: int
    count: int = 12_000
    layout: Settings
    evaluate: Settings = field(default_factory=dict)
    columns: tuple[str, ...] = RETRIEVAL
    baseline: dict[str, Figures]
    sls: dict[str, Figures]
    further: dict[tuple[str, str, str], Figures] = field(default_factory=dict)
    note: str = ""


SETS = {
    "market1501": Set(
        title="Market-1501",
        table=4,
        root="PATH/Market-1501-v15.09.15",
        images=12_936,
        layout={"data.multi_query": True},
        evaluate={"evaluate.multi_query": True},
        baseline={"resnet50": (87.29, 95.57, 96.94, 69.70), "densenet121": (90.05, 96.82, 98.10, 74.16)},
        sls={"resnet50": (89.16, 95.78, 97.33, 75.15), "densenet121": (92.43, 97.27, 98.39, 79.08)},
        further={
            ("multi-query", "resnet50", "baseline"): (91.27, 96.85, 98.19, 76.94),
            ("multi-query", "densenet121", "baseline"): (92.90, 97.89, 98.69, 81.22),
            ("multi-query", "resnet50", "sls"): (92.25, 97.51, 98.34, 81.92),
            ("multi-query", "densenet121", "sls"): (94.06, 98.16, 98.84, 85.20),
            ("re-ranked", "densenet121", "sls"): (93.82, 96.73, 97.42, 90.20),
        },
    ),
    "cuhk03": Set(
        title="CUHK03",
        table=5,
        root="PATH/cuhk03_release",
        images=13_113,
        count=18_000,
        layout={"data.layout": "cuhk03", "data.protocol": "classic"},
        baseline={"resnet50": (75.11, 94.97, 97.87, 83.91), "densenet121": (67.55, 90.78, 95.26, 77.85)},
        sls={"resnet50": (91.03, 98.22, 99.26, 94.21), "densenet121": (83.61, 96.95, 98.88, 89.47)},
        further={("re-ranked", "densenet121", "sls"): (92.95, 97.79, 99.27, 95.10)},
        note="The paper's figures are not of features: the release compares the classifier's 1,367 outputs, "
        "without mirror images. Here as there: detected boxes, the first of the 20 splits, a hundred drawn "
        "galleries (evaluate.cuhk03=sls).",
    ),
    "dukemtmc": Set(
        title="DukeMTMC-reID",
        table=6,
        root="PATH/DukeMTMC-reID",
        images=16_522,
        layout={"data.layout": "dukemtmc"},
        baseline={"resnet50": (76.66, 87.83, 91.47, 58.35), "densenet121": (79.67, 89.85, 92.86, 63.19)},
        sls={"resnet50": (76.53, 88.15, 91.02, 60.79), "densenet121": (82.94, 91.69, 94.43, 67.78)},
        further={("re-ranked", "densenet121", "sls"): (86.66, 92.91, 94.97, 83.35)},
        note="DukeMTMC-reID was withdrawn by its makers in 2019 for want of consent and should not be used: "
        "this file is here for the paper's table to be complete.",
    ),
    "viper": Set(
        title="VIPeR",
        table=7,
        root="PATH/VIPeR",
        images=632,
        count=8_000,
        layout={"data.layout": "viper"},
        columns=WITHOUT_MAP,
        baseline={"resnet50": (62.03, 75.00, 80.22, 86.71), "densenet121": (63.45, 72.78, 79.11, 86.23)},
        sls={"resnet50": (65.98, 81.49, 88.45, 95.25), "densenet121": (67.41, 81.01, 88.61, 93.51)},
        note="One half of the people, as in the paper, drawn here: the paper's is not published. The set's "
        "protocol is the mean of ten: data.split_number=0 to 9, each trained into a run.folder of its own.",
    ),
}

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
