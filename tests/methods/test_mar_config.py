import re
from dataclasses import replace

import config_fields
import pytest

from raid.cli import main
from raid.config import config_hash, load
from raid.errors import InputError
from raid.methods.mar.config import MarConfig

DATA = {"data.root": "images", "source.root": "labelled"}  # all that a run needs to be told
GIVEN = [f"{path}={value}" for path, value in DATA.items()]
NOT_IN_HASH = config_fields.NOT_IN_HASH | {
    "multilabel.table",
    "pretraining.checkpoint",
    "source.root",
}


def test_defaults_are_the_release_s():
    config = load(MarConfig, None, GIVEN)
    model, augment, data = config.model, config.augment, config.data
    assert (model.backbone, model.last_stride, model.pool) == ("resnet50", 2, "average")
    assert (model.neck, model.final_relu, model.weights) == (False, False, "imagenet")
    assert (data.height, data.width, config.normalize) == (384, 128, "per_set")
    assert (augment.flip, augment.pad, augment.erase_probability) == (0.5, 7, 0.0)
    training, optimizer = config.training, config.optimizer
    assert (training.source, training.target, config.batch_size, training.epochs) == (184, 184, 368, 20)
    assert training.steps is None  # one pass
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (2e-4, 0.9, 2.5e-2)
    first = config.pretraining
    assert (first.epochs, first.batch_size, first.learning_rate, first.weight_decay) == (40, 64, 1e-2, 1e-2)
    assert (config.multilabel.scale, config.multilabel.momentum) == (30.0, 0.1)
    mining, losses = config.mining, config.losses
    assert (mining.ratio, mining.momentum, mining.begin, mining.start) == (0.005, 0.1, 1, "exact")
    assert (losses.lambda1, losses.lambda2, losses.beta, losses.margin) == (2e-4, 50.0, 0.2, 1.0)
    assert {mining.form, losses.cml_form, losses.rj_form} == {"released"}
    assert (losses.mdl, losses.cml, losses.al, losses.rj) == (True,) * 4
    assert config.auxiliary == "train"


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("paper", {"losses.cml_form": "paper", "losses.rj_form": "paper", "mining.form": "paper"}),
        ("as_released", {"auxiliary": "msmt17_all", "evaluate.ap": "mar_official"}),
    ],
)
def test_a_preset_of_mar_changes_what_it_says_and_nothing_else(preset, changes):
    assert set(MarConfig.PRESETS) == {"paper", "as_released"}
    assert config_fields.changed_by(preset, MarConfig, DATA) == changes


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (["model.ghost_size=100"], "model.ghost_size", "stage 2: the batch of 368 images is not"),
        (["training.source=92"], "model.ghost_size", "stage 2: 92 and 184 images cannot be shared evenly"),
        (["pretraining.batch_size=65"], "pretraining.ghost_size", "stage 1: the batch of 65 images is not"),
        (["pretraining.ghost_size=1"], "pretraining.ghost_size", "over one image has no variance"),
        (["run.workers=8", "model.ghost_size=46"], "run.workers", "stage 1: 8 .* 4 groups of 16 .*: 1, 2, 4"),
        (["run.workers=8", "pretraining.ghost_size=8"], "run.workers", "stage 2: 8 .* groups of 92 .*: 1, 2"),
        (["model.batch_norm=sync", "run.workers=46"], "run.workers", "stage 1: .* 64 images .*, 32, 64"),
        (["model.batch_norm=sync", "run.workers=32"], "run.workers", "stage 2: .*: 1, 2, 4, 8, 23, 46"),
        (["numerics.reproducible=exact", "model.batch_norm=sync"], "numerics.reproducible", "exact needs"),
        (["numerics.micro_batch=16", "model.batch_norm=sync"], "numerics.micro_batch", "sees all images"),
        (["training.target=1", "training.source=1", "model.ghost_size=2"], "training.target", "takes two"),
        (["losses={mdl: false, cml: false, al: false, rj: false}"], "losses", "all off: there is nothing"),
        (
            ["losses={cml: false, al: false, rj: false}", "mining.begin=20"],
            "mining.begin", "is 20: the only loss begins after the last epoch",
        ),
        (["pretraining.checkpoint=a", "training.epochs=0"], "training.epochs", "is 0, .* nothing is trained"),
        (["auxiliary=msmt17_all", "source.layout=market1501"], "auxiliary", "of MSMT17, and source"),
        (["model.pool=gem"], "model.pool", "gem loses what is negative"),
        (["mining.ratio=0"], "mining.ratio", "greater than 0"),
        (["mining.start=1"], "mining.start", "'exact', got 1; or: .* greater than or equal to 2"),
        (["multilabel.scale=0"], "multilabel.scale", "greater than 0, got 0; or: .* 'auto'"),
        (["losses.margin=5"], "losses.margin", "less than or equal to 4"),
        (["optimizer.drops=[2]"], "optimizer.drops", "less than or equal to 1"),
        (["source.layout=folder"], "source.pattern", "is required by layout folder"),
        (["source.with_validation=false", "source.layout=viper"], "source.with_validation", "msmt17 alone"),
        (["source.height=3"], "source.height", ""),
    ],
)  # fmt: skip
def test_impossible_values_are_named_by_path(overrides, path, message):
    with pytest.raises(InputError, match=rf"^{re.escape(path)}: .*{message}") as raised:
        load(MarConfig, None, [*GIVEN, *overrides])
    assert "\n" not in str(raised.value)


