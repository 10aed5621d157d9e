import os
import pickle
import re
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from raid.distributed.group import Group
from raid.errors import InputError
from raid.models.backbone import build
from raid.models.batch_norm import norm_factory
from raid.models.weights import load_weights, read_state_dict

RESNET18_FILE = "resnet18-f37072fd.pth"


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """An empty cache of torchvision's files, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    forbid_downloads(monkeypatch, AssertionError("a download"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def forbid_downloads(monkeypatch, error):
    def download(url, path, **options):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)


def new_model(name="resnet18", seed=0, pool="gem", **options):
    solo = Group.solo()
    norm = norm_factory("ghost", group_size=2, all_reduce_sum=solo.all_reduce_sum)
    return build(name, norm=norm, seed=seed, pool=pool, **options)


def made_up(state, seed=7):
    """The same names and shapes, and numbers of its own in every tensor."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator).abs().to(value.dtype)
        for key, value in state.items()
    }


def torchvisions(architecture="resnet18"):
    with torch.device("meta"):  # names and shapes alone
        resnet = getattr(torchvision.models, architecture)(weights=None)
    return made_up(resnet.state_dict())


def ibn_nets(architecture):
    """A state dict with the names of IBN-Net's release: IN and BN in bn1 of stages 1 to 3."""
    state = {}
    for key, value in torchvisions(architecture).items():
        stage, _, name = key.partition(".")
        if stage in ("layer1", "layer2", "layer3") and ".bn1." in f".{name}":
            block, norm, leaf = name.split(".")
            half = len(value) // 2 if value.dim() else None
            if leaf in ("weight", "bias"):
                state[f"module.{stage}.{block}.{norm}.IN.{leaf}"] = value[:half].clone()
            state[f"module.{stage}.{block}.{norm}.BN.{leaf}"] = value[half:].clone() if half else value
        else:
            state[f"module.{key}"] = value
    return state


def old_densenets():
    """A state dict with the names of torchvision's file, which is older than its modules."""
    state = torchvisions("densenet121")
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): state[key] for key in state}
    return {key: value for key, value in old.items() if not key.endswith("batches_tracked")}


def saved(content, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **options)
    return path


def assert_body_equals(model, expected):
    """`expected`: torchvision's names -> tensors."""
    body = model.body.state_dict()
    dropped = ("fc.", "classifier.")
    names = [key for key in expected if not key.startswith(dropped) and not key.endswith("batches_tracked")]
    assert sorted(body) == sorted(names)
    for key in names:
        assert torch.equal(body[key], expected[key]), key


def test_none_leaves_the_weights_alone():
    model, before = new_model(), new_model().state_dict()
    load_weights(model, "resnet18", "none")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_imagenet_comes_from_the_cache(hub):
    state = torchvisions()
    saved(state, hub / RESNET18_FILE)
    model, before = new_model(), new_model().state_dict()
    load_weights(model, "resnet18", "imagenet")
    assert_body_equals(model, state)
    new = [key for key in before if key.startswith(("pool.", "neck."))]
    assert len(new) == 5
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in new)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_a_model_without_neck_and_final_relu_takes_the_same_file(architecture, tmp_path):
    state = torchvisions(architecture)
    model = new_model(architecture, pool="average", neck=False, final_relu=False)
    load_weights(model, architecture, str(saved(state, tmp_path / "file.pth")))
    assert_body_equals(model, state)
    assert all(key.startswith("body.") for key in model.state_dict())


def test_a_neck_is_never_dropped_and_may_be_new(tmp_path):
    source = new_model(seed=1)
    file = saved(source.state_dict(), tmp_path / "with.pt")
    with pytest.raises(InputError, match=r"4 unknown \(neck\.weight"):
        load_weights(new_model(neck=False), "resnet18", str(file))
    bare, model = new_model(seed=2, neck=False), new_model(seed=3)
    load_weights(model, "resnet18", str(saved(bare.state_dict(), tmp_path / "without.pt")))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in bare.state_dict().items())
    assert torch.equal(model.neck.weight, torch.ones(512))


def test_imagenet_is_downloaded_once_and_checked(hub, monkeypatch):
    calls = []

    def download(url, path, *, hash_prefix):
        calls.append((url, hash_prefix))
        saved(torchvisions(), Path(path))

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        load_weights(new_model(), "resnet18", "imagenet")
    assert calls == [(f"https://download.pytorch.org/models/{RESNET18_FILE}", "f37072fd")]
    assert (hub / RESNET18_FILE).exists()


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), PermissionError(13, "Permission denied"), RuntimeError("invalid hash")],
)
def test_without_network_the_file_to_provide_is_named(hub, error, monkeypatch):
    forbid_downloads(monkeypatch, error)
    with pytest.raises(InputError) as raised:
        load_weights(new_model(), "resnet18", "imagenet")
    message = str(raised.value)
    assert message.startswith("model.weights: ")
    assert f"copy {RESNET18_FILE} to {hub / RESNET18_FILE}" in message
    assert str(error) in message
    assert "\n" not in message


def test_a_cache_folder_that_cannot_be_made_is_an_input_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=rf"^model\.weights: .*{tmp_path / 'file'}"):
        load_weights(new_model(), "resnet18", "imagenet")


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "resnet50_ibn_a"])
def test_ibn_has_no_imagenet_file(name):
    with pytest.raises(InputError, match=rf"no ImageNet weights for {name}; give the path of a state dict"):
        load_weights(new_model(name), name, "imagenet")


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "resnet50_ibn_a"])
def test_ibn_nets_layout_is_understood(name, tmp_path):
    state = ibn_nets(name.removesuffix("_ibn_a"))
    assert {"module.layer1.0.bn1.IN.weight", "module.layer1.0.bn1.BN.running_mean"} < set(state)
    assert {"module.layer4.0.bn1.weight", "module.fc.weight", "module.bn1.num_batches_tracked"} < set(state)
    model = new_model(name)
    load_weights(model, name, str(saved(state, tmp_path / "ibn.pth")))
    renamed = {
        key.removeprefix("module.").replace("IN.", "instance.").replace("BN.", "batch."): value
        for key, value in state.items()
    }
    assert_body_equals(model, renamed)


