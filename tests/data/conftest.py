"""A set, a pack of it, and a cache of shards."""

from pathlib import Path

import packs
import pytest
from packs import pack

from raid.data.samples import Samples


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return packs.draw(tmp_path / "set")


@pytest.fixture
def out(samples: Samples, tmp_path: Path) -> Path:
    assert pack(samples, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
