"""The sets that the papers' tables are of: what a run of raid records of them, where a command has them."""

from collections.abc import Mapping
from dataclasses import dataclass

from raid.data import counts
from raid.data.counts import Counts
from raid.data.market1501 import SET as MARKET
from raid.data.msmt17 import REPACKED

Facts = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class PaperSet:
    """A published set.

    Attributes:
        title: its name.
        root: as a command has it.
        facts: the values that a run may have recorded of it (`Samples.facts`).
        published: its numbers: images that are no copy of it may lie in its folders.
        note: what a reader of any figure on it must know.
    """

    title: str
    root: str
    facts: Facts
    published: Counts
    note: str = ""

    @property
    def num_train(self) -> int:
        """Training images."""
        return self._images("train")

    @property
    def num_query(self) -> int:
        """Queries; where the protocol has none of their own, the gallery's images are."""
        return self._images("query" if "query" in self.published.splits else "gallery")

    @property
    def num_gallery(self) -> int:
        """Gallery images, junk included."""
        return self._images("gallery")

    def _images(self, split: str) -> int:
        images = self.published.splits[split].images
        assert images is not None, (self.title, split)
        return images


MARKET1501 = PaperSet(
    title="Market-1501",
    root="PATH/Market-1501-v15.09.15",
    facts={"set": (MARKET,), "protocol": ("standard",)},
    published=counts.MARKET1501,
)
# V2's faces are blurred, and its figures lower.
MSMT17 = PaperSet(
    title="MSMT17",
    root="PATH/MSMT17_V1",
    facts={"set": ("MSMT17",), "version": ("V1", REPACKED), "protocol": ("standard",)},
    published=counts.MSMT17,
)
DUKEMTMC = PaperSet(
    title="DukeMTMC-reID",
    root="PATH/DukeMTMC-reID",
    facts={"set": ("DukeMTMC-reID",), "protocol": ("standard",)},
    published=counts.DUKEMTMC,
    note="DukeMTMC-reID was withdrawn by its makers in 2019 for want of consent and should not be used",
)
CUHK03 = PaperSet(
    title="CUHK03",
    root="PATH/cuhk03_release",
    facts={"set": ("CUHK03",), "protocol": ("cuhk03_classic",)},
    published=counts.CUHK03_CLASSIC_FIRST,
)
VIPER = PaperSet(
    title="VIPeR",
    root="PATH/VIPeR",
    facts={"set": ("VIPeR",), "protocol": ("viper",)},
    published=counts.VIPER,
)
# MAR's labelled set: all people of MSMT17 but for list_val's images.
REFERENCES: Facts = {"source_set": ("MSMT17",), "source_version": ("V1",), "source_people": ("4101",)}
