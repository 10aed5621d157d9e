import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from raid.config import config_hash, flatten, load
from raid.methods import known
from raid.methods.icsr.probe import probe_clustering, probe_training
from raid.methods.known import METHODS, MethodConfig, config_of
from raid.methods.mar.probe import probe as mar_probe
from raid.methods.plan import Counts, Given
from raid.methods.slsr.probe import probe as slsr_probe

JOBS = Path(__file__).parents[1] / "jobs"
FILES = sorted(file for method in METHODS for file in JOBS.glob(f"{method}_*.yaml"))
TABLE_2 = ("baseline", "none", "linear", "exponential", "cosine")
MAR_TABLE_3 = {
    "source_only": {"training.epochs": 0},
    "feature_guided": {"mining.guide": "feature"},
    "without_cml": {"losses.cml": False},
    "without_cml_ral": {"losses.cml": False, "losses.al": False, "losses.rj": False},
    "without_ral": {"losses.al": False, "losses.rj": False},
    "mar": {},
}
SLSR_ROWS = [
    f"{name}{backbone}{kind}"
    for name in ("market1501", "cuhk03", "dukemtmc", "viper")
    for backbone in ("", "_densenet121")
    for kind in ("", "_baseline", "_matched")
]
PROMISED = {
    "icsr": {"demo", "market1501", "msmt17", "paper_batch256", "as_released"}
    | {f"table2_{row}" for row in TABLE_2},
    "mar": {"demo", "market1501", "dukemtmc", "as_released"} | {f"table3_{row}" for row in MAR_TABLE_3},
    "slsr": {"demo", "as_released", *SLSR_ROWS}
    | {f"table2_k{k}_{count}" for k in (2, 3, 4) for count in range(12_000, 36_001, 6_000)},
}
ROOTS = {
    "icsr": ["data.root=somewhere"],
    "mar": ["data.root=somewhere", "source.root=elsewhere"],
    "slsr": ["data.root=somewhere"],
}


def loaded(name: str, *overrides: str) -> MethodConfig:
    method = name.split("_")[0]
    return load(config_of(method), JOBS / f"{name}.yaml", [*ROOTS[method], *overrides])


@pytest.mark.parametrize("method", METHODS)
def test_every_promised_file_is_there(method):
    names = {file.stem.removeprefix(f"{method}_") for file in FILES if file.stem.startswith(f"{method}_")}
    assert names == PROMISED[method]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_header_says_command_hardware_and_numbers_and_its_commands_load(file):
    header = "".join(line for line in file.read_text().splitlines(keepends=True) if line[0] == "#")
    assert "Hardware" in header
    assert "Paper" in header or "paper" in header
    commands = re.findall(r"raid (?:demo )?(\w+) (jobs/\S+)((?: \S+=\S+)*)", header)
    assert any(name == f"jobs/{file.name}" for _, name, _ in commands)
    for method, name, overrides in commands:
        load(config_of(method), JOBS.parent / name, overrides.split())


def test_runs_of_different_files_do_not_share_a_folder():
    users: dict[Path, list[str]] = {}
    for file in FILES:
        users.setdefault(loaded(file.stem).run.folder, []).append(file.name)
    assert [names for names in users.values() if len(names) > 1] == []


def test_files_hold_what_the_paper_says():
    market, msmt17 = loaded("icsr_market1501"), loaded("icsr_msmt17")
    assert (market.intra.num_clusters, market.inter.num_clusters, market.inter.steps) == (600, 800, 200)
    assert (msmt17.intra.num_clusters, msmt17.inter.num_clusters, msmt17.inter.steps) == ("n//5", 1200, 400)
    for config in (market, msmt17):
        assert (config.intra.epochs, config.intra.steps, config.inter.epochs) == (20, 100, 50)
        assert (config.intra.momentum, config.inter.momentum, config.temperature) == (0.2, 0.1, 0.05)
        assert (config.sampler.batch_size, config.neighbors.k1, config.neighbors.k2) == (64, 30, 6)
        assert (config.model.backbone, config.data.height, config.data.width) == ("resnet50", 256, 128)
        optimizer = config.optimizer
        assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.step_epochs) == (3.5e-4, 5e-4, 20)
    assert loaded("icsr_paper_batch256").sampler.batch_size == 256
    assert loaded("icsr_as_released").refine.referee == "infomap_last"


