"""Runs whose images come out of a pack: the same run, bit for bit, as that of the folder which was packed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import quick_start
import small_network
import tiny
from comparing import assert_same_bits, losses, timeless, weights

from raid.cli import main
from raid.config import flatten, load
from raid.data.render import Settings, write_market1501
from raid.errors import InputError
from raid.methods.checking import data_of
from raid.methods.evaluation import evaluate_checkpoint
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import load_samples
from raid.methods.mar import recipe as mar
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import open_mar_inputs, source_samples
from raid.methods.packing import pack_set
from raid.methods.plan import counts_of
from raid.methods.scaled_runs import ScaledRun, check_alike
from raid.methods.sections import Data
from raid.methods.slsr import recipe as slsr
from raid.run_folder import RunFolder

PATTERN = f"pattern={tiny.PATTERN}"


@pytest.fixture
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


@pytest.fixture(scope="module")
def packs(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs of `source` and `target`, and no folder of images beside them."""
    out = tmp_path_factory.mktemp("packs")
    for name in ("source", "target"):
        pack_set([str(sets / name), PATTERN], str(out / name), shard_mib=1, resume=False)
    return out


def packed(packs: Path, cache: Path, **further: Any) -> dict[str, Any]:
    """Overrides by which a run reads the packed target."""
    place = {"data__layout": "pack", "data__root": f"file://{packs}/target", "data__cache_folder": str(cache)}
    return {**place, **further}


def assert_same_run(ours: RunFolder, reference: RunFolder) -> None:
    assert len(losses(reference.path))
    assert losses(ours.path).tobytes() == losses(reference.path).tobytes()
    assert timeless(ours) == timeless(reference)
    assert_same_bits(weights(ours.model), weights(reference.model))
    recorded = [json.loads((folder.path / "run.json").read_text()) for folder in (ours, reference)]
    assert recorded[0] == recorded[1]
    assert "layout: pack" in ours.config.read_text()


@pytest.mark.usefixtures("small")
def test_icsr_of_a_pack_is_that_of_the_folder_and_is_evaluated_on_either(sets, packs, tmp_path):
    folder = icsr.run(tiny.config(sets / "target", tmp_path / "folder"))
    # A pattern may stay in the run file, as it is what the set was packed with.
    config = tiny.config(sets / "target", tmp_path / "pack", **packed(packs, tmp_path / "cache"))
    assert config.data.root == f"file://{packs}/target"
    packed_run = icsr.run(config)
    assert_same_run(packed_run, folder)
    place = f"file://{packs}/target"
    found = []
    for checkpoint, given, overrides in [
        (folder.path, [], []),
        (config.run.folder, [], []),
        (folder.path, [place], []),
        (folder.path, [], ["data.layout=pack", f"data.root={place}"]),
    ]:
        out = tmp_path / "evaluation.json"
        evaluate_checkpoint(checkpoint, given, [*overrides, f"data.cache_folder={tmp_path}/e"], out=out)
        found.append(json.loads(out.read_text()))
    # Their times may be put side by side: the images are the same.
    ours, reference = (flatten(load(IcsrConfig, of.path / "config.yaml")) for of in (packed_run, folder))
    run = ScaledRun(packed_run.path, "icsr", 1, ours, {"data.root": "x"}, {}, ())
    check_alike(run, "the other", "icsr", reference, {"data.root": "x"})
    for record in found[1:]:
        ours, reference = ({**of["sets"][0], "root": None} for of in (record, found[0]))
        assert ours == reference


@pytest.mark.usefixtures("small")
def test_images_are_decoded_out_of_the_shards_on_the_fly(sets, packs, tmp_path):
    settings = {"data__pattern": None, "data__cache_limit_gib": 0, "inter__epochs": 1, "intra__epochs": 1}
    config = tiny.config(sets / "target", tmp_path / "pack", **packed(packs, tmp_path / "cache", **settings))
    settings["data__pattern"] = tiny.PATTERN
    folder = icsr.run(tiny.config(sets / "target", tmp_path / "folder", **settings))
    assert_same_run(icsr.run(config), folder)
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_two_processes_train_on_a_pack(sets, packs, tmp_path):
    settings = {"data__cache_limit_gib": 0, "inter__epochs": 1, "intra__epochs": 1, "run__workers": 2}
    with quick_start.in_use():
        folder = icsr.run(tiny.config(sets / "target", tmp_path / "folder", **settings))
        config = tiny.config(
            sets / "target", tmp_path / "pack", **packed(packs, tmp_path / "cache", **settings)
        )
        assert_same_run(icsr.run(config), folder)


@pytest.mark.usefixtures("small")
def test_a_run_of_the_folder_is_gone_on_with_from_the_pack_and_back(sets, packs, tmp_path):
    settings = {"intra__epochs": 1}
    run = tmp_path / "run"
    icsr.run(tiny.config(sets / "target", run, **settings))
    whole = RunFolder(run).steps()
    from_pack = packed(packs, tmp_path / "cache", **settings)
    for these in (from_pack, settings):
        # As if it had been killed in the last epoch.
        (run / "model.pt").unlink()
        max((run / "checkpoints").iterdir()).unlink()
        icsr.run(tiny.config(sets / "target", run, **these), resume=True)
        assert RunFolder(run).steps() == whole
    tiny.write_images(tmp_path / "other", frames=4)
    pack_set([str(tmp_path / "other"), PATTERN], str(tmp_path / "other_pack"), shard_mib=1, resume=False)
    other = {**from_pack, "data__root": str(tmp_path / "other_pack")}
    with pytest.raises(InputError, match=r"data\.root: the images differ from those"):
        icsr.run(tiny.config(sets / "target", run, **other), resume=True)


