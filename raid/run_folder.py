"""The folder of one run: what is in it, when it may be written, and how it is continued.

config.yaml           the whole resolved configuration
run.json              what determines the result: method, configuration and its hash, fingerprint of the data;
                      and what set it is (`Samples.facts`: its name, version, protocol)
local/                ICSR: local labels of the cameras that are done
local_labels.parquet  ICSR: the local labels of all cameras, which other runs can take
cameras.jsonl         ICSR: what stage 1 took for each camera, and what came of it
checkpoints/          full state, latest last
steps.jsonl           loss of every training step
metrics.jsonl         figures of every epoch
mining.jsonl          MAR: agreement of the pairs mined in every epoch that mined, and a few of them
pretrained.pt         MAR: encoder and reference agents as stage 1 left them, for other runs to start from
multilabels.npz       MAR: the nearest reference agents of sample images
baseline.pt           SLSR: the network that stage 1 left, whose features are clustered
clusters.npz          SLSR: cluster and identity of every training image, silhouettes, principal components
gans/                 SLSR: a folder a cluster: losses of its GAN, grids of samples, generator
generated.npy         SLSR: the generated images, sorted by cluster
generated.json        SLSR: how many of each cluster, and how good they are
model.pt              the trained model
evaluation.npz        what the report shows of the last evaluation: CMC, ranked lists, similarity of cameras
evaluation_SET.json   what `raid evaluate` found the model to do on a set
report.html           the run as one page
stacks_WORKER.txt     where workers stood that did not get on with a training step
profile/              trace and summary of some training steps, where run.profile is on
diverged.json         step, learning rate and batch of a loss that was not finite
status.json           how the run stands (`raid.run_status`); stop: its workers are asked to save and stop
attempt               which process has opened the run last: it alone goes on with it
tracking.json         what MLflow has of the run (`raid.tracking`); tracking.lock: held while it is followed
"""

import json
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raid.config import Schema, determining, hash_of, to_yaml
from raid.errors import InputError
from raid.files import atomic_path
from raid.run_status import NAMES as STATUS

