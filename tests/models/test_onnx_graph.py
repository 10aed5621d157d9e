"""The exported graph against the network in eager mode, whatever it is made of."""

import functools
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
import thin_resnet
import torch
from torch.nn import functional as F
from torchvision.models import densenet

from raid.models import backbone
from raid.models.backbone import Backbone
from raid.models.batch_norm import norm_factory
from raid.models.onnx_graph import INPUT, OPSET, OUTPUT, graph_of

HEIGHT, WIDTH = 48, 16
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.1, 0.3)
NETWORKS = {
    "ICSR's": ("resnet18", "gem", True, True),
    "with instance norm": ("resnet18_ibn_a", "gem", True, True),
    "MAR's": ("resnet50", "average", False, False),
    "without a neck": ("resnet10", "gem", False, True),
    "SLSR's": ("densenet121", "average", False, False),
}


def thin_densenet(weights: None) -> densenet.DenseNet:
    return densenet.DenseNet(8, (2, 2, 2, 2), 16)


@functools.cache
def network_of(name: str, pool: str, neck: bool, final_relu: bool) -> Backbone:
    """A network whose norms have seen something: fresh ones are nearly the identity."""
    norm = norm_factory("ghost", group_size=4, all_reduce_sum=lambda value: value)
    with thin_resnet.in_use(), mock.patch.object(densenet, "densenet121", thin_densenet):
        network = backbone.build(name, norm=norm, seed=3, pool=pool, neck=neck, final_relu=final_relu)
    rng = torch.Generator().manual_seed(1)
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=rng) / 10)
        elif key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=rng) + 0.5)
    return network


@functools.cache
def graph_of_network(of: str, *, flip: bool) -> bytes:
    return graph_of(network_of(*NETWORKS[of]), MEAN, STD, height=HEIGHT, width=WIDTH, flip=flip)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 3, HEIGHT, WIDTH), dtype=np.uint8)


def expected(network: Backbone, images: np.ndarray, *, flip: bool) -> np.ndarray:
    """Image by image, in float64, by nothing of what makes the graph."""
    network = network.double().eval()
    mean, std = (torch.tensor(values).double().view(1, 3, 1, 1) for values in (MEAN, STD))
    rows = []
    with torch.no_grad():
        for image in torch.from_numpy(images).double():
            row = network.pooled((image[None] / 255 - mean) / std)
            if flip:
                row = row + network.pooled((image.flip(-1)[None] / 255 - mean) / std)
            rows.append(F.normalize(row))
    network.float()
    return torch.cat(rows).numpy()


def run(graph: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: images})[0]


@pytest.mark.parametrize(
    ("of", "flip"),
    [("ICSR's", False), ("ICSR's", True), *((name, True) for name in list(NETWORKS)[1:])],
)
def test_the_graph_has_the_features_of_the_network(of, flip):
    network = network_of(*NETWORKS[of])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    graph = graph_of_network(of, flip=flip)
    for count in (1, 2, 17):
        found = run(graph, pixels(count))
        assert found.shape == (count, network.num_features)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected(network, pixels(count), flip=flip), rtol=0, atol=2e-6)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_image_and_its_mirror_image_have_the_same_features_where_they_are_added():
    plain, flipped = (graph_of_network("ICSR's", flip=flip) for flip in (False, True))
    mirrored = np.ascontiguousarray(pixels(3)[..., ::-1])
    np.testing.assert_allclose(run(flipped, pixels(3)), run(flipped, mirrored), rtol=0, atol=1e-6)
    assert np.abs(run(plain, pixels(3)) - run(plain, mirrored)).max() > 1e-3


def test_the_file_is_valid_compact_and_tells_nothing_of_where_it_was_made():
    graph = graph_of_network("ICSR's", flip=True)
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    shape = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, HEIGHT, WIDTH]
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Conv"), len(model.functions)) == (21, 0)  # each once, though mirror images are added
    assert kinds.count("BatchNormalization") == 1  # the neck's; the others are folded
    assert set(kinds).isdisjoint({"If", "Loop", "Scan"})
    assert backbone.__file__.encode() not in graph
    assert b"raid" not in graph


def test_other_types_and_sizes_are_refused_by_the_runtime():
    graph = graph_of_network("ICSR's", flip=False)
    with pytest.raises(Exception, match="float"):
        run(graph, pixels(1).astype(np.float32) / 255)
    with pytest.raises(Exception, match="invalid dimensions"):
        run(graph, pixels(1)[..., :-1])
