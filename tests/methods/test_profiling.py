import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import thin_resnet
import tiny

from raid.methods import known
from raid.methods.known import MethodConfig
from raid.methods.launch import local_backend
from raid.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


def configured(folder: Path, method: str, name: str, **chosen: object) -> MethodConfig:
    images, source = folder / "images", folder / "source"
    if not images.exists():
        tiny.write_images(images)
        tiny.write_source(source)
    match method:
        case "icsr":
            return tiny.config(images, folder / name, inter__steps=12, **chosen)
        case "mar":
            return tiny.mar_config(source, images, folder / name, pretraining__steps=12, **chosen)
        case _:
            return tiny.slsr_config(images, folder / name, baseline__steps=12, **chosen)


@pytest.mark.parametrize("method", ["icsr", "mar", "slsr"])
def test_a_profile_has_a_trace_and_a_page_and_changes_no_loss(tmp_path, method):
    folders = []
    for profile in (False, True):
        config = configured(tmp_path, method, f"profile_{profile}", run__profile=profile)
        folders.append(known.run(config, local_backend(config), resume=False, fresh=False))
    plain, profiled = folders
    assert not plain.profile.exists()
    assert plain.steps() == profiled.steps()
    assert sorted(path.name for path in profiled.profile.iterdir()) == ["summary.txt", "trace.json.gz"]
    page = (profiled.profile / "summary.txt").read_text()
    assert page.startswith("training steps    5 of the first worker")
    assert "convolution" in page
    found = re.search(r"a step +([\d.]+) ms, 16 images: ([\d.]+) images/s", page)
    assert found is not None
    assert float(found[1]) / 1000 * float(found[2]) == pytest.approx(16, rel=0.05)
    with gzip.open(profiled.profile / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event["name"].startswith("ProfilerStep") for event in events) >= 5
    assert any("convolution_backward" in event["name"] for event in events)


def test_of_an_epoch_of_few_steps_half_is_watched(tmp_path):
    config = tiny.config(tiny.write_images(tmp_path / "images"), tmp_path / "run", run__profile=True)
    folder: RunFolder = known.run(config, local_backend(config), resume=False, fresh=False)
    assert (folder.profile / "summary.txt").read_text().startswith("training steps    1 of the first worker")
