"""Any folder of images: a regular expression reads identity, camera and split from the paths."""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from raid.data.manifest import SPLITS
from raid.data.samples import OnError, Record, Samples
from raid.errors import InputError

logger = logging.getLogger(__name__)

GROUPS = ("identity", "camera", "split")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


def load(
    root: Path,
    pattern: str,
    *,
    splits: Mapping[str, str] | None = None,
    default_split: str = "train",
    on_error: OnError = "fail",
) -> Samples:
    r"""Read every image file below `root` whose path `pattern` is found in.

    Args:
        root: folder; hidden files and folders are passed over, links are followed.
        pattern: regular expression, searched in the posix path relative to `root`, with the named groups
            identity, camera and split, each optional: `(?P<identity>\d+)_c(?P<camera>\d+)`.
        splits: what the text captured as split means: train, query or gallery; default: itself.
        default_split: of an image without a captured split.
        on_error: an unreadable image stops, or is left out with a count.

    Raises:
        InputError: the pattern cannot be used or is found in no path, or a split is unknown.
    """
    expression = _compiled(pattern)
    meanings = dict(splits) if splits is not None else {split: split for split in SPLITS}
    _check_meanings({**meanings, "": default_split})
    paths = sorted(image_paths(root))
    matches = {path: match for path in paths if (match := expression.search(path))}
    _check_found(root, pattern, paths, matches)
    found = {path: match.groupdict() for path, match in matches.items()}
    identities = number_identities([groups.get("identity") for groups in found.values()])
    cameras, camera_names = number_cameras([groups.get("camera") for groups in found.values()])
    chosen = [
        default_split if groups.get("split") is None else _meaning(groups["split"], meanings, path)
        for path, groups in found.items()
    ]
    records = [Record(*values) for values in zip(found, identities, cameras, chosen, strict=True)]
    return Samples.scan(
        root, records, name=root.absolute().name, on_error=on_error, camera_names=camera_names
    )


def number_identities(texts: Sequence[str | None]) -> list[int | None]:
    """Return integers as they are, or number other texts in sorted order; -1 stays -1, None None."""
    known = {text for text in texts if text is not None}
    if all(_INTEGER.fullmatch(text) for text in known):
        return [None if text is None else int(text) for text in texts]
    numbers = {text: number for number, text in enumerate(sorted(known - {"-1"}))} | {"-1": -1}
    return [None if text is None else numbers[text] for text in texts]


def number_cameras(texts: Sequence[str | None]) -> tuple[list[int | None], list[str]]:
    """Number cameras from 0 in sorted order (of value, when all are integers); return their names too."""
    known = sorted({text for text in texts if text is not None})
    names: list[str] = known
    key: dict[str, str] = {text: text for text in known}
    if all(_INTEGER.fullmatch(text) for text in known):
        key = {text: str(int(text)) for text in known}  # 1 and 01 are one camera
        names = sorted(set(key.values()), key=int)
    numbers = {name: number for number, name in enumerate(names)}
    return [None if text is None else numbers[key[text]] for text in texts], names


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"data.pattern: {pattern!r} is not a regular expression: {error}") from error
    unknown = set(expression.groupindex) - set(GROUPS)
    if unknown or (expression.groups and not expression.groupindex):
        wrong = f"group {min(unknown)!r} is unknown" if unknown else "the groups have no names"
        known = ", ".join(f"(?P<{group}>...)" for group in GROUPS)
        raise InputError(f"data.pattern: {wrong} in {pattern!r}; name them {known}")
    return expression


def _check_meanings(meanings: Mapping[str, str]) -> None:
    for text, split in meanings.items():
        if split not in SPLITS:
            raise InputError(f"data.splits: {text!r} means {split!r}; it may mean {', '.join(SPLITS)}")


def _meaning(text: str, meanings: Mapping[str, str], path: str) -> str:
    if text not in meanings:
        raise InputError(
            f"data.splits: the split {text!r} of {path} is not among {', '.join(meanings)}; say what it means"
        )
    return meanings[text]


def image_paths(root: Path) -> Iterator[str]:
    """Yield the image files below a folder, in no order; hidden ones are passed over, links are followed.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; set data.root")
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        # A link to a folder above would be walked for ever.
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _check_found(root: Path, pattern: str, paths: Sequence[str], matches: Mapping[str, object]) -> None:
    if not paths:
        raise InputError(f"{root}: no image file below this folder ({', '.join(sorted(SUFFIXES))})")
    if not matches:
        raise InputError(
            f"data.pattern: {pattern!r} is found in none of {len(paths)} paths, such as {paths[0]}"
        )
    other = [path for path in paths if path not in matches]
    if other:
        shown = ", ".join(other[:3])
        logger.warning("%s: left out %d of %d images, not matched: %s", root, len(other), len(paths), shown)
