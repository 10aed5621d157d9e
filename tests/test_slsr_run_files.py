"""The run files of SLSR's tables are what their generator writes, and differ in what their rows differ in."""

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from raid.config import config_hash, flatten, load, read_flat
from raid.data import counts
from raid.methods.slsr.config import SlsrConfig

JOBS = Path(__file__).parents[1] / "jobs"
GENERATOR = JOBS / "slsr_tables.py"
BACKBONES = {"": "resnet50", "_densenet121": "densenet121"}
# layout, protocol, generated images, published counts
SETS = {
    "market1501": ("market1501", "new", 12_000, counts.MARKET1501),
    "cuhk03": ("cuhk03", "classic", 18_000, counts.CUHK03_CLASSIC_FIRST),
    "dukemtmc": ("dukemtmc", "new", 12_000, counts.DUKEMTMC),
    "viper": ("viper", "new", 8_000, counts.VIPER),
}
COUNTS = (12_000, 18_000, 24_000, 30_000, 36_000)
TABLE_2 = [f"table2_k{clusters}_{count}" for clusters in (2, 3, 4) for count in COUNTS]
KINDS = ("", "_baseline", "_matched")
ROWS = [f"{name}{backbone}{kind}" for name in SETS for backbone in BACKBONES for kind in KINDS]
SLS = [row for row in ROWS if not row.endswith(KINDS[1:])]


def loaded(row: str, *overrides: str) -> SlsrConfig:
    return load(SlsrConfig, JOBS / f"slsr_{row}.yaml", ["data.root=somewhere", *overrides])


def header(row: str) -> str:
    lines = (JOBS / f"slsr_{row}.yaml").read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def differing(one: SlsrConfig, other: SlsrConfig) -> set[str]:
    flat = flatten(other)
    return {path for path, value in flatten(one).items() if value != flat[path]}


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(JOBS))
    return import_module("slsr_tables")