GRID_GAP = 2  # white pixels between two pictures of a GAN's grid
# In the order they are cleared in: as long as anything is left, run.json says whose it is.
_OWN = (
    "report.html",
    "evaluation.npz",
    "multilabels.npz",
    "model.pt",
    "pretrained.pt",
    "generated.json",
    "generated.npy",
    "gans",
    "clusters.npz",
    "baseline.pt",
    "checkpoints",
    "steps.jsonl",
    "mining.jsonl",
    "metrics.jsonl",
    "local",
    "local_labels.parquet",
    "profile",
    "diverged.json",
    "cameras.jsonl",
    "tracking.json",
    "tracking.lock",
    *STATUS,
    "attempt",
    "config.yaml",
    "run.json",
)
_LINES = ("steps.jsonl", "mining.jsonl", "metrics.jsonl")


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of a run.

    Attributes:
        path: of the folder.
        attempt: names the process that opened the run, to train; None: whoever reads, or writes a page.
    """

    path: Path
    attempt: str | None = None

    @staticmethod
    def open(
        path: Path,
        config: Schema,
        fingerprint: str | Mapping[str, str],
        *,
        method: str,
        facts: Mapping[str, str] | None = None,
        origins: Mapping[str, Any] | None = None,
        resume: bool,
        fresh: bool,
    ) -> "RunFolder":
        """Make the folder of a new run, or go on in one that the same method, configuration and data made.

        Whoever had it open before, and may still be at work (its job was submitted again, its node is cut
        off), stops at its next step, and records no epoch any more.

        Args:
            path: of the folder.
            config: resolved.
            fingerprint: of the images; of several things that the run is made of, by the fields that say
                where they are.
            method: icsr, mar, slsr.
            facts: of the images, `Samples.facts`, to be recorded.
            origins: values by "a.b" that are recorded in place of the configuration's: how packs were read
                before they were packed.
            resume: go on with the run that the folder holds.
            fresh: start the run in the folder over.

        Raises:
            InputError: the folder holds a run and neither `resume` nor `fresh` was said, what is resumed
                was another method, another configuration or other data, or the folder cannot be written.
        """
        folder = RunFolder(path, uuid.uuid4().hex)
        determined = {**determining(config), **(origins or {})}
        identity = {
            "method": method,
            "config_hash": hash_of(determined),
            "data": fingerprint if isinstance(fingerprint, str) else dict(fingerprint),
            "config": determined,
        }
        try:
            folder._make_way(identity, resume=resume, fresh=fresh)
            path.mkdir(parents=True, exist_ok=True)
            # First, for the other files to be known as this run's.
            with atomic_path(folder._file("run.json")) as temporary:
                temporary.write_text(json.dumps({**identity, "set": dict(facts or {})}, indent=1))
            with atomic_path(folder._file("config.yaml")) as temporary:
                temporary.write_text(to_yaml(config))
            with atomic_path(folder._file("attempt")) as temporary:
                temporary.write_text(str(folder.attempt))
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"run.folder: {path} cannot be written: {reason}; choose another") from error
        return folder

    @property
    def name(self) -> str:
        """What the run is called: as its folder is; a sweep's trial by the sweep's name too."""
        above, name = self.path.parent, self.path.name
        return f"{above.parent.name}/{name}" if above.name == "trials" else name

    @property
    def checkpoints(self) -> Path:
        """Folder of the full-state checkpoints."""
        return self.path / "checkpoints"

    @property
    def local(self) -> Path:
        """Folder of the cameras' local labels."""
        return self.path / "local"

    @property
    def local_labels(self) -> Path:
        """The local labels of all cameras, once stage 1 is done."""
        return self.path / "local_labels.parquet"

    @property
    def model(self) -> Path:
        """The trained model, once the run is done."""
        return self.path / "model.pt"

    @property
    def config(self) -> Path:
        """The whole resolved configuration."""
        return self.path / "config.yaml"

    @property
    def evaluation(self) -> Path:
        """What the report shows of the last evaluation (`raid.evaluate.save_record`)."""
        return self.path / "evaluation.npz"

    @property
    def multilabels(self) -> Path:
        """What the report shows of the soft multilabels (MAR), once the run is done."""
        return self.path / "multilabels.npz"

    @property
    def baseline(self) -> Path:
        """The network that stage 1 left (SLSR)."""
        return self.path / "baseline.pt"

    @property
    def clusters(self) -> Path:
        """Clusters of the training images (SLSR), once stage 2 is done."""
        return self.path / "clusters.npz"

    @property
    def gans(self) -> Path:
        """Folder of the clusters' GANs (SLSR), a folder each."""
        return self.path / "gans"

    @property
    def generated(self) -> Path:
        """The generated images (SLSR), (n, 3, H, W) uint8, once stage 4 is done."""
        return self.path / "generated.npy"

    @property
    def generated_facts(self) -> Path:
        """How many images were generated of each cluster, and how good they are (SLSR)."""
        return self.path / "generated.json"

    @property
    def profile(self) -> Path:
        """Folder of the profile of some training steps, `run.profile`."""
        return self.path / "profile"

    @property
    def diverged(self) -> Path:
        """Where a training diverged, and on which images."""
        return self.path / "diverged.json"

    @property
    def report(self) -> Path:
        """The run as one page (`raid.report.write_report`)."""
        return self.path / "report.html"

    def recorded(self) -> dict[str, Any]:
        """Return what determines the result: method, config_hash, data (fingerprint), config ("a.b": value).

        And `set`: the facts of the data, none in a run of an older raid, which had but ICSR.

        Raises:
            InputError: the folder holds no run, or its run.json is another program's.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path}: there is no such folder")
        if not self._file("run.json").exists():
            raise InputError(f"{self.path}: not the folder of a run: it has no run.json")
        return self._recorded()

    def is_ours(self) -> bool:
        """Return whether no other process has opened the run since this one did."""
        try:
            return self.attempt is None or self._file("attempt").read_text() == self.attempt
        except FileNotFoundError:  # cleared, to start over
            return False

    def taken_over(self) -> InputError:
        """Return what is said when it is not ours any more."""
        return InputError(
            f"run.folder: another process has opened {self.path} since, and goes on with it: this one stops"
        )

    def metrics(self) -> list[dict[str, Any]]:
        """Return the recorded epochs in order."""
        return _read_lines(self._file("metrics.jsonl"))

    def steps(self) -> list[dict[str, Any]]:
        """Return the recorded training steps in order."""
        return _read_lines(self._file("steps.jsonl"))

    def mining(self) -> list[dict[str, Any]]:
        """Return what the epochs that mined pairs recorded of them, in order (MAR)."""
        return _read_lines(self._file("mining.jsonl"))

    def cameras(self) -> list[dict[str, Any]]:
        """Return the latest record of every camera that stage 1 has done, in that order (ICSR)."""
        lines = _read_lines(self._file("cameras.jsonl"))
        return list({line["camera"]: line for line in lines}.values())

    def gan_epochs(self, name: str) -> list[dict[str, Any]]:
        """Return what the epochs of the GAN in folder `name` of `gans` recorded, in order (SLSR)."""
        return _read_lines(self.gans / name / "epochs.jsonl")

    def record_epoch(
        self, figures: Mapping[str, Any], losses: Iterable[float], mining: Mapping[str, Any] | None = None
    ) -> None:
        """Append an epoch's figures (with its number under `epoch`), its steps' losses and what it mined.

        Raises:
            InputError: the run is another process's by now.
        """
        if not self.is_ours():
            raise self.taken_over()
        epoch = figures["epoch"]
        lines = [{"epoch": epoch, "step": step, "loss": loss} for step, loss in enumerate(losses)]
        _append(self._file("steps.jsonl"), lines)
        if mining is not None:
            _append(self._file("mining.jsonl"), [{**mining, "epoch": epoch}])
        _append(self._file("metrics.jsonl"), [figures])

    def record_camera(self, line: Mapping[str, Any]) -> None:
        """Append what stage 1 took for a camera (its number under `camera`), and what came of it."""
        _append(self._file("cameras.jsonl"), [line])

    def forget_from(self, epoch: int) -> None:
        """Drop the records of `epoch` and later: a resumed run makes them again."""
        for name in filter(lambda name: self._file(name).exists(), _LINES):
            kept = [line for line in _read_lines(self._file(name)) if line["epoch"] < epoch]
            with atomic_path(self._file(name)) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def _file(self, name: str) -> Path:
        return self.path / name

    def _make_way(self, identity: dict[str, Any], *, resume: bool, fresh: bool) -> None:
        """Refuse what the folder holds, or clear it, or find that it can be gone on with."""
        if not self._file("run.json").exists():
            # A checkpoint of who knows what would be gone on from, a file of the user's written over.
            strange = ", ".join(name for name in _OWN if self._file(name).exists())
            if strange:
                raise InputError(
                    f"run.folder: {self.path} holds {strange} and no run.json to say of which run; "
                    "choose another"
                )
            return
        before = self._recorded()
        if fresh:
            self._clear()
        elif resume:
            self._check_same(before, identity)
        else:
            raise InputError(
                f"run.folder: {self.path} holds a run; --resume goes on with it, --fresh starts it over"
            )

    def _recorded(self) -> dict[str, Any]:
        try:
            recorded = json.loads(self._file("run.json").read_text())
            kept = {key: recorded[key] for key in ("config_hash", "data", "config")}
            return {**kept, "method": recorded.get("method", "icsr"), "set": dict(recorded.get("set", {}))}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"run.folder: {self._file('run.json')} is not a file that raid wrote; choose another folder"
            ) from error

    def _clear(self) -> None:
        for path in (*self.path.glob("evaluation_*.json"), *self.path.glob("stacks_*.txt")):
            path.unlink(missing_ok=True)
        for name in _OWN:
            path = self._file(name)
            # The link to another run's folder goes, not what is in there.
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _check_same(self, before: dict[str, Any], identity: dict[str, Any]) -> None:
        if before["method"] != identity["method"]:
            raise InputError(
                f"run.folder: {self.path} holds a run of {before['method']}, not of {identity['method']}; "
                "choose another folder, or start over with --fresh"
            )
        if before["config_hash"] != identity["config_hash"]:
            old, new = before["config"], json.loads(json.dumps(identity["config"]))
            changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            shown = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise InputError(
                f"run.folder: {self.path} was made with another configuration ({shown}{more}); "
                "go back to it, choose another folder, or start over with --fresh"
            )
        old, new = (_by_field(of["data"]) for of in (before, identity))
        for field in sorted(field for field in {*old, *new} if old.get(field) != new.get(field)):
            of_images = field.endswith((".root", ".folder"))
            what = "the images differ from those" if of_images else "is not the file"
            raise InputError(
                f"{field}: {what} that {self.path} was made with; "
                "choose another run.folder, or start over with --fresh"
            )


def _by_field(fingerprint: str | Mapping[str, str]) -> Mapping[str, str]:
    return {"data.root": fingerprint} if isinstance(fingerprint, str) else fingerprint


def _append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    # A killed run may have left half a last line; the epoch it belongs to is run again.
    return [json.loads(line) for line in lines if line.endswith("}")]
