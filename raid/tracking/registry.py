"""MLflow's model registry: a run's model becomes a version there that `mlflow.pyfunc` loads anywhere.

The version holds the run's model.pt, the code of raid that reads it (`code/raid.zip`: raid is on no package
index, and a version must not change with what is installed), the script `served_model`, and the pinned
packages of this environment. Nothing in it is pickled, nothing in it is inferred.
"""

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import raid
from raid.config import read_flat
from raid.errors import InputError
from raid.run_folder import RunFolder
from raid.tracking.manners import TrackingError, be_mild, patient, quiet, reason
from raid.tracking.mlflow_run import experiment_id
from raid.tracking.origin import origin_tags, place_tags
from raid.tracking.place import prepare_database, reached_by, shown, tracking_uri, without_password
from raid.tracking.record import Record
from raid.tracking.sender import DEFAULT_EXPERIMENT, fingerprint_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

# Distributions that loading and running a model imports; a test compares them with what is imported.
SERVING = (
    "h5py",
    "mlflow",
    "numba",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "PyYAML",
    "scipy",
    "threadpoolctl",
    "torch",
    "torchvision",
    "tqdm",
)
_CODE = Path(raid.__file__).parent
_FIGURES = ("eval/mAP", "eval/rank1")
_EXISTS = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True)
class Offer:
    """A model to be registered.

    Attributes:
        weights: its file.
        num_features: D of its output.
        example: picture files, the input example.
        tags: of the version, beside those that the run folder tells.
    """

    weights: Path
    num_features: int
    example: Sequence[bytes]
    tags: Mapping[str, str]


def check_names(name: str, alias: str | None) -> None:
    """Refuse, before any work, what no registry takes.

    Raises:
        InputError: it would not be taken.
    """
    if not name.strip() or re.search(r"[/:]", name) or Path(name).name != name:
        raise InputError(f"NAME: {name!r} cannot name a registered model: it may not be empty or hold / or :")
    if alias is not None and (not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"(?i)v\d+|latest", alias)):
        raise InputError(
            f"--alias: {alias!r} cannot be one: letters, digits, _ and -, but neither latest nor v1, v2, ..."
        )


def register(
    folder: RunFolder, offer: Offer, name: str, *, alias: str | None = None, uri: str | None = None
) -> str:
    """Make the model of a run the next version of a registered model; return what was done as one line.

    The version is linked to the MLflow run of the training where there is one at `uri`, else to a run that
    is made for it.

    Args:
        folder: of the run.
        offer: its model.
        name: of the registered model; made when there is none.
        alias: to be given to the new version, and taken from the one that has it.
        uri: of MLflow; None: MLFLOW_TRACKING_URI, or the database beside the runs.

    Raises:
        InputError: MLflow cannot be reached or does not take it.
    """
    check_names(name, alias)
    uri = uri or tracking_uri(folder.path)
    tags = {**version_tags(folder), **offer.tags}
    be_mild()
    with quiet(), tempfile.TemporaryDirectory(prefix="raid-register-") as temporary:
        with _taken(uri):
            client = _reached(uri, name)
            run = _training_run(client, folder, uri) or _run_of_its_own(client, folder, uri)
            logged = client.create_logged_model(
                run.info.experiment_id, name="model", source_run_id=run.info.run_id, tags=tags
            )
        try:
            _save(Path(temporary) / "model", offer, logged)
            with _taken(uri), patient():
                client.log_model_artifacts(logged.model_id, str(Path(temporary) / "model"))
                client.finalize_logged_model(logged.model_id, "READY")
                number = _new_version(client, name, logged, tags)
        except BaseException:
            with suppress(Exception):  # what went wrong is on its way
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        if alias is not None:
            with _taken(uri, f"; version {number} of {name} is there, without the alias"):
                client.set_registered_model_alias(name, alias, number)
    also = "" if alias is None else f", models:/{name}@{alias}"
    return f"{folder.path}: registered as models:/{name}/{number}{also} at {shown(uri)}"