def test_files_are_current():
    done = subprocess.run([sys.executable, GENERATOR, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_generator_knows_a_changed_and_a_missing_file_and_writes_them(tmp_path):
    for file in (*JOBS.glob("slsr_*.yaml"), *JOBS.glob("slsr_*.py")):
        shutil.copy(file, tmp_path)
    changed, missing = tmp_path / "slsr_viper.yaml", tmp_path / "slsr_table2_k2_12000.yaml"
    changed.write_text(changed.read_text().replace("8000", "9000"))
    missing.unlink()
    command = [sys.executable, tmp_path / "slsr_tables.py"]
    check = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert [line.split()[0] for line in check.stdout.splitlines()] == [str(changed), str(missing)]
    assert not missing.exists()
    subprocess.run(command, check=True)
    for file in (changed, missing):
        assert file.read_text() == (JOBS / file.name).read_text()


def test_every_row_has_its_file(generator):
    written = {row.name for row in generator.rows()}
    assert written == {f"slsr_{row}" for row in [*ROWS, *TABLE_2, "as_released"]}


@pytest.mark.parametrize("row", [*ROWS, *TABLE_2, "as_released"])
def test_a_file_says_only_what_differs_and_goes_to_a_folder_of_its_name(row):
    defaults = flatten(SlsrConfig())
    for path, value in read_flat(JOBS / f"slsr_{row}.yaml").items():
        assert value != defaults[path], path
    assert loaded(row).run.folder == Path(f"runs/slsr_{row}")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", SETS)
def test_sls_rows_hold_what_the_paper_says(name, backbone):
    config, (layout, protocol, count, _) = loaded(f"{name}{backbone}"), SETS[name]
    assert (config.data.layout, config.data.protocol, config.data.split_number) == (layout, protocol, 0)
    assert config.data.boxes == "detected"
    assert (config.data.height, config.data.width, config.augment.input_size) == (288, 144, (256, 128))
    assert config.model.backbone == BACKBONES[backbone]
    assert config.baseline_model.backbone == "resnet50"
    assert (config.clusters.num_clusters, config.generated.count) == (3, count)
    assert (config.generated.label, config.generated.split, config.generated.control) == (
        "sparse",
        "equal",
        "none",
    )
    tuned = config.finetuning
    assert (tuned.epochs, tuned.batch_size, tuned.learning_rate, tuned.head_learning_rate) == (
        130,
        32,
        0.01,
        0.05,
    )
    assert (tuned.momentum, tuned.weight_decay, tuned.step_epochs, tuned.gamma) == (0.9, 5e-4, 40, 0.1)
    assert (tuned.erase_probability, tuned.start) == (0.8, "weights")
    assert (config.gan.epochs, config.gan.batch_size, config.gan.learning_rate, config.gan.beta1) == (
        30,
        64,
        2e-4,
        0.5,
    )
    options = config.evaluate
    assert (options.flip, options.cuhk03) == (True, "sls")
    assert (options.multi_query, config.data.multi_query) == (name == "market1501",) * 2
    assert options.rerank == (backbone != "" and name != "viper")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", SETS)
def test_baseline_rows_are_stage_1_as_released(name, backbone):
    config = loaded(f"{name}{backbone}_baseline")
    assert (config.finetuning.epochs, config.epochs, config.makes_images) == (0, 60, False)
    assert config.baseline_model.backbone == BACKBONES[backbone]
    stage = config.baseline
    assert (stage.learning_rate, stage.head_learning_rate, stage.erase_probability) == (0.01, 0.1, 0.0)
    assert config.data == loaded(name).data
    # The ResNet row's baseline.pt serves the rows that make images.
    of_images = loaded(f"{name}{backbone}")
    assert of_images.baseline_model == loaded(f"{name}_baseline").baseline_model
    assert differing(of_images, loaded(f"{name}_baseline")) <= {
        *("finetuning.epochs", "run.folder", "model.backbone", "baseline.backbone"),
        *("generated.count", "evaluate.every", "evaluate.rerank"),
    }


@pytest.mark.parametrize("row", SLS)
def test_a_matched_baseline_differs_in_the_generated_images_alone(row):
    matched = loaded(f"{row}_matched")
    assert differing(loaded(row), matched) == {"generated.label", "run.folder"}
    assert (matched.generated.label, matched.epochs) == ("none", 130)


@pytest.mark.parametrize("name", SETS)
def test_rows_of_both_backbones_can_share_their_generated_images(name):
    found = differing(loaded(name), loaded(f"{name}_densenet121"))
    assert found - {"evaluate.rerank"} == {"model.backbone", "baseline.backbone", "run.folder"}


def test_rows_of_table_2_differ_in_clusters_and_count_alone():
    for row in TABLE_2:
        clusters, count = row.removeprefix("table2_k").split("_")
        config = loaded(row)
        assert (config.clusters.num_clusters, config.generated.count) == (int(clusters), int(count))
        assert config.evaluate.rerank
        as_first = loaded(row, "clusters.num_clusters=3", "generated.count=12000")
        assert config_hash(as_first) == config_hash(loaded("table2_k3_12000"))
    densenet = loaded("market1501_densenet121", "data.multi_query=false")
    assert config_hash(densenet) == config_hash(loaded("table2_k3_12000"))


def test_as_released_has_uniform_labels_and_a_batch_norm_over_the_batch():
    config = loaded("as_released")
    assert (config.generated.label, config.evaluate.ap) == ("uniform", "market_trapezoid")
    assert config.model.ghost_size == config.finetuning.batch_size == config.baseline.batch_size
    assert differing(loaded("market1501"), config) == {
        *("preset", "generated.label", "evaluate.ap", "model.ghost_size", "run.folder")
    }


@pytest.mark.parametrize("row", ROWS)
def test_headers_count_the_steps(row):
    name, config = row.split("_")[0], loaded(row)
    images = SETS[name][3].splits["train"].images
    size = config.finetuning.batch_size
    steps = {
        "": f"60 x {images // size} of ResNet-50, then 130 x {(images + config.generated.count) // size};",
        "_baseline": f"60 x {images // size}.",
        "_matched": f"130 x {images // size} steps",
    }
    kind = next(kind for kind in reversed(KINDS) if row.endswith(kind))
    assert f" {steps[kind]}" in header(row)
    if kind == "_matched":
        assert f"finetuning.steps={(images + config.generated.count) // size} " in header(row)


@pytest.mark.parametrize(
    ("row", "figures"),
    [
        ("market1501", "rank-1 89.16, rank-5 95.78, rank-10 97.33, mAP 75.15; multi-query rank-1 92.25"),
        (
            "market1501_baseline",
            "rank-1 87.29, rank-5 95.57, rank-10 96.94, mAP 69.70; multi-query rank-1 91.27",
        ),
        (
            "market1501_densenet121",
            "mAP 79.08; multi-query rank-1 94.06, rank-5 98.16, rank-10 98.84, mAP 85.20",
        ),
        ("market1501_densenet121", "re-ranked rank-1 93.82, rank-5 96.73, rank-10 97.42, mAP 90.20"),
        ("cuhk03_densenet121_baseline", "rank-1 67.55, rank-5 90.78, rank-10 95.26, mAP 77.85"),
        ("dukemtmc", "rank-1 76.53, rank-5 88.15, rank-10 91.02, mAP 60.79"),
        ("viper_densenet121", "rank-1 67.41, rank-5 81.01, rank-10 88.61, rank-20 93.51"),
        ("table2_k4_18000", "rank-1 93.32, rank-5 96.23, rank-10 97.18, mAP 89.26"),
    ],
)
def test_headers_have_the_paper_s_figures(row, figures):
    assert figures in header(row)


def test_headers_name_the_paper_s_table_and_what_must_be_known_of_the_set():
    tables = {"market1501": 4, "cuhk03": 5, "dukemtmc": 6, "viper": 7}
    warnings = {"cuhk03": "not of features", "dukemtmc": "withdrawn", "viper": "mean of ten"}
    for row in ROWS:
        name = row.split("_")[0]
        assert f"table {tables[name]}" in header(row)
        assert warnings.get(name, "") in header(row)
