import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for path in (REPOSITORY / "raid").rglob("*.py")
    if not path.is_relative_to(REPOSITORY / "raid" / "distributed")
)
FORBIDDEN = ("ray", "torch.distributed")


def forbidden(source: str) -> list[str]:
    """The modules, of those that raid.distributed alone may use, that a file imports or reaches."""
    reached = (name for node in ast.walk(ast.parse(source)) for name in modules(node))
    return [name for name in reached if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)]


def modules(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            yield from (f"{module}.{alias.name}" for alias in names)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            yield f"{name}.{attribute}"  # torch.distributed.barrier() needs no import of its own
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            yield module


def test_the_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
    assert "0 kept" not in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_only_distributed_imports_ray_or_torch_distributed(path):
    assert forbidden(path.read_text()) == []


def test_the_files_were_found():
    assert {"cli.py", "health.py", "recipe.py", "contrastive.py", "refine.py"} <= {
        path.name for path in SOURCES
    }
    group = (REPOSITORY / "raid" / "distributed" / "group.py").read_text()
    assert "torch.distributed" in forbidden(group)


@pytest.mark.parametrize(
    "source",
    [
        "import ray",
        "import numpy, ray.train as train",
        "from ray import train",
        "from ray.train.torch import TorchTrainer",
        "import torch.distributed as dist",
        "from torch import distributed",
        "from torch.distributed import barrier",
        "from torch.distributed.nn import all_reduce",
        "import torch\ntorch.distributed.barrier()",
        "def work():\n    if True:\n        import ray",
        "import importlib\nray = importlib.import_module('ray.train')",
        "ray = __import__('ray')",
    ],
)
def test_a_file_that_imports_them_is_caught(source):
    assert forbidden(source) != []


@pytest.mark.parametrize(
    "source",
    ["import rays", "import torch.distributions", "from raid.distributed import group", "x = 'import ray'"],
)
def test_others_are_not(source):
    assert forbidden(source) == []
