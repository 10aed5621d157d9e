import re
from pathlib import Path

import pytest

from raid.config import config_hash, load
from raid.methods.icsr_config import IcsrConfig

JOBS = Path(__file__).parents[1] / "jobs"
FILES = sorted(JOBS.glob("icsr_*.yaml"))
TABLE_2 = ("baseline", "none", "linear", "exponential", "cosine")


def loaded(name: str, *overrides: str) -> IcsrConfig:
    return load(IcsrConfig, JOBS / f"{name}.yaml", ["data.root=somewhere", *overrides])


def test_every_promised_file_is_there():
    promised = {"demo", "market1501", "msmt17", "paper_batch256", "as_released"}
    assert {file.stem.removeprefix("icsr_") for file in FILES} == promised | {
        f"table2_{row}" for row in TABLE_2
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_header_says_command_hardware_and_numbers_and_its_commands_load(file):
    header = "".join(line for line in file.read_text().splitlines(keepends=True) if line[0] == "#")
    assert "Hardware" in header
    assert "Paper" in header or "paper" in header
    commands = re.findall(r"raid icsr (jobs/\S+)((?: \S+=\S+)*)", header)
    assert any(name == f"jobs/{file.name}" for name, _ in commands)
    for name, overrides in commands:
        load(IcsrConfig, JOBS.parent / name, overrides.split())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_runs_of_different_files_do_not_share_a_folder(file):
    folders = [loaded(other.stem).run.folder for other in FILES if other != file]
    assert loaded(file.stem).run.folder not in folders


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
