import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from raid.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from raid.distributed.group import Group
from raid.distributed.launch import run_workers
from raid.extract import extract, extract_block, feature_length, filled, largest_that_fits
from raid.models.backbone import build
from raid.models.batch_norm import norm_factory, pending_statistics

COUNTS = (11, 8, 3, 1, 0)  # images: a part of a block left over, whole blocks, fewer blocks than workers
BATCH = 4
WHAT = ({}, {"flip": True}, {"kind": "pooled"}, {"kind": "map"})


@dataclass(frozen=True)
class Pixels:
    """Images that are already in memory."""

    content: torch.Tensor
    height: int = 32
    width: int = 16

    def __len__(self):
        return len(self.content)

    def gather(self, rows):
        return self.content[torch.from_numpy(rows)].clone()


def pixels(count, seed=0):
    """The first images are the same whatever their count."""
    generator = torch.Generator().manual_seed(seed)
    content = torch.randint(256, (20, 3, 32, 16), generator=generator, dtype=torch.uint8)
    return Pixels(content[:count])


def network(dtype=torch.float32, name="resnet18", **options):
    norm = norm_factory("ghost", group_size=2, all_reduce_sum=Group.solo().all_reduce_sum)
    return build(name, norm=norm, seed=0, **options).to(dtype)


def extracted(model, images, group, batch_size=BATCH, dtype=torch.float32, **what):
    return extract(
        model,
        images,
        group=group,
        batch_size=batch_size,
        augmentation=Augmentation(),
        device=torch.device("cpu"),
        dtype=dtype,
        **what,
    )


