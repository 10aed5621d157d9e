import json
import logging
import multiprocessing
import os
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, noise
from PIL import Image
from torchvision.transforms import InterpolationMode, Resize

from raid.data import images as images_module
from raid.data.images import CachedImages, DecodedImages, open_images
from raid.data.samples import Record, Samples
from raid.errors import InputError

HEIGHT, WIDTH = 32, 16


def files() -> dict[str, bytes]:
    rgb = Image.fromarray(noise(40, 70))
    return {
        "a.jpg": encoded(rgb, "JPEG"),
        "b_jpeg_inside.png": encoded(rgb, "JPEG", quality=60),
        "c_palette.png": encoded(rgb.quantize(20), "PNG"),
        "d_palette_transparent.png": encoded(rgb.quantize(20), "PNG", transparency=3),
        "e_grey.jpg": encoded(Image.fromarray(noise(30, 20, 1)), "JPEG"),
        "f_cmyk.jpg": encoded(Image.fromarray(noise(25, 60, 4), "CMYK"), "JPEG"),
        "g_one.png": encoded(Image.fromarray(noise(1, 1)), "PNG"),
        "h_alpha.png": encoded(Image.fromarray(noise(20, 40, 4)), "PNG"),
        "i.jpg.jpg": encoded(Image.fromarray(noise(64, 128, seed=1)), "JPEG"),
        "j_same_size.png": encoded(Image.fromarray(noise(WIDTH, HEIGHT)), "PNG"),
        "k_bilevel.png": encoded(Image.fromarray(noise(20, 40, 1) > 128), "PNG"),
    }


def reference(data: bytes) -> torch.Tensor:
    """What torchvision's reader and Resize give, over black."""
    image = Image.open(BytesIO(data))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    image = image.convert("RGB")
    resized = Resize((HEIGHT, WIDTH), interpolation=InterpolationMode.BICUBIC)(image)
    return torch.from_numpy(np.array(resized).transpose(2, 0, 1))


def make(root: Path, contents: dict[str, bytes]) -> Samples:
    root.mkdir(exist_ok=True)
    for name, data in contents.items():
        (root / name).write_bytes(data)
    return Samples.scan(root, [Record(name, 1, 0, "train") for name in contents], name="traps")


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return make(tmp_path / "set", files())


