"""What MLflow runs to load a registered model: it is copied into the model and imported by nothing of raid.

The model is its file `model.pt`, which is read without executing anything in it: no object is pickled.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

_CODE = Path(__file__).with_name("code") / "raid.zip"
if _CODE.exists():  # not while the model is made
    sys.path.insert(0, str(_CODE))

from raid.methods.serving import Served  # noqa: E402


class FeatureExtractor(PythonModel):
    """Pictures to features; see `raid.methods.serving`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights; `model_config` says on which device they are put."""
        self._served = Served.read(Path(context.artifacts["model"]), context.model_config["device"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Return the features (N, D) of the N pictures whose files' bytes are in the column `image`."""
        return self._served.features(model_input["image"].tolist())


set_model(FeatureExtractor())
