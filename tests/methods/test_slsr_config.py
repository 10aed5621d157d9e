import config_fields
import pytest

from raid.config import config_hash, load
from raid.errors import InputError
from raid.methods.slsr.config import SlsrConfig, Supervised

DATA = {"data.root": "images"}  # all that a run needs to be told
NOT_IN_HASH = config_fields.NOT_IN_HASH | {
    "baseline.checkpoint",
    "gan.grid_epochs",
    "generated.folder",
}


def config(**overrides):
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(SlsrConfig, overrides={**DATA, **given})


def test_defaults_are_the_release_s():
    ours = config()
    model, augment, data = ours.model, ours.augment, ours.data
    assert (model.backbone, model.last_stride, model.pool, model.neck) == ("resnet50", 2, "average", False)
    assert (model.final_relu, model.noise_layer, model.bottleneck_width) == (True, "bottleneck", 512)
    assert (data.height, data.width, augment.input_size) == (288, 144, (256, 128))
    assert (augment.flip, augment.pad, augment.erase_fill) == (0.5, 0, (0.4914, 0.4822, 0.4465))
    first, last = ours.baseline, ours.finetuning
    assert (first.epochs, first.head_learning_rate, first.erase_probability) == (60, 0.1, 0.0)
    assert (last.epochs, last.head_learning_rate, last.erase_probability) == (130, 0.05, 0.8)
    for stage in (first, last):
        assert (stage.batch_size, stage.learning_rate, stage.momentum) == (32, 0.01, 0.9)
        assert (stage.weight_decay, stage.schedule, stage.step_epochs, stage.gamma) == (5e-4, "step", 40, 0.1)
    assert last.start == "weights"
    gan = ours.gan
    assert (gan.height, gan.width, gan.channels, gan.num_latent) == (128, 128, 64, 100)
    assert (gan.epochs, gan.batch_size, gan.learning_rate, gan.beta1) == (30, 64, 2e-4, 0.5)
    assert (gan.generator_steps, gan.form, gan.parent) == (2, "released", "none")
    assert (ours.clusters.num_clusters, ours.clusters.features) == (3, "pooled")
    made = ours.generated
    assert (made.label, made.count, made.split, made.min_images) == ("sparse", 12_000, "equal", 1)
    assert ours.evaluate.flip


def test_the_release_as_it_is():
    assert set(SlsrConfig.PRESETS) == {"as_released"}
    changes = {"generated.label": "uniform", "evaluate.ap": "market_trapezoid"}
    assert config_fields.changed_by("as_released", SlsrConfig, DATA) == changes


def test_step_and_inverse_decay():
    step = Supervised(step_epochs=40, gamma=0.1)
    assert [step.factor(epoch, 10_000) for epoch in (0, 39, 40, 79, 80, 129)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 1e-3]
    )
    inverse = Supervised(schedule="inv", inv_gamma=1e-3, inv_power=0.5)
    assert [inverse.factor(99, iteration) for iteration in (0, 3_000, 8_000)] == pytest.approx(
        [1, 1 / 2, 1 / 3]
    )


def test_which_stages_a_run_has():
    assert (config().baseline_epochs, config().gan_epochs, config().epochs) == (60, 30, 220)
    matched = config(generated__label="none")
    assert (matched.baseline_epochs, matched.gan_epochs, matched.epochs) == (0, 0, 130)
    from_baseline = config(generated__label="none", finetuning__start="baseline")
    assert (from_baseline.baseline_epochs, from_baseline.epochs) == (60, 190)
    alone = config(finetuning__epochs=0)
    assert (alone.baseline_epochs, alone.gan_epochs, alone.epochs) == (60, 0, 60)
    begun = config(baseline__checkpoint="baseline.pt")
    assert (begun.baseline_epochs, begun.gan_epochs, begun.epochs) == (0, 30, 160)
    other_s = config(generated__folder="runs/other")
    assert (other_s.baseline_epochs, other_s.gan_epochs, other_s.epochs) == (0, 0, 130)
    assert other_s.uses_images
    assert not other_s.makes_images


def test_the_network_of_the_first_stage():
    ours = config(model__backbone="densenet121", baseline__backbone="resnet50")
    assert ours.baseline_model.backbone == "resnet50"
    assert ours.as_baseline.model.backbone == "resnet50"
    assert ours.model.backbone == "densenet121"
    # Read back from baseline.pt, it is the same network.
    assert ours.as_baseline.as_baseline == ours.as_baseline
    own = config(model__backbone="densenet121", model__weights="none")
    assert own.baseline_model == own.model


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        ({"finetuning.epochs": 0, "baseline.checkpoint": "x.pt"}, "finetuning.epochs", "nothing is trained"),
        (
            {"baseline.backbone": "resnet18", "finetuning.start": "baseline"},
            "finetuning.start",
            "baseline is a resnet18, the network resnet50",
        ),
        ({"baseline.weights": "none"}, "baseline.weights", "goes with baseline.backbone"),
        (
            {"baseline.backbone": "resnet10", "baseline.weights": "imagenet"},
            "baseline.weights",
            "no ImageNet weights for resnet10",
        ),
        (
            {"generated.control": "permuted", "generated.label": "uniform"},
            "generated.control",
            "generated.label is uniform",
        ),
        (
            {"generated.control": "permuted", "clusters.num_clusters": 1},
            "generated.control",
            "num_clusters is 1",
        ),
        ({"gan.height": 100}, "gan.height", "100 is no multiple of 16"),
        ({"gan.width": 8}, "gan.width", "8 is no multiple of 16"),
        (
            {"augment.input_size": [300, 128]},
            "augment.input_size",
            "a crop of 300 x 128 is larger than images of",
        ),
        ({"baseline.batch_size": 24}, "model.ghost_size", "baseline: the batch of 24 images is not whole"),
        (
            {"finetuning.batch_size": 24},
            "model.ghost_size",
            "finetuning: the batch of 24 images is not",
        ),
        ({"run.workers": 4}, "run.workers", "4 workers cannot share the 2 groups of 16"),
        (
            {"numerics.reproducible": "exact", "model.batch_norm": "sync"},
            "numerics.reproducible",
            "exact needs",
        ),
        ({"gan.batch_size": 1}, "gan.batch_size", "greater than or equal to 2"),
    ],
)
def test_what_cannot_work_is_named_by_its_path(overrides, path, message):
    with pytest.raises(InputError) as caught:
        load(SlsrConfig, overrides={**DATA, **overrides})
    lines = [line for line in str(caught.value).splitlines() if line.startswith(f"{path}: ")]
    assert any(message in line for line in lines), str(caught.value)


def test_a_crop_may_need_the_padding():
    assert config(augment__input_size=[300, 128], augment__pad=6).augment.input_size == (300, 128)


def test_batches_of_stages_that_are_not_there_are_not_looked_at():
    config(generated__label="none", baseline__batch_size=24)
    config(finetuning__epochs=0, finetuning__batch_size=24)


def test_a_baseline_with_local_norms_depends_on_the_workers():
    local = {"model__batch_norm": "local"}
    assert config_hash(config(**local, run__workers=2)) != config_hash(config(**local, run__workers=1))
    assert config_hash(config(run__workers=2)) == config_hash(config(run__workers=1))


def test_every_field_is_described():
    config_fields.assert_described(SlsrConfig)


def test_what_may_differ_between_a_run_and_its_resumption():
    assert config_fields.not_in_hash(SlsrConfig()) == NOT_IN_HASH
