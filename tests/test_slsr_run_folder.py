"""SLSR's files in a run folder: --fresh clears them, and leaves those of a run that they were taken from."""

import pytest
from test_run_folder import CONFIG, contents, opened

from raid.errors import InputError
from raid.run_folder import RunFolder


def filled(folder: RunFolder) -> RunFolder:
    (folder.gans / "cluster_00").mkdir(parents=True)
    (folder.gans / "cluster_00" / "generator.pt").write_text("x")
    for file in (folder.baseline, folder.clusters, folder.generated, folder.generated_facts):
        file.write_text("x")
    return folder


def test_fresh_clears_what_slsr_wrote(tmp_path):
    filled(opened(tmp_path / "run", method="slsr"))
    again = opened(tmp_path / "run", CONFIG, method="slsr", fresh=True)
    assert sorted(contents(again.path)) == ["attempt", "config.yaml", "run.json"]
    assert not again.gans.exists()


def test_fresh_leaves_the_folder_that_a_link_leads_to(tmp_path):
    other = filled(opened(tmp_path / "other", method="slsr"))
    run = opened(tmp_path / "run", method="slsr")
    run.gans.symlink_to(other.gans)
    run.generated.symlink_to(other.generated)
    before = contents(other.path)
    opened(run.path, method="slsr", fresh=True)
    assert sorted(path.name for path in run.path.iterdir()) == ["attempt", "config.yaml", "run.json"]
    assert contents(other.path) == before


@pytest.mark.parametrize("name", ["gans", "generated.npy", "generated.json", "clusters.npz", "baseline.pt"])
def test_files_of_nobody_knows_which_run_are_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name} and no run.json"):
        opened(tmp_path, method="slsr", fresh=True)