@pytest.fixture
def damaged(tmp_path: Path) -> Samples:
    contents = files()
    for name in ("a.jpg", "h_alpha.png"):
        contents[name] = contents[name][: len(contents[name]) // 2]
    return make(tmp_path / "set", contents)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(samples: Samples, folder: Path, **options):
    return open_images(
        samples, **{"height": HEIGHT, "width": WIDTH, "cache_folder": folder, "num_threads": 2} | options
    )


def rows(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


@pytest.mark.parametrize("limit", [64.0, 0.0])
def test_equals_torchvision_bit_for_bit(samples: Samples, folder: Path, limit: float) -> None:
    same, images = opened(samples, folder, cache_limit_gib=limit)
    assert same is samples
    assert isinstance(images, CachedImages if limit else DecodedImages)
    assert (len(images), images.height, images.width) == (len(samples), HEIGHT, WIDTH)
    batch = images.gather(rows(len(samples)))
    assert batch.shape == (len(samples), 3, HEIGHT, WIDTH)
    assert batch.dtype == torch.uint8
    for row, data in enumerate(files().values()):
        assert torch.equal(batch[row], reference(data)), samples.paths[row]
    assert not (samples.table.num_rows and torch.equal(batch[0], batch[1]))


@pytest.mark.parametrize("limit", [64.0, 0.0])
def test_gather_and_take_keep_the_order_asked_for(samples: Samples, folder: Path, limit: float) -> None:
    _, images = opened(samples, folder, cache_limit_gib=limit)
    everything = images.gather(rows(len(samples)))
    some = np.array([8, 0, 0, 5])
    assert torch.equal(images.gather(some), everything[some])
    taken = images.take(some).take(np.array([3, 0]))
    assert len(taken) == 2
    assert torch.equal(taken.gather(rows(2)), everything[[5, 8]])
    assert images.gather(rows(0)).shape == (0, 3, HEIGHT, WIDTH)
    with pytest.raises(IndexError):
        images.gather(np.array([len(samples)]))


@pytest.mark.parametrize("limit", [64.0, 0.0])
def test_the_batch_is_the_callers_own(samples: Samples, folder: Path, limit: float) -> None:
    _, images = opened(samples, folder, cache_limit_gib=limit)
    before = images.gather(rows(1)).clone()
    images.gather(rows(1)).zero_()
    assert torch.equal(images.gather(rows(1)), before)


def test_the_cache_is_built_once(samples: Samples, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = opened(samples, folder)
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".npy"]
    expected = first.gather(rows(len(samples)))
    for path in samples.paths:
        (samples.root / path).unlink()
    monkeypatch.setattr(images_module, "decode", None)
    _, again = opened(samples, folder)
    assert torch.equal(again.gather(rows(len(samples))), expected)


def test_the_cache_follows_size_order_and_content(samples: Samples, folder: Path) -> None:
    opened(samples, folder)
    opened(samples, folder, height=HEIGHT + 1)
    opened(samples, folder, width=WIDTH + 1)
    _, reversed_images = opened(samples.take(rows(len(samples))[::-1]), folder)
    assert len(list(folder.glob("*.npy"))) == 4
    assert torch.equal(reversed_images.gather(rows(1))[0], reference(list(files().values())[-1]))
    changed = make(samples.root, files() | {"a.jpg": files()["i.jpg.jpg"]})
    _, images = opened(changed, folder)
    assert torch.equal(images.gather(rows(1))[0], reference(files()["i.jpg.jpg"]))


@pytest.mark.parametrize("damage", ["truncate", "empty", "record", "shape"])
def test_a_damaged_cache_is_built_again(samples: Samples, folder: Path, damage: str) -> None:
    opened(samples, folder)
    (array,), (record,) = folder.glob("*.npy"), folder.glob("*.json")
    if damage == "truncate":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "empty":
        array.write_bytes(b"")
    elif damage == "record":
        record.write_text("{")
    else:
        np.save(array, np.zeros((2, 3, HEIGHT, WIDTH), dtype=np.uint8))
    _, images = opened(samples, folder)
    assert torch.equal(images.gather(rows(3))[2], reference(files()["c_palette.png"]))


def test_truncated_images_stop_and_are_named(damaged: Samples, folder: Path) -> None:
    for _ in range(2):  # building, then from the record
        with pytest.raises(InputError, match=r"a\.jpg: .*truncated.*\(and 1 more\).*on_error=skip") as raised:
            opened(damaged, folder)
        assert "\n" not in str(raised.value)
    _, images = opened(damaged, folder, cache_limit_gib=0)
    with pytest.raises(InputError, match=r"a\.jpg: .*truncated"):
        images.gather(rows(1))


@pytest.mark.parametrize("limit", [64.0, 0.0])
def test_truncated_images_are_skipped_in_both(
    damaged: Samples,
    folder: Path,
    limit: float,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = {name: data for name, data in files().items() if name not in ("a.jpg", "h_alpha.png")}
    for attempt in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            kept, images = opened(damaged, folder, cache_limit_gib=limit, on_error="skip")
        assert "left out 2 of 11" in caplog.text
        assert kept.paths == list(contents)
        assert len(images) == len(kept) == 9
        if not attempt:
            batch = images.gather(rows(9))
            for row, data in enumerate(contents.values()):
                assert torch.equal(batch[row], reference(data)), kept.paths[row]
            monkeypatch.setattr(images_module, "decode", None)  # the second time nothing is tried
    (record,) = folder.glob("*.json")
    assert list(json.loads(record.read_text())["failed"]) == ["0", "7"]


def test_nothing_left_is_an_error(tmp_path: Path, folder: Path) -> None:
    samples = make(tmp_path / "set", {"a.jpg": files()["a.jpg"][:700]})
    with pytest.raises(InputError, match="none of the 1 images"):
        opened(samples, folder, on_error="skip")


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_files_that_contradict_the_manifest_stop(samples: Samples, folder: Path, on_error: str) -> None:
    (samples.root / "c_palette.png").write_bytes(files()["a.jpg"])
    with pytest.raises(InputError, match=r"c_palette\.png: has changed"):
        opened(samples, folder, on_error=on_error)
    (samples.root / "c_palette.png").unlink()
    with pytest.raises(InputError, match=r"c_palette\.png: No such file.*manifest"):
        opened(samples, folder, on_error=on_error)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("limit", [64.0, 0.0])
def test_pickle_carries_paths_and_not_pixels(samples: Samples, folder: Path, limit: float) -> None:
    _, images = opened(samples, folder, cache_limit_gib=limit)
    expected = images.gather(rows(4))
    data = pickle.dumps(images)
    assert len(data) < 4000
    assert torch.equal(pickle.loads(data).gather(rows(4)), expected)


@pytest.mark.parametrize("limit", [64.0, 0.0])
def test_a_relative_folder_works_elsewhere(
    samples: Samples, tmp_path: Path, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Samples(Path("set"), samples.table, samples.name)
    _, images = opened(relative, Path("cache"), cache_limit_gib=limit)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert torch.equal(images.gather(rows(1))[0], reference(files()["a.jpg"]))


def sums(images: object, queue: object) -> None:
    queue.put(images.gather(rows(4)).sum().item())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_decodes_in_a_fork_of_a_process_that_has_decoded(samples: Samples, folder: Path) -> None:
    _, images = opened(samples, folder, cache_limit_gib=0)
    expected = images.gather(rows(4)).sum().item()  # starts this process's threads
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=sums, args=(images, queue))
    child.start()
    child.join(20)
    child.kill()  # one that waits for threads it has not got would hang the tests
    assert queue.get(timeout=1) == expected


def build(samples: Samples, folder: Path, start: object, queue: object) -> None:
    start.wait(30)
    _, images = opened(samples, folder)
    queue.put(int(images.gather(rows(len(samples))).sum(dtype=torch.int64)))


def test_two_processes_may_build_at_once(samples: Samples, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, queue = context.Barrier(2), context.Queue()
    children = [context.Process(target=build, args=(samples, folder, start, queue)) for _ in range(2)]
    for child in children:
        child.start()
    totals = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(20)
    assert set(totals) == {sum(int(reference(data).sum()) for data in files().values())}
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".npy"]


def test_the_limit_counts_bytes(samples: Samples, folder: Path) -> None:
    needed = len(samples) * 3 * HEIGHT * WIDTH / 2**30
    assert isinstance(opened(samples, folder, cache_limit_gib=needed)[1], CachedImages)
    assert isinstance(opened(samples, folder, cache_limit_gib=needed * 0.999)[1], DecodedImages)


def test_unusable_cache_folders_are_named(
    samples: Samples, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache_folder: .*file"):
        opened(samples, tmp_path / "file" / "cache")
    full = images_module.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(images_module.shutil, "disk_usage", lambda path: full)
    with pytest.raises(InputError, match=r"data\.cache_folder: .*GiB free"):
        opened(samples, folder)


def test_node_without_the_cache_decodes_the_images_itself(samples: Samples, folder: Path) -> None:
    _, images = opened(samples, folder)
    expected = images.gather(np.array([2, 0]))
    there = pickle.loads(pickle.dumps(images.take(np.array([3, 2, 0]))))
    images.file.unlink()
    images.file.with_suffix(".json").unlink()
    images_module._mapped.cache_clear()
    assert torch.equal(there.gather(np.array([1, 2])), expected)
