"""Which set `raid data pack` is asked to pack."""

from collections.abc import Sequence

from raid.data.packing import pack
from raid.errors import InputError
from raid.methods.checking import data_of
from raid.methods.inputs import load_samples, origin


def pack_set(arguments: Sequence[str], out: str, *, shard_mib: int, resume: bool) -> str:
    """Pack the set that the command line names; return what was done, as text.

    Args:
        arguments: a path or URI, and fields of section data (`a=b`).
        out: folder or URI.
        shard_mib: MiB of images in a shard.
        resume: go on with what is in `out`.

    Raises:
        InputError: the set cannot be read or its layout cannot be told, or it cannot be packed.
    """
    data, found = data_of(arguments)
    if "layout" in found and found["layout"] != data.layout:
        raise InputError(f"{arguments[0]}: its layout is not recognised; say it: layout=...")
    samples = load_samples(data)
    done = pack(samples, out, origin=origin(data), shard_mib=shard_mib, resume=resume)
    what = f"{out}: {len(samples)} images, splits {', '.join(samples.splits)}"
    return what if done else f"{what}: packed already"