def version_tags(folder: RunFolder) -> dict[str, str]:
    """Return what a version is tagged with: which run it is of, and the figures of its last evaluation."""
    recorded = folder.recorded()
    evaluated = [line for line in folder.metrics() if _FIGURES[0] in line]
    figures = evaluated[-1] if evaluated else {}
    return {
        "method": recorded["method"],
        "run": folder.path.absolute().name,
        "config_hash": recorded["config_hash"],
        "raid_version": raid.__version__,
        **fingerprint_tags(recorded["data"]),
        **{figure: f"{figures[figure]:.6f}" for figure in _FIGURES if figure in figures},
    }


def requirements() -> list[str]:
    """Return the packages that a model needs, as they are installed here.

    Without what follows a "+", which says what a wheel was built for and is on no index.
    """
    return [f"{name}=={version(name).partition('+')[0]}" for name in SERVING]


@contextmanager
def _taken(uri: str, also: str = "") -> Iterator[None]:
    """Turn whatever MLflow raises into a line for the user."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        what = str(error) if isinstance(error, TrackingError) else reason(error)
        raise InputError(f"{shown(uri)}: {without_password(what, uri)}{also}") from error


def _reached(uri: str, name: str) -> "MlflowClient":
    """Return a client of a registry that has a model of that name: it is there, and takes the name."""
    prepare_database(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=reached_by(uri))
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != _EXISTS:
            raise
    return client


def _training_run(client: "MlflowClient", folder: RunFolder, uri: str) -> "Run | None":
    """Return the MLflow run of the training, unless it was never sent there, or has been deleted."""
    from mlflow.exceptions import MlflowException

    sent = Record.seen(folder.path).sent.get(shown(uri))
    if sent is None or sent.run_id is None:
        return None
    try:
        run = client.get_run(sent.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _run_of_its_own(client: "MlflowClient", folder: RunFolder, uri: str) -> "Run":
    """Make a run that says where the model is from; the training's figures are not sent."""
    experiment = experiment_id(
        client, str(read_flat(folder.config).get("track.experiment") or DEFAULT_EXPERIMENT), uri
    )
    tags = {**place_tags(folder.path), **origin_tags(), **version_tags(folder)}
    run = client.create_run(experiment, tags=tags, run_name=f"{folder.path.absolute().name} registered")
    client.set_terminated(run.info.run_id, "FINISHED")
    return run


def _save(path: Path, offer: Offer, logged: "LoggedModel") -> None:
    """Write the model as MLflow keeps it to the folder `path`."""
    import numpy as np
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema, TensorSpec

    code = path.with_name("raid.zip")
    _pack(code)
    features = TensorSpec(np.dtype(np.float32), (-1, offer.num_features))
    save_model(
        path,
        python_model=Path(__file__).with_name("served_model.py"),
        artifacts={"model": str(offer.weights)},
        code_paths=[str(code)],
        model_config={"device": "auto"},
        signature=ModelSignature(Schema([ColSpec("binary", "image")]), Schema([features])),
        input_example=pd.DataFrame({"image": list(offer.example)}),
        pip_requirements=requirements(),
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            run_id=logged.source_run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        ),
    )


def _pack(archive: Path) -> None:
    """Write the code of raid, which Python imports from there: two hundred files are sent one by one."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(_CODE.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                packed.write(file, Path(_CODE.name, file.relative_to(_CODE)))


def _new_version(client: "MlflowClient", name: str, logged: "LoggedModel", tags: Mapping[str, str]) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    assert logged.source_run_id is not None
    client.log_outputs(logged.source_run_id, [LoggedModelOutput(logged.model_id, step=0)])
    made = client.create_model_version(
        name,
        source=logged.artifact_location,  # by models:/ID it would be looked for at the process's own URI
        run_id=logged.source_run_id,
        tags=dict(tags),
        model_id=logged.model_id,
    )
    number = str(made.version)
    # As `mlflow.register_model` does, for its pages to lead from one to the other.
    versions = json.dumps([{"name": name, "version": number}])
    client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: versions})
    return number
