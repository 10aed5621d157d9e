import re

import config_fields
import pytest

from raid.config import config_hash, describe, flatten, load
from raid.errors import InputError
from raid.methods.icsr.config import IcsrConfig, IntraCamera

DATA = {"data.root": "images"}  # all that a run needs to be told
NOT_IN_HASH = config_fields.NOT_IN_HASH | {
    "intra.labels",
    "neighbors.similarity",
}


def test_a_preset_of_icsr_changes_what_it_says_and_nothing_else():
    expected = {
        "paper": {"refine.referee": "intersection", "refine.coin": "pair", "refine.score_cutoff": None}
        | {"intra.select": "last"},
        "as_released": {"refine.referee": "infomap_last", "refine.coin": "pair", "refine.decay": "none"},
    }
    assert set(expected) == set(IcsrConfig.PRESETS)
    for preset, changes in expected.items():
        assert config_fields.changed_by(preset, IcsrConfig, DATA) == changes


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (["sampler.identities=3"], "model.ghost_size", "the batch of 12 images is not whole groups of 16"),
        (["run.workers=3"], "run.workers", "3 workers cannot share the 4 groups of 16 .*; can: 1, 2, 4"),
        (["model.batch_norm=sync", "run.workers=5"], "run.workers", "can: 1, 2, 4, 8, 16, 32, 64"),
        (["model.batch_norm=local", "run.workers=64"], "model.batch_norm", "over one image"),
        (["model.ghost_size=4"], "model.ghost_size", "a group of 4 images is one cluster"),
        (["model.ghost_size=1"], "model.ghost_size", "over one image"),
        (["refine.start=0.2", "refine.end=0.3"], "refine.end", "is 0.3, above refine.start=0.2"),
        (["model.final_relu=false"], "model.pool", "gem loses what is negative, .*: use average"),
        (["model.backbone=resnet50_ibn_a"], "model.weights", "no ImageNet weights for resnet50_ibn_a"),
        (["intra.num_clusters=n/5"], "intra.num_clusters", "'n/5' is neither a number nor of the form n//5"),
        (["intra.num_clusters=n//0"], "intra.num_clusters", "'n//0' is neither"),
        (["data.layout=folder"], "data.pattern", "is required by layout folder"),
        (["data.pattern=x"], "data.pattern", "belongs to layout folder alone"),
        (["data.splits={a: train}"], "data.splits", "belongs to layout folder alone"),
        (["data.layout=msmt17", "data.multi_query=true"], "data.multi_query", "layout market1501 alone"),
        (["data.layout=dukemtmc", "data.distractors=true"], "data.distractors", "layout market1501 alone"),
        (["data.with_validation=false"], "data.with_validation", "belongs to layout msmt17 alone"),
        (["data.boxes=labelled"], "data.boxes", "belongs to layout cuhk03 alone"),
        (["data.layout=viper", "data.protocol=classic"], "data.protocol", "belongs to layout cuhk03 alone"),
        (["data.split_number=1"], "data.split_number", "belongs to layout cuhk03 and viper alone"),
        (["data.layout=viper", "data.split_number=10"], "data.split_number", "the splits are 0 to 9"),
        (["data.layout=cuhk03", "data.split_number=1"], "data.split_number", "new protocol has one split"),
        (["temperature=.nan"], "temperature", "greater than 0"),
        (["seed=9223372036854775808"], "seed", "less than 9223372036854775808"),
    ],
)
def test_impossible_values_are_named_by_path(overrides, path, message):
    with pytest.raises(InputError, match=rf"^{re.escape(path)}: .*{message}") as raised:
        load(IcsrConfig, None, ["data.root=images", *overrides])
    assert "\n" not in str(raised.value)


def test_options_of_other_layouts_are_refused_at_once():
    given = ["pattern=x", "multi_query=true", "with_validation=false", "boxes=labelled", "split_number=20"]
    with pytest.raises(InputError) as raised:
        load(IcsrConfig, None, ["data.layout=cuhk03", "data.protocol=classic", *(f"data.{o}" for o in given)])
    assert [line.partition(": ")[0] for line in str(raised.value).splitlines()] == [
        f"data.{name}" for name in ("root", "pattern", "multi_query", "with_validation", "split_number")
    ]


def test_options_of_other_layouts_may_say_the_default():
    """As they do in a file that raid wrote."""
    for layout in ("market1501", "msmt17", "viper", "table", "manifest"):
        config = load(IcsrConfig, None, ["data.root=x", f"data.layout={layout}"])
        assert load(IcsrConfig, None, flatten(config)) == config


def test_every_field_is_described_with_its_default_and_its_meaning():
    config_fields.assert_described(IcsrConfig)
    assert {f.path: f.type for f in describe(IcsrConfig)}["data.on_error"] == "fail|skip"


def test_the_hash_follows_every_field_but_those_that_do_not_change_the_result():
    assert config_fields.not_in_hash(IcsrConfig()) == NOT_IN_HASH


@pytest.mark.parametrize(("chosen", "images", "clusters"), [(7, 3, 7), ("n//5", 23, 4), ("n//5", 4, 1)])
def test_clusters_of_a_camera(chosen, images, clusters):
    assert IntraCamera(num_clusters=chosen).clusters_of(images) == clusters


def test_weak_scaling_grows_the_batch_and_names_the_learning_rate_s_rule():
    rates = {"linear": 4 * 3.5e-4, "square_root": 2 * 3.5e-4, "constant": 3.5e-4}
    for rule, rate in rates.items():
        config = load(
            IcsrConfig,
            overrides=["data.root=x", "scale=weak", "run.workers=4", f"optimizer.weak_rule={rule}"],
        )
        assert config.training.sampler.batch_size == 4 * 64
        assert config.training.optimizer.learning_rate == pytest.approx(rate)
        assert config.camera_training.sampler.batch_size == 64
        assert config.camera_training.optimizer.learning_rate == 3.5e-4


def test_strong_scaling_knows_no_workers():
    one, four = (load(IcsrConfig, overrides=["data.root=x", f"run.workers={n}"]) for n in (1, 4))
    assert one.training == four.training
    assert config_hash(one) == config_hash(four)


@pytest.mark.parametrize("choice", ["scale=weak", "model.batch_norm=local"])
def test_workers_are_part_of_the_hash_where_the_result_depends_on_them(choice):
    one, four = (load(IcsrConfig, overrides=["data.root=x", choice, f"run.workers={n}"]) for n in (1, 4))
    assert config_hash(one) != config_hash(four)
