"""Cross-view consistency: images of every camera have multilabels of the same distribution (MAR eq. 5, 6)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def by_view(views: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of each view that has two samples at least, by rising view, each (b,) int64.

    Made on the host, where the batch is drawn: how many views there are, and how many rows each has, no GPU
    need be asked.

    Args:
        views: (B,) cameras, any numbers, on the CPU.
    """
    found = ((views == view).nonzero()[:, 0] for view in torch.unique(views))
    return tuple(rows for rows in found if len(rows) >= 2)


def cross_view_loss(
    log_multilabels: Tensor, views: Sequence[Tensor], centre: "CrossViewCentre", *, form: str
) -> Tensor:
    """Compute L_CML: how far each view's mean and deviation of log y are from the whole set's (eq. 6).

    `paper`: sum over views v of ||mu_v - mu||_2^2 + ||sigma_v - sigma||_2^2. `released`: the mean over these
    2V terms. So paper = 2V * released, V being the views with at least two samples: a view with fewer has no
    deviation and is left out. Without such a view the loss is 0, with a gradient of 0.

    On several workers: of all rows, gathered, times the number of workers. Take the logarithms with detached
    agents: the loss moves features only.

    Args:
        log_multilabels: (B, P) log y, the natural logarithm, float32 at least.
        views: the rows of each, see `by_view`, on the device.
        centre: mu and sigma, already updated with this batch: the release compares with the centre after.
        form: `released` or `paper`.

    Returns:
        Scalar.

    Raises:
        ValueError: an unknown form.

    Memory: 2 * B * P numbers.
    """
    if form not in ("released", "paper"):
        raise ValueError(f"form must be 'released' or 'paper', got {form!r}")
    terms = [
        (own - whole).square().sum()
        for moments in _moments(log_multilabels, views)
        for own, whole in zip(moments, (centre.mean, centre.deviation), strict=True)
    ]
    if not terms:
        return log_multilabels.sum() * 0
    return torch.stack(terms).sum() / (1 if form == "paper" else len(terms))


class CrossViewCentre:
    """Mean and deviation of log y over the target set, which follow the batches.

    Attributes:
        mean: (P,) mu, the mean over views of each view's mean: views count equally, whatever their size.
        deviation: (P,) sigma, the mean over views of each view's unbiased standard deviation.
        momentum: share of the *batch* in an update: batch size / 10000 in the release, of source and target
            together (368: .0368).
    """

    def __init__(self, mean: Tensor, deviation: Tensor, *, momentum: float) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be 0 to 1, got {momentum}")
        self.mean, self.deviation = mean.detach().clone(), deviation.detach().clone()
        self.momentum = momentum

    @classmethod
    def of_images(
        cls, log_multilabels: Tensor, views: Sequence[Tensor], *, momentum: float
    ) -> "CrossViewCentre":
        """Return the centre of all target images, from their (N, P) log y and the rows of each view.

        Raises:
            ValueError: no view has two images.

        Memory: twice the largest view's rows.
        """
        found = _centre(log_multilabels, views)
        if found is None:
            raise ValueError("no camera has two images: there is no deviation to compare")
        return cls(*found, momentum=momentum)

    def update(self, log_multilabels: Tensor, views: Sequence[Tensor]) -> None:
        """Move towards a batch, c <- (1 - a) c + a * (its mean over views), before its loss is computed.

        All workers give all rows of the global batch. A batch in which no view has two samples changes
        nothing.

        Args:
            log_multilabels: (B, P); no gradient is kept.
            views: the rows of each, see `by_view`.
        """
        found = _centre(log_multilabels, views)
        if found is not None:
            self.mean += self.momentum * (found[0] - self.mean)
            self.deviation += self.momentum * (found[1] - self.deviation)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {"mean": self.mean.clone(), "deviation": self.deviation.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned, on this centre's device."""
        self.mean.copy_(state["mean"])
        self.deviation.copy_(state["deviation"])


@torch.no_grad()
def _centre(log_multilabels: Tensor, views: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the means over views of the views' means and deviations; None without a view of two samples."""
    moments = list(_moments(log_multilabels, views))
    if not moments:
        return None
    means, deviations = zip(*moments, strict=True)
    return torch.stack(means).mean(dim=0), torch.stack(deviations).mean(dim=0)


def _moments(log_multilabels: Tensor, views: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield mean and unbiased deviation, (P,) each, view by view.

    Where all samples are equal the deviation is 0, and torch's gradient of it too.
    """
    for view in views:
        rows = log_multilabels[view]
        yield rows.mean(dim=0), rows.std(dim=0)
