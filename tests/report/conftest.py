"""A run of three epochs, and its report."""

from pathlib import Path

import page
import pytest
import tiny
from made_up import figures, recorded

from raid.methods.inputs import Inputs, open_inputs
from raid.report import write_report
from raid.run_folder import RunFolder


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
