import os
import pickle
import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from raid.distributed import checkpoint
from raid.errors import InputError


def state_of(seed=0):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "labels": torch.arange(5) - 1,
        "memory": torch.randn(4, 3, generator=generator, dtype=torch.float64),
        "not a number": torch.tensor([float("nan"), -0.0, float("inf")]),
        "nested": {"list": [1, None, [2.5, "text"]], "flag": True, "empty": {}},
    }


def assert_same(found, expected):
    """Equal in type, names and every bit."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert found.numpy().tobytes() == expected.detach().numpy().tobytes()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    else:
        assert found == expected
        assert type(found) is type(expected)


def saved(folder, epoch=0, step=0, keep=100, **state):
    return checkpoint.save(folder, state, epoch=epoch, step=step, keep=keep)


def test_a_saved_state_comes_back_bit_for_bit(tmp_path):
    state = state_of()
    path = saved(tmp_path / "new" / "checkpoints", epoch=3, step=17, **state)
    assert path == tmp_path / "new" / "checkpoints" / "epoch_00003_step_0000017.pt"
    found = checkpoint.load(path)
    assert_same(found, {**state, "format": 1, "epoch": 3, "step": 17})
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])


def test_the_file_holds_tensors_alone(tmp_path):
    torch.load(saved(tmp_path, **state_of(), random=checkpoint.random_state()), weights_only=True)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    files = [saved(tmp_path / name, epoch=1, memory=torch.ones(3)) for name in ("one", "another")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_latest_goes_by_epoch_and_then_step(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "none") is None
    for epoch, step in [(2, 0), (10, 0), (9, 100), (10, 20), (10, 3)]:
        saved(tmp_path, epoch=epoch, step=step)
    assert checkpoint.latest(tmp_path).name == "epoch_00010_step_0000020.pt"


def test_the_latest_are_kept_and_other_files_left_alone(tmp_path):
    others = [
        "epoch_00000_step_0000000.pt.bak",
        "my_epoch_00000_step_0000000.pt",
        "epoch_last.pt",
        "epoch_99999_step_x.pt",
        ".epoch_99999_step_0000000.pt.half.pt",
        "model.pt",
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    for step in range(5):
        path = saved(tmp_path, step=step, keep=2)
        assert checkpoint.latest(tmp_path) == path
    kept = ["epoch_00000_step_0000003.pt", "epoch_00000_step_0000004.pt"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(others + kept)


def test_the_same_position_is_written_over(tmp_path):
    saved(tmp_path, value=1)
    path = saved(tmp_path, value=2, keep=1)
    assert checkpoint.load(path)["value"] == 2
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_is_stopped_leaves_the_one_before(tmp_path, monkeypatch):
    before = saved(tmp_path, keep=1, **state_of())
    content = before.read_bytes()

    def half(state, file):
        file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    for step in (0, 1):  # over the same position, and a new one
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path, step=step, keep=1)
    assert list(tmp_path.iterdir()) == [before]
    assert before.read_bytes() == content
    assert checkpoint.latest(tmp_path) == before


class Malicious:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickled_object_is_refused_and_not_executed(tmp_path):
    path, made = tmp_path / "epoch_00000_step_0000000.pt", tmp_path / "made"
    for write in (
        lambda: torch.save({"format": 1, "model": Malicious(made)}, path),
        lambda: path.write_bytes(pickle.dumps({"format": 1, "model": Malicious(made)}, protocol=2)),
    ):
        write()
        with pytest.raises(InputError, match=f"{path}: .*not executed"):
            checkpoint.load(path)
        assert not made.exists()
        with suppress(RuntimeError):
            torch.load(path, weights_only=False)
        made.rmdir()  # the file is as harmful as it should be


@pytest.mark.parametrize("content", [b"", b"text\n", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "epoch_00000_step_0000000.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path}: not a "):
        checkpoint.load(path)
    with pytest.raises(InputError, match="not a file"):
        checkpoint.load(tmp_path / "missing.pt")


def test_truncated_checkpoints_are_refused(tmp_path):
    path = saved(tmp_path, **state_of())
    content = path.read_bytes()
    for length in range(0, len(content) - 1, len(content) // 40):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="not a file of tensors"):
            checkpoint.load(path)


@pytest.mark.parametrize("state", [{"model": {}}, {"format": 2}, {"format": "1"}, [1], torch.ones(2)])
def test_another_format_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: not a checkpoint of raid's format 1"):
        checkpoint.load(tmp_path / "other.pt")


def draws():
    return [
        torch.randn(3).tolist(),
        np.random.standard_normal(3).tolist(),  # noqa: NPY002
        [random.random(), random.gauss(0, 1)],
    ]


@pytest.fixture
def ambient():
    """Puts the generators back, as the tests after this one found them."""
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])


@pytest.mark.parametrize("drawn", [0, 1])
def test_the_ambient_generators_go_on_where_they_were(tmp_path, ambient, drawn):
    for _ in range(drawn):  # an odd number of normal draws: half a pair is kept for the next
        draws()
    path = saved(tmp_path, random=checkpoint.random_state())
    expected = [draws() for _ in range(3)]
    assert [draws() for _ in range(3)] != expected
    checkpoint.set_random_state(checkpoint.load(path)["random"])
    assert [draws() for _ in range(3)] == expected


def test_reading_the_state_draws_nothing(ambient):
    before = checkpoint.random_state()
    assert_same(checkpoint.random_state(), before)
    first = draws()
    checkpoint.set_random_state(before)
    assert draws() == first
