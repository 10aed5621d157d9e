"""What the workers of a run of MAR get, and what they write of what they learned."""

from dataclasses import dataclass
from typing import TypeAlias

from raid.config import to_yaml
from raid.distributed import checkpoint
from raid.evaluate import RetrievalSet
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import BothStatistics, MarInputs
from raid.methods.mar.weights import Weights, as_content
from raid.methods.stage import Figures, Worker
from raid.run_folder import RunFolder


@dataclass(frozen=True)
class MarJob:
    """What every worker gets."""

    config: MarConfig
    inputs: MarInputs
    statistics: BothStatistics
    weights: Weights  # that the first stage of this run starts from
    folder: RunFolder
    before: Figures  # seconds of what came before, "time/NAME_s"
    started: float  # when the workers were asked for, in seconds since the epoch

    @property
    def retrieval(self) -> RetrievalSet | None:
        """Query and gallery of the target."""
        return self.inputs.target.retrieval


MarWorker: TypeAlias = Worker[MarJob]

# What the log says of an epoch of either stage.
SHOWN = {
    "pretraining/loss": "loss {:.3f}".format,
    "pretraining/accuracy": "accuracy {:.1%}".format,
    "train/loss": "loss {:.3f}".format,
    "source/accuracy": "source accuracy {:.1%}".format,
    "mining/positives": "{:.1f} positive".format,
    "mining/negatives": "{:.1f} hard negative pairs a step".format,
    "mining/threshold": "T {:.3f}".format,
}


def write_model(worker: MarWorker, weights: Weights, path: str) -> None:
    """Write the networks, and all that their use needs, to a file of the run folder."""
    job = worker.job
    if worker.group.is_first:
        content = {
            "method": "mar",
            **as_content(weights, job.inputs.source),
            "mean": list(job.statistics.target.mean),
            "std": list(job.statistics.target.std),
            "config": to_yaml(job.config),
        }
        checkpoint.write_tensors(job.folder.path / path, content)
