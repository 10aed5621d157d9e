"""What the pool is asked for; that it gives the bytes of the workers is shown in test_on_ray.py."""

import pytest
import tiny
import torch

from raid.distributed.fanout import InProcess
from raid.distributed.group import Group
from raid.methods.encoder import build_model, num_features, starting_weights
from raid.methods.inputs import open_inputs
from raid.methods.pool_extraction import extract_on_pool, feature_length


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tiny.write_images(tmp_path_factory.mktemp("pool") / "images", num_identities=3)
    return tiny.config(root, root.parent / "run", numerics__dtype="float32", numerics__extract_batch=4)


@pytest.mark.parametrize("kind", ["unit", "pooled", "map"])
def test_features_have_the_length_that_was_foretold(config, kind):
    settings, images = config.training.encoder, open_inputs(config.data).train_images
    model = build_model(settings, Group.solo())
    model.load_state_dict(starting_weights(settings))
    length = feature_length(settings, kind, images.height, images.width)
    found = extract_on_pool(model, settings, images, InProcess(), kind=kind)
    assert found.shape == (len(images), length)
    assert found.dtype == torch.float32
    assert (length == num_features(settings)) == (kind != "map")
    lengths = found.norm(dim=1)
    assert torch.allclose(lengths, torch.ones(len(found))) == (kind == "unit")


def test_no_images_give_no_rows(config):
    settings, images = config.training.encoder, open_inputs(config.data).train_images
    model = build_model(settings, Group.solo())
    found = extract_on_pool(model, settings, images.take(torch.arange(0).numpy()), InProcess(), kind="map")
    assert found.shape == (0, feature_length(settings, "map", images.height, images.width))
