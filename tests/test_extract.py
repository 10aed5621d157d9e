from dataclasses import dataclass

import pytest
import torch

from raid.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from raid.distributed.group import Group
from raid.distributed.launch import run_workers
from raid.extract import extract
from raid.models.backbone import build
from raid.models.batch_norm import norm_factory, pending_statistics

COUNTS = (11, 8, 3, 1, 0)  # images: a part of a block left over, whole blocks, fewer blocks than workers
BATCH = 4


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


def network(dtype=torch.float32):
    norm = norm_factory("ghost", group_size=2, all_reduce_sum=Group.solo().all_reduce_sum)
    return build("resnet18", norm=norm, seed=0).to(dtype)


def extracted(model, images, group, batch_size=BATCH, dtype=torch.float32):
    return extract(
        model,
        images,
        group=group,
        batch_size=batch_size,
        augmentation=Augmentation(),
        device=torch.device("cpu"),
        dtype=dtype,
    )


def plain_features(model, images, dtype):
    """One image after the other."""
    mean, std = (torch.tensor(v, dtype=dtype).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        rows = [model.eval()(((image.to(dtype) / 255 - mean) / std)[None]) for image in images.content]
    return torch.cat(rows)


def extract_all(group, folder):
    model = network()
    torch.save([extracted(model, pixels(count), group) for count in COUNTS], folder / f"{group.rank}.pt")


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


def test_workers_give_the_same_bits_on_every_worker(tmp_path):
    run_workers(extract_all, 2, torch.get_num_threads(), tmp_path)
    model = network()
    for rank in range(2):
        for count, features in zip(COUNTS, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert torch.equal(features, extracted(model, pixels(count), Group.solo())), (rank, count)