def test_workers_that_fit_neither_stage_are_told_of_both():
    with pytest.raises(InputError) as raised:
        load(MarConfig, None, [*GIVEN, "run.workers=3"])
    assert str(raised.value).splitlines() == [
        "run.workers: stage 2: 3 workers cannot share the 4 groups of 92 of a batch evenly; can: 1, 2, 4",
        "run.workers: stage 1: 3 workers cannot share the 4 groups of 16 of a batch evenly; can: 1, 2, 4",
    ]


def test_a_stage_that_is_left_out_asks_for_nothing():
    source_only = ["training.epochs=0", "training.source=7", "training.target=3", "run.workers=4"]
    assert load(MarConfig, None, [*GIVEN, *source_only]).epochs == 40
    started = ["pretraining.checkpoint=a", "pretraining.batch_size=7", "pretraining.ghost_size=1"]
    config = load(MarConfig, None, [*GIVEN, *started, "run.workers=4"])
    assert (config.pretraining_epochs, config.epochs) == (0, 20)


def test_both_roots_are_required_and_said_at_once():
    with pytest.raises(InputError) as raised:
        load(MarConfig)
    lines = str(raised.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["data.root", "source.root"]


def test_every_field_is_described_with_its_default_and_its_meaning():
    config_fields.assert_described(MarConfig)


def test_a_resolved_configuration_is_printed_and_read_back(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("preset: paper\ndata: {root: images}\nsource: {root: labelled}\n")
    assert main(["config", "mar", str(file), "seed=3"]) == 0
    file.write_text(capsys.readouterr().out)
    assert load(MarConfig, file) == load(MarConfig, None, [*GIVEN, "preset=paper", "seed=3"])


def test_the_hash_follows_every_field_but_those_that_do_not_change_the_result():
    assert config_fields.not_in_hash(MarConfig()) == NOT_IN_HASH


def test_workers_are_part_of_the_hash_where_the_result_depends_on_them():
    for mode, same in (("ghost", True), ("sync", True), ("local", False)):
        chosen = [*GIVEN, f"model.batch_norm={mode}"]
        hashes = {config_hash(load(MarConfig, None, [*chosen, f"run.workers={n}"])) for n in (1, 4)}
        assert (len(hashes) == 1) == same


def test_the_source_set_is_read_as_the_target_is():
    config = load(MarConfig, None, [*GIVEN, "data.height=64", "data.cache_folder=c", "source.on_error=skip"])
    read = config.source_data
    assert (read.height, read.width, str(read.cache_folder)) == (64, 128, "c")
    assert (str(read.root), read.layout, read.on_error, config.data.on_error) == (
        "labelled", "msmt17", "skip", "fail",
    )  # fmt: skip
    assert read.with_validation
    assert not replace(config, auxiliary="msmt17_train").source_data.with_validation
