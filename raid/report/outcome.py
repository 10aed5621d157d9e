"""The sections on what was learned: cameras and ranked lists."""

from collections.abc import Iterator

from raid.report.heat import heat_map
from raid.report.lists import ranked_lists
from raid.report.markup import Html
from raid.report.panels import note
from raid.report.pictures import GONE
from raid.report.run import Run


def cameras(run: Run) -> Iterator[Html]:
    """Yield how alike the cameras' mean features are."""
    if "camera_similarity" not in run.record:
        yield note("Not recorded: it is at the end of a run on a gallery whose cameras are known.")
        return
    values = run.record["camera_similarity"]
    names = run.record["camera_names"].tolist() if "camera_names" in run.record else []
    names += [str(camera) for camera in range(len(names), len(values))]
    yield note(
        "Cosine similarity between the mean features of two cameras, of the gallery. Where two cameras see "
        "the same people, a pair lower than the others is one across which people are harder to find again."
    )
    yield heat_map("Similarity of the cameras", "camera", names[: len(values)], values)


def lists(run: Run) -> Iterator[Html]:
    """Yield the ranked lists of some queries."""
    if "shown_rows" not in run.record:
        yield note("Not recorded: it is at the end of a run on a set with query and gallery images.")
        return
    yield note(
        "The gallery by falling similarity, without pictures of the query's identity at its own camera and "
        "without junk, as the evaluation has it. ✓ and a solid frame: the query's identity; ✗ and a dashed "
        "frame: another."
    )
    if run.retrieval is None:
        yield note(GONE)
    yield ranked_lists(run.record, run.retrieval)
