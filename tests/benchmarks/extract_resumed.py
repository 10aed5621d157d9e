"""`raid extract` of many small images: left alone, and killed half-way and gone on with.

`python tests/benchmarks/extract_resumed.py 100000` prints the SHA-256 of both files, and the peak memory
(VmHWM) of an extraction of a tenth of the images and of all. The images are drawn at random: of nobody.
"""

import argparse
import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from raid.config import load, to_yaml
from raid.data.samples import Record, Samples
from raid.distributed.checkpoint import write_tensors
from raid.distributed.group import Group
from raid.methods.encoder import build_model
from raid.methods.icsr.config import IcsrConfig

HEIGHT, WIDTH = 32, 16
_A_FOLDER = 1000
# Says at its end what it had at most; a killed one cannot.
_PROGRAM = """
import sys
from pathlib import Path
from raid.cli import main
status = main(["extract", *sys.argv[1:]])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
sys.exit(status)
"""


def main() -> None:
    """Write the images, extract them, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="?", default=100_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory(prefix="raid-extract-") as folder:
        compare(Path(folder), count)


def compare(folder: Path, count: int) -> None:
    """Extract `count` images in `folder` undisturbed and killed, and a tenth of them."""
    begun = time.monotonic()
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_folder, [folder] * count, range(0, count, _A_FOLDER), [count] * count))
    records = [Record(name_of(row), row % 1500, row % 6, "gallery") for row in range(count)]
    samples = Samples.scan(folder / "images", records, name="noise")
    samples.write(folder / "all.parquet")
    samples.take(np.arange(count // 10)).write(folder / "tenth.parquet")
    write_model(folder / "model.pt")
    print(f"{count:,} images of {HEIGHT} x {WIDTH} written in {time.monotonic() - begun:.0f} s", flush=True)
    for name, rows in (("tenth", count // 10), ("all", count)):
        begun = time.monotonic()
        memory = extract(folder, f"{name}.parquet", f"{name}_features.parquet")
        seconds = time.monotonic() - begun
        print(f"{rows:,} images undisturbed: {seconds:.0f} s, at most {memory:.0f} MiB", flush=True)
    num_parts = killed(folder, "all.parquet", "killed_features.parquet", count)
    memory = extract(folder, "all.parquet", "killed_features.parquet")
    print(f"killed with {num_parts} parts there, and gone on with: at most {memory:.0f} MiB", flush=True)
    digests = [digest(folder / f"{name}_features.parquet") for name in ("all", "killed")]
    print(f"undisturbed       {digests[0]}\nkilled, resumed   {digests[1]}")
    print(f"equal: {digests[0] == digests[1]}; {(folder / 'all_features.parquet').stat().st_size:,} bytes")


def name_of(row: int) -> str:
    """Return the path of an image."""
    return f"{row // _A_FOLDER:04d}/{row:07d}.jpg"


def write_folder(folder: Path, start: int, count: int) -> None:
    """Write the JPEG files of a folder, blurred noise."""
    rng = np.random.default_rng(start)
    (folder / "images" / f"{start // _A_FOLDER:04d}").mkdir(parents=True, exist_ok=True)
    for row in range(start, min(start + _A_FOLDER, count)):
        pixels = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image.save(folder / "images" / name_of(row))


def write_model(path: Path) -> None:
    """Write a ResNet-10 with random weights."""
    values = {
        "data.root": "images",
        "data.height": HEIGHT,
        "data.width": WIDTH,
        "model.backbone": "resnet10",
        "model.weights": "none",
        "run.device": "cpu",
    }
    config = load(IcsrConfig, overrides=values)
    weights = build_model(config.training.encoder, Group.solo()).state_dict()
    write_tensors(path, {"model": weights, "config": to_yaml(config)})


def command(folder: Path, samples: str, out: str) -> list[str]:
    """Return the command line of an extraction."""
    places = [str(folder / name) for name in ("model.pt", samples, out)]
    return [sys.executable, "-c", _PROGRAM, *places, "--device=cpu"]


def extract(folder: Path, samples: str, out: str) -> float:
    """Extract, and return the peak memory in MiB."""
    done = subprocess.run(command(folder, samples, out), stdout=subprocess.PIPE, text=True, check=True)
    return int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) / 1024


def killed(folder: Path, samples: str, out: str, count: int) -> int:
    """Kill an extraction once half of the parts are there, and return how many there are."""
    process = subprocess.Popen(command(folder, samples, out))
    parts = folder / f"{out}.parts"
    while len(list(parts.glob("0*.npz"))) < count / 4096 / 2:
        assert process.poll() is None, "it ended before half of the parts were there"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return len(list(parts.glob("0*.npz")))


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    main()