def plain_features(model, images, dtype, of=lambda model, image: model(image)):
    """One image after the other."""
    mean, std = (torch.tensor(v, dtype=dtype).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    model.eval()
    with torch.no_grad():
        rows = [of(model, ((image.to(dtype) / 255 - mean) / std)[None]) for image in images.content]
    return torch.cat(rows)


def all_kinds(model, count, group):
    return [extracted(model, pixels(count), group, **what) for what in WHAT]


def extract_all(group, folder):
    model = network()
    torch.save([all_kinds(model, count, group) for count in COUNTS], folder / f"{group.rank}.pt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_one_image_after_the_other(dtype):
    model, images = network(dtype), pixels(11)
    features = extracted(model, images, Group.solo(), dtype=dtype)
    assert features.shape == (11, 512)
    assert features.dtype == dtype
    torch.testing.assert_close(features, plain_features(model, images, dtype))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(11, dtype=dtype))
    assert not features.requires_grad


def test_the_rows_of_a_block_depend_on_no_other_image():
    model = network()
    features = extracted(model, pixels(11), Group.solo())
    assert torch.equal(extracted(model, pixels(8), Group.solo()), features[:8])
    assert torch.equal(extracted(model, pixels(18), Group.solo())[:8], features[:8])
    other = pixels(11, seed=1).content
    other[:BATCH] = pixels(BATCH).content
    mixed = extracted(model, Pixels(other), Group.solo())
    assert torch.equal(mixed[:BATCH], features[:BATCH])
    assert not torch.allclose(mixed[BATCH:], features[BATCH:])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = network().train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    extracted(model, pixels(3), Group.solo())
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert pending_statistics(model) is None


def test_no_images_give_no_rows():
    assert extracted(network(), pixels(0), Group.solo()).shape == (0, 512)


@pytest.mark.usefixtures("quick_starts")
def test_workers_give_the_same_bits_on_every_worker(tmp_path):
    run_workers(extract_all, 2, torch.get_num_threads(), tmp_path)
    model = network()
    for rank in range(2):
        for count, found in zip(COUNTS, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            for what, features, alone in zip(WHAT, found, all_kinds(model, count, Group.solo()), strict=True):
                assert torch.equal(features, alone), (rank, count, what)


def raw(model, image):
    return model.neck(model.pool(model.body(image)))


def with_mirror(model, image):
    return raw(model, image) + raw(model, torch.from_numpy(image.numpy()[..., ::-1].copy()))


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


OTHER_KINDS = [
    ({"kind": "pooled"}, raw),
    ({"kind": "pooled", "flip": True}, with_mirror),
    ({"flip": True}, lambda model, image: unit(with_mirror(model, image))),
    ({"kind": "map"}, lambda model, image: model.body(image).reshape(1, -1)),
]


@pytest.mark.parametrize(("what", "reference"), OTHER_KINDS)
def test_other_features_equal_one_image_after_the_other(what, reference):
    model, images = network(torch.float64), pixels(6)
    with torch.no_grad():
        model.neck.running_mean.normal_(generator=torch.Generator().manual_seed(0))  # else the neck is plain
    model.train()
    found = extracted(model, images, Group.solo(), dtype=torch.float64, **what)
    assert model.training
    assert not found.requires_grad
    torch.testing.assert_close(found, plain_features(model, images, torch.float64, reference))


@pytest.mark.parametrize(("what", "reference"), OTHER_KINDS)
def test_a_block_of_more_images_than_stay_in_the_cache(what, reference):
    """A CPU takes 16 through the network at once."""
    model, images = network(), pixels(19)
    features = extracted(model, images, Group.solo(), batch_size=19, **what)
    torch.testing.assert_close(features, plain_features(model, images, torch.float32, reference))
    assert torch.equal(extracted(model, images, Group.solo(), batch_size=16, **what), features)


def test_an_image_and_its_mirror_image_have_the_same_features_with_flip_alone():
    """The sum is of the raw features: that of unit rows is not the same."""
    model, images = network(), pixels(8)
    mirrored = Pixels(images.content.flip(-1))
    one, other = (extracted(model, of, Group.solo(), flip=True) for of in (images, mirrored))
    assert torch.equal(one, other)
    plain, plain_mirrored = (extracted(model, of, Group.solo()) for of in (images, mirrored))
    assert not torch.allclose(plain, plain_mirrored)
    assert not torch.allclose(one, unit(plain + plain_mirrored), atol=1e-7)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(8))


def test_the_map_of_a_mirror_image_is_not_added():
    with pytest.raises(ValueError, match="mirrored too"):
        extract_block(
            network(), pixels(1), (0, 1), Augmentation(), torch.device("cpu"), torch.float32,
            kind="map", flip=True,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["resnet10", "resnet18_ibn_a", "densenet121"])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_the_length_of_features_is_known_beforehand(name, last_stride):
    model = network(name=name, last_stride=last_stride, pool="average", neck=False)
    content = torch.zeros((2, 3, 75, 36), dtype=torch.uint8)  # odd on the way down
    images = Pixels(content, 75, 36)
    for kind in ("unit", "pooled", "map"):
        length = feature_length(model, kind, 75, 36)
        assert extracted(model, images, Group.solo(), kind=kind).shape == (2, length)
    assert length > feature_length(model, "pooled", 75, 36)
    assert model.training
    assert pending_statistics(model) is None


def test_the_map_of_the_paper_s_network():
    assert feature_length(network(name="resnet50", last_stride=2), "map", 256, 128) == 65_536


def test_parts_are_not_kept_once_they_are_copied():
    seen = []

    def parts():
        for number in range(5):
            assert all(part() is None for part in seen[:-1])
            part = np.full((2, 3), number, np.float32)
            seen.append(weakref.ref(part))
            yield part
            del part

    rows = filled(torch.empty((10, 3)), parts())
    assert torch.equal(rows[:, 0], torch.arange(5.0).repeat_interleave(2))
    assert seen[-1]() is None
    with pytest.raises(AssertionError, match="10 rows were computed, 11 wanted"):
        filled(torch.empty((11, 3)), (np.zeros((5, 3), np.float32) for _ in range(2)))


@pytest.mark.parametrize(("memory", "expected"), [(50, 128), (700, 512), (1024, 1024), (10**6, 2048)])
def test_the_largest_block_that_fits_is_found(memory, expected):
    tried = []

    def run(size):
        tried.append(size)
        if size > memory:
            raise torch.OutOfMemoryError

    assert largest_that_fits(run, [128, 256, 512, 1024, 2048]) == expected
    assert tried == [256, 512, 1024, 2048][: len(tried)]


def test_another_failure_is_not_taken_for_a_full_memory():
    def run(size):
        raise RuntimeError("no kernel image")

    with pytest.raises(RuntimeError, match="no kernel image"):
        largest_that_fits(run, [128, 256])


def test_on_a_cpu_blocks_are_of_the_usual_size():
    model, images = network(), Pixels(pixels(20).content.repeat(7, 1, 1, 1))
    found = extracted(model, images, Group.solo(), batch_size="auto")
    assert torch.equal(found, extracted(model, images, Group.solo(), batch_size=128))


def test_blocks_are_gathered_once_each_in_their_order():
    asked = []

    class Watched(Pixels):
        def gather(self, rows):
            asked.append(rows.tolist())
            return super().gather(rows)

    extracted(network(), Watched(pixels(11).content), Group.solo())
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
