from typing import get_args

import pytest
import tiny
import torch

from raid.distributed.group import Group
from raid.methods.encoder import Encoder, build_model, num_features
from raid.models.backbone import BackboneName


@pytest.mark.parametrize("neck", [True, False])
@pytest.mark.parametrize("name", get_args(BackboneName))
def test_the_number_of_features_is_known_without_a_model(name, neck, tmp_path):
    options = {"model__backbone": name, "model__neck": neck, "model__pool": "average"}
    settings = tiny.config(tmp_path, tmp_path / "run", **options).training.encoder
    before = torch.get_rng_state()
    found = num_features(settings)
    assert torch.equal(torch.get_rng_state(), before)
    model = build_model(settings, Group.solo()).eval()
    with torch.no_grad():
        assert found == model(torch.zeros(1, 3, 32, 16)).shape[1] == model.num_features


def test_collectives_of_the_training_alone_count(tmp_path):
    settings = tiny.config(tmp_path, tmp_path / "run").training.encoder
    weights = build_model(settings, Group.solo()).state_dict()
    encoder = Encoder(settings, weights, Group.solo(), torch.device("cpu"))
    clock = encoder.group.clock
    clock._seconds = 5.0  # of an extraction, say
    with encoder.training_time():
        clock._seconds += 2.0
    clock._seconds += 7.0
    with encoder.training_time():
        clock._seconds += 1.0
    taken = encoder.spans.take()
    assert taken["time/collective_s"] == 3.0
    assert set(taken) == {"time/train_s", "time/collective_s"}
