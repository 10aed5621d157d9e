"""What the workers of a supervised stage of SLSR get."""

from dataclasses import dataclass
from typing import TypeAlias

from raid.evaluate import RetrievalSet
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.generated_set import GeneratedSet
from raid.methods.slsr.inputs import SlsrInputs
from raid.methods.slsr.weights import Weights
from raid.methods.stage import Figures, Worker
from raid.run_folder import RunFolder


@dataclass(frozen=True)
class SlsrJob:
    """What every worker gets; the same for both stages."""

    config: SlsrConfig
    inputs: SlsrInputs
    weights: Weights  # that the stage starts from
    generated: GeneratedSet | None  # None: real images alone
    folder: RunFolder
    before: Figures  # seconds of what came before, "time/NAME_s"
    started: float  # when the workers were asked for, in seconds since the epoch

    @property
    def retrieval(self) -> RetrievalSet | None:
        """Query and gallery."""
        return self.inputs.inputs.retrieval


SlsrWorker: TypeAlias = Worker[SlsrJob]
