"""`raid register`: the model of a run into MLflow's registry."""

from pathlib import Path

import numpy as np

from raid.data.render import Settings, Shot, World
from raid.errors import InputError
from raid.methods.serving import Served
from raid.methods.trained import Trained
from raid.run_folder import RunFolder
from raid.tracking import registry


def register(path: Path, name: str, *, alias: str | None = None, uri: str | None = None) -> str:
    """Register the model that the run in folder `path` ended with; return what was done as one line.

    Args:
        path: of the run folder.
        name: of the registered model; made when there is none, else the model is its next version.
        alias: for the version.
        uri: of MLflow; None: MLFLOW_TRACKING_URI, or the database beside the runs.

    Raises:
        InputError: the run has no model (yet), the model is of no use, a name is none, or MLflow cannot be
            reached or does not take it.
    """
    registry.check_names(name, alias)
    folder = RunFolder(path)
    folder.recorded()
    trained = Trained.read(path)
    served = Served(trained)
    example = example_pictures()
    if not bool(np.isfinite(served.features(example)).all()):
        raise InputError(f"{trained.path}: its features are not finite: the training has diverged")
    data = trained.config.data
    tags = {"image_size": f"{data.height} x {data.width}", "flip": str(trained.config.evaluate.flip).lower()}
    offer = registry.Offer(trained.path, served.num_features, example, tags)
    return registry.register(folder, offer, name, alias=alias, uri=uri)


def example_pictures() -> list[bytes]:
    """Return two JPEG files of a rendered person by two cameras: nobody real."""
    world = World(Settings())
    return [world.render(Shot(identity=1, camera=camera, number=0)) for camera in (0, 1)]