@pytest.mark.parametrize("is_old", [True, False])
def test_densenets_file_is_read_under_its_old_names_too(is_old, hub):
    new = torchvisions("densenet121")
    state = old_densenets() if is_old else new
    old_name = "features.denseblock4.denselayer16.norm.2.running_var"
    assert (old_name in state) == is_old
    assert {"features.conv0.weight", "features.transition1.norm.weight", "classifier.bias"} < set(state)
    saved(state, hub / "densenet121-a639ec97.pth")
    model = new_model("densenet121")
    load_weights(model, "densenet121", "imagenet")
    assert_body_equals(model, new)


def test_our_own_file_brings_pool_and_neck(tmp_path):
    source, model = new_model(seed=1), new_model(seed=2)
    source.load_state_dict(made_up(source.state_dict()))
    load_weights(model, "resnet18", str(saved({"model": source.state_dict()}, tmp_path / "model.pt")))
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert model.pool.exponent.item() != 3
    assert not model.neck.bias.requires_grad


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "best": 0.5},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {key.replace("fc.", "classifier."): value for key, value in state.items()},
        lambda state: {key: value.double() for key, value in state.items()},
    ],
    ids=["bare", "state_dict", "model", "module", "classifier", "float64"],
)
def test_usual_layouts_of_a_state_dict(wrap, tmp_path):
    state, model = torchvisions(), new_model()
    load_weights(model, "resnet18", str(saved(wrap(state), tmp_path / "file.pth")))
    assert_body_equals(model, state)
    assert model.body.conv1.weight.dtype == torch.float32


def test_the_old_file_format_and_a_path_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    state, model = torchvisions(), new_model()
    saved(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_weights(model, "resnet18", "~/old.pth")
    assert_body_equals(model, state)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match=rf"^model\.weights: no such file: {path}$"):
            load_weights(new_model(), "resnet18", str(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused_wherever_it_ends(zipped, tmp_path):
    state = {f"layer.{i}": torch.ones(3, i + 1) for i in range(8)}
    path = saved(state, tmp_path / "cut.pth", _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    assert set(read_state_dict(path)) == set(state)
    for length in range(0, len(content) - 32, 23):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"^model\.weights: {path}: not a file of tensors") as raised:
            read_state_dict(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"hello\n", b"{}", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"", b"."])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(InputError, match="not a file of tensors"):
        load_weights(new_model(), "resnet18", str(tmp_path / "other.pth"))


class Malicious:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("way", ["pickle", "zip", "old", "beside"])
def test_a_pickled_object_is_refused_and_not_executed(way, tmp_path):
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    if way == "pickle":
        path.write_bytes(pickle.dumps({"layer": Malicious(made)}, protocol=2))
    elif way == "beside":
        saved({"state_dict": torchvisions(), "optimizer": Malicious(made)}, path)
    else:
        saved({"layer": Malicious(made)}, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(InputError, match="not executed") as raised:
        load_weights(new_model(), "resnet18", str(path))
    assert not made.exists()
    assert "weights_only" not in str(raised.value)  # torch's text advises to execute it
    with suppress(RuntimeError):  # the bare pickle is executed before it is found to be no file of torch's
        torch.load(path, weights_only=False)
    assert made.exists()  # the file is as harmful as it should be


def test_a_wrong_shape_is_named(tmp_path):
    state = torchvisions() | {"layer2.0.conv1.weight": torch.ones(128, 64, 5, 5)}
    path = saved(state, tmp_path / "shape.pth")
    with pytest.raises(InputError) as raised:
        load_weights(new_model(), "resnet18", str(path))
    assert str(raised.value) == (
        f"model.weights: {path}: body.layer2.0.conv1.weight has shape (128, 64, 5, 5), "
        "the model wants (128, 64, 3, 3)"
    )


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ("resnet34", "resnet18", r"0 missing \(\), 80 unknown \(body\.layer1\.2\.conv1\.weight"),
        ("resnet18", "resnet18_ibn_a", r"36 missing \(body\.layer1\.0\.bn1\.instance\.weight"),
        ("resnet50", "resnet18", r"has shape"),
    ],
)
def test_another_architecture_is_refused(given, name, reason, tmp_path):
    path = saved(torchvisions(given), tmp_path / "other.pth")
    with pytest.raises(InputError, match=reason):
        load_weights(new_model(name), name, str(path))


def test_a_pooling_exponent_without_gem_is_refused(tmp_path):
    path = saved({"model": new_model().state_dict()}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"1 unknown \(pool\.exponent\)"):
        load_weights(new_model(pool="average"), "resnet18", str(path))


@pytest.mark.parametrize(
    "content",
    [[torch.ones(2)], torch.ones(3), {"layer": [1, 2]}, {"state_dict": {"epoch": 3}}, {3: torch.ones(2)}, 4],
)
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    with pytest.raises(InputError, match=r"list\.pth holds no state dict"):
        load_weights(new_model(), "resnet18", str(saved(content, tmp_path / "list.pth")))


def test_an_empty_state_dict_does_not_fit(tmp_path):
    with pytest.raises(InputError, match="100 missing"):
        load_weights(new_model(), "resnet18", str(saved({}, tmp_path / "empty.pth")))