def test_rows_of_table_2_differ_in_the_refinement_alone():
    rows = {row: loaded(f"icsr_table2_{row}") for row in TABLE_2}
    assert [rows[row].refine.enabled for row in TABLE_2] == [False, True, True, True, True]
    assert [rows[row].refine.decay for row in TABLE_2[1:]] == list(TABLE_2[1:])
    same = {
        config_hash(loaded(f"icsr_table2_{row}", "refine.enabled=true", "refine.decay=cosine"))
        for row in TABLE_2
    }
    assert same == {config_hash(loaded("icsr_msmt17"))}


def test_mar_files_hold_what_the_paper_says():
    for name in ("mar_market1501", "mar_dukemtmc", "mar_as_released", "mar_table3_mar"):
        config = loaded(name)
        assert (config.data.height, config.data.width, config.model.backbone) == (384, 128, "resnet50")
        assert (config.model.last_stride, config.model.neck, config.model.final_relu) == (2, False, False)
        assert (config.source.layout, config.auxiliary) == ("msmt17", "msmt17_all")
        assert (config.training.source, config.training.target, config.training.epochs) == (184, 184, 20)
        optimizer = config.optimizer
        assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.momentum) == (2e-4, 2.5e-2, 0.9)
        losses = config.losses
        assert (losses.lambda1, losses.lambda2, losses.beta, losses.margin) == (2e-4, 50, 0.2, 1)
        assert (config.mining.ratio, config.mining.momentum, config.mining.begin) == (0.005, 0.1, 1)
        assert (config.multilabel.scale, config.multilabel.momentum) == (30, 0.1)
        assert config.centre_momentum == pytest.approx(0.0368)
        pretraining = config.pretraining
        assert (pretraining.epochs, pretraining.batch_size, pretraining.learning_rate) == (40, 64, 1e-2)


@pytest.mark.parametrize("row", MAR_TABLE_3)
def test_rows_of_mar_s_table_3_differ_in_their_switches_alone(row):
    full, config = flatten(loaded("mar_table3_mar")), flatten(loaded(f"mar_table3_{row}"))
    assert {key: config[key] for key in full if config[key] != full[key] and key != "run.folder"} == (
        MAR_TABLE_3[row]
    )


MARKET = Given(Counts.shared(12_936, 6, 3_368, 15_913), identities=751)
MSMT17 = {"source_images": 126_441, "source_people": 4_101}


@pytest.fixture(scope="module")
def speeds(tmp_path_factory) -> dict[str, list[Any]]:
    """Of tiny networks, each probed once: what a plan reckons with is not what is tested here."""
    folder = tmp_path_factory.mktemp("plans")
    root, source = tiny.write_images(folder / "images"), tiny.write_source(folder / "source")
    icsr, mar = tiny.config(root, folder / "icsr"), tiny.mar_config(source, root, folder / "mar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raid.methods.icsr.probe._CLUSTER_ROWS", (500, 1500))
        return {
            "icsr.plan.probe_training": [probe_training(icsr, tflops=None)],
            "icsr.plan.probe_clustering": [probe_clustering(icsr, dimensions=16, cluster_size=8)],
            "mar.plan.probe": [mar_probe(mar, 6, 3, tflops=None)],
            "slsr.plan.probe": [slsr_probe(tiny.slsr_config(root, folder / "slsr"), 10, tflops=None)],
        }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_planned(file, speeds, monkeypatch):
    for name, (speed,) in speeds.items():
        monkeypatch.setattr(f"raid.methods.{name}", lambda *_, speed=speed, **__: speed)
    config = loaded(file.stem)
    given = replace(MARKET, **MSMT17) if file.stem.startswith("mar") else MARKET
    text, _ = known.plan(config, given, tflops=None)
    assert "evaluate" in text
    assert "GiB" in text
