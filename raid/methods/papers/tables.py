"""What a paper's table is made of: its figures as printed, and the run that gives each of them anew."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from raid.methods.papers.sets import Facts, PaperSet

SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training.

    Attributes:
        method: icsr, mar or slsr.
        file: its run file, in jobs/.
        overrides: what its command says beside the file.
    """

    method: str
    file: str
    overrides: str

    @property
    def command(self) -> str:
        """The command, where the working directory holds jobs/."""
        return f"raid {self.method} jobs/{self.file} {self.overrides}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """The figures that one setting has in a table.

    Attributes:
        block: what part of the table it is in: the set, say.
        row: its name there.
        of: the set.
        job: gives the figures anew.
        figures: as printed, in percent, by what they are of: rank-1, mAP; "k = 3" of silhouettes.
        kind: the protocol, as `raid.protocols.rankings` names it, or silhouettes of the images' clusters.
        source: what a run records of a second set.
        varying: fields in which runs of the cell may differ.
    """

    block: str
    row: str
    of: PaperSet
    job: Job
    figures: Mapping[str, float]
    kind: Literal["", "multi_query", "rerank", "silhouette"] = ""
    source: Facts = field(default_factory=dict)
    varying: tuple[str, ...] = (SEED,)

    @property
    def facts(self) -> Facts:
        """What a run records of its sets."""
        return {**self.of.facts, **self.source}


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A table, without the rows of other methods than the paper's and its baselines.

    Attributes:
        paper: ICSR, MAR or SLSR.
        number: of the table.
        title: what it is of.
        digits: behind the point.
        cells: in the paper's order.
        notes: what a reader must know.
    """

    paper: str
    number: int
    title: str
    digits: int
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Paper and number."""
        return f"{self.paper} table {self.number}"
