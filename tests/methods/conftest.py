from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what MAR trains on: the labelled images in `source`, the others in `target`."""
    root = tmp_path_factory.mktemp("sets")
    tiny.write_source(root / "source")
    tiny.write_images(root / "target")
    return root
