"""Starting weights of a backbone: torchvision's ImageNet ones, a local file, or none.

Files are read with `weights_only=True`: a pickled object is refused, never executed.
"""

import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from raid.errors import InputError
from raid.files import read_tensors
from raid.models.backbone import Backbone

# What a pretrained file need not hold: the pooling exponent and the neck are new in every backbone.
_NEW_PARTS = ("pool.", "neck.")
# torchvision's DenseNet files are older than its modules: norm.1 is norm1 today.
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def load_weights(model: Backbone, name: str, weights: str) -> None:
    """Fill `model` (architecture `name`) from `weights`: `imagenet`, `none` or the path of a file.

    Raises:
        InputError: there are no such weights, the file is missing, is no state dict or does not fit.
    """
    if weights == "none":
        return
    path = imagenet_file(name) if weights == "imagenet" else Path(weights).expanduser()
    state = backbone_keys(read_state_dict(path))
    missing, unexpected = model.load_state_dict(_fitting(model, state, path), strict=False)
    missing = [key for key in missing if not key.startswith(_NEW_PARTS)]
    if missing or unexpected:
        raise InputError(
            f"model.weights: {path} does not fit {name}: "
            f"{len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unknown ({', '.join(unexpected[:3])})"
        )


def imagenet_file(name: str) -> Path:
    """Return the path of torchvision's ImageNet file for `name`, downloading it when it is not cached.

    Raises:
        InputError: an IBN backbone (torchvision has no such weights), or no network; the message names
            the file to provide.
    """
    if name.endswith("_ibn_a"):
        raise InputError(
            f"model.weights: torchvision has no ImageNet weights for {name}; "
            "give the path of a state dict (IBN-Net's layout is understood), or none"
        )
    from torchvision.models import get_model_weights  # here: see `backbone.build`

    url: str = get_model_weights(name)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rsplit("-", 1)[-1])
        except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the hash is another
            raise InputError(
                f"model.weights: cannot download the ImageNet weights of {name} ({error}); "
                f"copy {path.name} to {path}, or set model.weights to a file or to none"
            ) from error
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict, bare or under `state_dict` or `model`, from a file of tensors."""
    if not path.is_file():
        raise InputError(f"model.weights: no such file: {path}")
    try:
        content = read_tensors(path)
    except InputError as error:
        raise InputError(f"model.weights: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise InputError(f"model.weights: {path} holds no state dict (a mapping of names to tensors)")
    return dict(content)


def backbone_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a torchvision or IBN-Net state dict to this project's names, without the classifier."""
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if name.startswith(("fc.", "classifier.")) or name.endswith("num_batches_tracked"):
            continue
        name = name.replace(".bn1.IN.", ".bn1.instance.").replace(".bn1.BN.", ".bn1.batch.")
        name = _OLD_DENSE_LAYER.sub(r"\1\2.", name)
        renamed[name if name.startswith(("body.", *_NEW_PARTS)) else f"body.{name}"] = value
    return renamed


def _fitting(model: Backbone, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    own = model.state_dict()
    for key, value in state.items():
        if key in own and own[key].shape != value.shape:
            raise InputError(
                f"model.weights: {path}: {key} has shape {tuple(value.shape)}, "
                f"the model wants {tuple(own[key].shape)}"
            )
    return state
