"""Published programs that cannot be installed: called from a checkout that an environment variable names.

    RAID_BENCH_TORCHREID         KaiyangZhou/deep-person-reid
    RAID_BENCH_FAST_REID         JDAI-CV/fast-reid
    RAID_BENCH_CLUSTER_CONTRAST  alibaba/cluster-contrast-reid

Only the file that is needed is imported, with what it imports itself (numpy, torch, faiss, scipy): the
`__init__` of the packages around it would ask for much more.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

TORCHREID, FAST_REID, CLUSTER_CONTRAST = (
    f"RAID_BENCH_{name}" for name in ("TORCHREID", "FAST_REID", "CLUSTER_CONTRAST")
)
RERANK, JACCARD = "torchreid.utils.rerank", "clustercontrast.utils.faiss_rerank"
RANK = {TORCHREID: "torchreid.metrics.rank", FAST_REID: "fastreid.evaluation.rank"}
_NEEDED = {
    TORCHREID: (RERANK, RANK[TORCHREID]),
    FAST_REID: (RANK[FAST_REID],),
    CLUSTER_CONTRAST: (JACCARD,),
}


def unset() -> list[str]:
    """The variables that name nothing."""
    return [variable for variable in _NEEDED if not os.environ.get(variable)]


def check() -> None:
    """Look for the files of every variable that is set.

    Raises:
        FileNotFoundError: what a variable names is not such a checkout.
    """
    for variable, names in _NEEDED.items():
        if os.environ.get(variable):
            for name in names:
                _file(variable, name)


def re_ranking() -> Callable[..., Any]:
    """torchreid's (query x gallery, query x query, gallery x gallery, k1, k2, lambda_value) -> distances.

    Of Euclidean distances, not squared: it squares them.
    """
    return _load(TORCHREID, RERANK).re_ranking


def compute_jaccard_distance() -> Callable[..., Any]:
    """Cluster-Contrast's (tensor, k1, k2, print_flag, search_option) -> distances; option 3 is the CPU."""
    return _load(CLUSTER_CONTRAST, JACCARD).compute_jaccard_distance


def evaluate_rank(variable: str) -> tuple[Callable[..., Any], str]:
    """(distances, query and gallery identities, query and gallery cameras) -> CMC, mAP or every AP, ...

    With it, what it runs: "Cython" where that is built in the checkout, or "Python".
    """
    module = _load(variable, RANK[variable])
    return module.evaluate_rank, "Cython" if module.IS_CYTHON_AVAI else "Python"


def _file(variable: str, name: str) -> Path:
    file = Path(os.environ[variable]).joinpath(*name.split(".")).with_suffix(".py")
    if not file.is_file():
        raise FileNotFoundError(f"{variable}={os.environ[variable]} is not such a checkout: no file {file}")
    return file


def _load(variable: str, name: str) -> ModuleType:
    """Import a file of the checkout by its name; of the packages around it no `__init__` is run."""
    folder = _file(variable, name).parent
    packages = name.split(".")[:-1]
    for loaded in [key for key in sys.modules if key.split(".")[0] == packages[0]]:
        del sys.modules[loaded]  # of another checkout, or installed
    for depth in range(len(packages), 0, -1):
        package = ModuleType(".".join(packages[:depth]))
        package.__path__ = [str(folder)]
        sys.modules[package.__name__] = package
        folder = folder.parent
    return importlib.import_module(name)