@pytest.mark.usefixtures("small")
def test_mar_reads_both_sets_out_of_packs(sets, packs, tmp_path):
    folder = mar.run(tiny.mar_config(sets / "source", sets / "target", tmp_path / "folder"))
    config = tiny.mar_config(
        sets / "source",
        sets / "target",
        tmp_path / "pack",
        source__layout="pack",
        source__root=str(packs / "source"),
        source__pattern=None,
        **packed(packs, tmp_path / "cache"),
    )
    assert_same_run(mar.run(config), folder)


@pytest.mark.usefixtures("small")
def test_slsr_of_a_pack_is_that_of_the_folder(sets, packs, tmp_path):
    settings = {"finetuning__epochs": 1, "generated__label": "none"}
    folder = slsr.run(tiny.slsr_config(sets / "target", tmp_path / "folder", **settings))
    config = tiny.slsr_config(
        sets / "target", tmp_path / "pack", **packed(packs, tmp_path / "cache", **settings)
    )
    assert_same_run(slsr.run(config), folder)


# What a pack remembers of its set


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("market")
    write_market1501(root / "set", Settings(num_identities=8, num_cameras=2, height=32, width=16))
    gallery = root / "set" / "bounding_box_test"
    # In Market-1501's gallery person 0000 is nobody.
    first = next(gallery.glob("*.jpg"))
    (gallery / re.sub(r"^-?\d+_", "0000_", first.name)).write_bytes(first.read_bytes())
    pack_set([str(root / "set")], str(root / "pack"), shard_mib=1, resume=False)
    return root


@pytest.mark.parametrize("auxiliary", ["train", "all"])
def test_people_of_the_source_are_counted_as_before_it_was_packed(market, tmp_path, auxiliary):
    where = {"data.root": "x", "data.cache_folder": str(tmp_path), "auxiliary": auxiliary}
    found = [
        source_samples(
            load(MarConfig, overrides={**where, "source.layout": layout, "source.root": str(root)})
        )
        for layout, root in (("market1501", market / "set"), ("pack", market / "pack"))
    ]
    assert found[0][0].fingerprint() == found[1][0].fingerprint()
    assert found[0][1] == found[1][1]
    if auxiliary == "all":
        assert 0 not in found[1][0].split("gallery").identities


def test_what_the_pack_was_not_made_with_is_said(market, packs, tmp_path):
    place = {"layout": "pack", "root": str(market / "pack"), "cache_folder": str(tmp_path)}
    assert len(load_samples(load(Data, overrides=place)))
    with pytest.raises(InputError, match=r"data\.multi_query: is True, and the pack .* was made with False"):
        load_samples(load(Data, overrides={**place, "multi_query": True}))
    source = {"source.layout": "pack", "source.root": str(market / "pack")}
    config = {"data.root": "x", "data.cache_folder": str(tmp_path), **source}
    with pytest.raises(InputError, match=r"source\.with_validation: is False|of layout market1501"):
        source_samples(load(MarConfig, overrides={**config, "auxiliary": "msmt17_train"}))
    absent = {**config, "source.root": str(tmp_path / "absent")}
    with pytest.raises(InputError, match=r"absent: there is no pack\.parquet"):
        open_mar_inputs(load(MarConfig, overrides=absent))


def test_a_uri_keeps_its_slashes_and_is_for_packs_alone():
    overrides = ["data.layout=pack", "data.root=s3://people/market"]
    config = load(IcsrConfig, overrides=overrides)
    assert config.data.root == "s3://people/market"
    with pytest.raises(InputError, match=r"data\.root: is a URI, which layout pack reads alone"):
        load(IcsrConfig, overrides=overrides[1:])
    assert load(IcsrConfig, overrides=["data.root=people/market"]).data.root == Path("people/market")


# Commands


def test_commands_take_either_form(market, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def said(*arguments: str) -> tuple[int, str]:
        status = main(list(arguments))
        told = capsys.readouterr()
        return status, told.out + told.err

    for place in (str(market / "pack"), f"file://{market}/pack"):
        status, of_pack = said("data", "check", place)
        assert "layout pack" in of_pack
        same, of_folder = said("data", "check", str(market / "set"))
        assert status == same
        assert of_pack.split("fingerprint")[1] == of_folder.split("fingerprint")[1]
    counted = [
        counts_of(load(Data, overrides=fields))
        for fields in ([f"root={market}/set"], ["layout=pack", f"root=file://{market}/pack"])
    ]
    assert counted[0] == counted[1]
    assert said("data", "pack", str(market / "set"), "out", "--shard-mib", "1") == (
        0, "out: 54 images, splits train, query, gallery\n",
    )  # fmt: skip
    assert said("data", "pack", str(market / "set"), "out", "--shard-mib", "1", "--resume") == (
        0, "out: 54 images, splits train, query, gallery: packed already\n",
    )  # fmt: skip
    status, error = said("data", "pack", str(market / "set"), "out")
    assert status == 2
    assert error.startswith("raid: ")
    assert "/out: holds pack.parquet" in error
    status, error = said("data", "pack", str(market / "set" / "query"), "other")
    assert (status, error) == (
        2,
        f"raid: {market}/set/query: its layout is not recognised; say it: layout=...\n",
    )
    status, error = said("data", "prepare", "x.parquet", "layout=pack", f"root={market}/pack")
    assert status == 2
    assert "a pack is its own manifest" in error
    assert not Path("x.parquet").exists()
    assert not Path("other").exists()


def test_the_set_of_a_command_line(tmp_path):
    data, found = data_of(["s3://people/market"])
    assert (data.layout, data.root, found) == ("pack", "s3://people/market", {"layout": "pack"})
    (tmp_path / "pack.parquet").write_text("")
    assert data_of([str(tmp_path)])[0].layout == "pack"
