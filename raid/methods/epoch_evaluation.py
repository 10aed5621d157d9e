"""Retrieval figures of an encoder in training, between its epochs."""

import numpy as np

from raid import evaluate
from raid.data.images import Images
from raid.distributed.fanout import FanOut
from raid.evaluate import Features, RetrievalSet
from raid.methods.encoder import Encoder
from raid.methods.execution import Extract
from raid.methods.pool_extraction import features_of
from raid.methods.sections import Evaluate
from raid.run_folder import RunFolder

Figures = dict[str, float]


def evaluated(
    encoder: Encoder,
    fanout: FanOut,
    retrieval: RetrievalSet,
    folder: RunFolder,
    options: Evaluate,
    extraction: Extract,
    *,
    record: bool,
) -> Figures:
    """Return the figures of the encoder as it is; every worker calls this.

    Args:
        encoder: its workers extract, or send its weights to the pool.
        fanout: the pool.
        retrieval: query and gallery.
        folder: of the run.
        options: of the ranking, and whether mirror images count.
        extraction: where features are extracted.
        record: keep what the report shows.
    """

    def features(images: Images) -> Features:
        rows = features_of(encoder, images, fanout, extraction.on, flip=options.flip)
        return rows.numpy().astype(np.float32, copy=False)

    found = retrieval.features(features)

    def rank() -> Figures:
        if record:
            shown = evaluate.final_record(retrieval, found.query, found.gallery, options)
            shown |= evaluate.camera_record(found.gallery, retrieval.gallery)
            evaluate.save_record(folder.evaluation, shown)
        return retrieval.figures(found, options)

    return encoder.group.once(rank)
