import os
import stat

import numpy as np
import pytest
import torch

from raid.errors import InputError
from raid.files import atomic_folder, atomic_path, read_tensors


@pytest.fixture(params=[0o022, 0o077, 0o007])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "folder" / "file.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_written_by_name_keeps_its_suffix(tmp_path):
    with atomic_path(tmp_path / "array.npy") as temporary:
        np.save(temporary, np.arange(3))  # adds .npy where it is missing
    assert np.load(tmp_path / "array.npy").tolist() == [0, 1, 2]
    with atomic_path(tmp_path / "array.npy") as temporary:
        other = tmp_path / "other"
        other.write_text("moved there")
        other.replace(temporary)
    assert (tmp_path / "array.npy").read_text() == "moved there"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(ValueError, match="stop"), atomic_path(tmp_path / "file.txt"):
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_stays_and_nothing_is_left(tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError, match="name"), atomic_path(tmp_path / "name") as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [tmp_path / "name"]


def test_two_writers_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "file") as one, atomic_path(tmp_path / "file") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one"  # the last to finish


def test_permissions_are_those_of_a_file_made_plainly(tmp_path, umask):
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "ours") as temporary:
        temporary.write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert modes == [0o666 & ~umask] * 2
    assert os.umask(umask) == umask  # it is as it was


def test_the_content_is_on_disk_before_the_file_takes_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "file", []

    def fsync(descriptor):
        synced.append((os.pread(descriptor, 10, 0), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert synced == [(b"new", False)]


def test_tensors_are_read_onto_the_cpu(tmp_path):
    torch.save({"a": [torch.ones(2), 3, None]}, tmp_path / "file.pt")
    found = read_tensors(tmp_path / "file.pt")
    assert torch.equal(found["a"][0], torch.ones(2))
    assert found["a"][1:] == [3, None]


def test_what_is_no_file_of_tensors_is_named(tmp_path):
    for content in (b"", b".", b"text", b"\x80\x02cposix\nsystem\n."):
        (tmp_path / "file.pt").write_bytes(content)
        with pytest.raises(
            InputError, match=r"file\.pt: not a file of tensors and plain values: \w"
        ) as raised:
            read_tensors(tmp_path / "file.pt")
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"none\.pt: not a file .*No such file"):
        read_tensors(tmp_path / "none.pt")


def test_a_folder_appears_when_the_block_ends(tmp_path, umask):
    path = tmp_path / "deep" / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text("new")
        assert not path.exists()
    assert (path / "file").read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
    assert list(path.parent.iterdir()) == [path]


def write_folder(path, *, meanwhile):
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text("mine")
        meanwhile()


def test_a_folder_that_is_not_finished_is_cleared_away(tmp_path):
    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "folder", meanwhile=killed)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_process_made_first_stays(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(OSError, match="not empty"):
        write_folder(path, meanwhile=lambda: write_folder(path, meanwhile=lambda: None))
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "file"]
