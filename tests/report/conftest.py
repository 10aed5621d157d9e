"""A run of three epochs, and its report."""

from pathlib import Path

import made_up_mar
import made_up_slsr
import made_up_sweeps
import page
import pytest
import tiny
from made_up import figures, recorded

from raid.methods.inputs import Inputs, open_inputs
from raid.methods.mar.inputs import MarInputs, open_mar_inputs
from raid.report import TrainingSets, write_report, write_sweep_report
from raid.run_folder import RunFolder
from raid.sweep_folder import SweepFolder


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("report") / "images")


@pytest.fixture(scope="session")
def inputs(root: Path) -> Inputs:
    return open_inputs(tiny.config(root, root.parent).data)


@pytest.fixture(scope="session")
def run(root: Path, inputs: Inputs) -> RunFolder:
    folder = recorded(tiny.config(root, root.parent / "run"), inputs, [figures(epoch) for epoch in range(3)])
    write_report(folder, inputs.retrieval)
    return folder


@pytest.fixture(scope="session")
def shown(run: RunFolder) -> page.Node:
    return page.read(run.report)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_source(tmp_path_factory.mktemp("source") / "images")


@pytest.fixture(scope="session")
def both(source: Path, root: Path) -> MarInputs:
    return open_mar_inputs(tiny.mar_config(source, root, root.parent))


@pytest.fixture(scope="session")
def sets(both: MarInputs) -> TrainingSets:
    return TrainingSets(both.target.train, both.target.train_images, both.source.samples, both.source.images)


@pytest.fixture(scope="session")
def mar_run(source: Path, root: Path, both: MarInputs, sets: TrainingSets) -> RunFolder:
    config = made_up_mar.config(source, root, root.parent / "mar")
    epochs = [made_up_mar.figures(epoch) for epoch in range(made_up_mar.EPOCHS)]
    fingerprint = both.fingerprint(config)
    retrieval = both.target.retrieval
    folder = made_up_mar.recorded(config, sets, epochs, fingerprint=fingerprint, retrieval=retrieval)
    write_report(folder, retrieval, sets)
    return folder


@pytest.fixture(scope="session")
def mar_shown(mar_run: RunFolder) -> page.Node:
    return page.read(mar_run.report)


@pytest.fixture(scope="session")
def slsr_run(root: Path, inputs: Inputs) -> RunFolder:
    config = made_up_slsr.config(root, root.parent / "slsr")
    epochs = made_up_slsr.epochs()
    folder = made_up_slsr.recorded(config, epochs, fingerprint=inputs.fingerprint, retrieval=inputs.retrieval)
    write_report(folder, inputs.retrieval)
    return folder


@pytest.fixture(scope="session")
def slsr_shown(slsr_run: RunFolder) -> page.Node:
    return page.read(slsr_run.report)


@pytest.fixture(scope="session")
def decay_sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    folder = made_up_sweeps.decay(tmp_path_factory.mktemp("sweep") / "decay")
    write_sweep_report(folder)
    return folder


@pytest.fixture(scope="session")
def sweep_shown(decay_sweep: SweepFolder) -> page.Node:
    return page.read(decay_sweep.report)
