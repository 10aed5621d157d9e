"""Cross entropy with distributions for targets: SLSR's loss of real and of generated images (eq. 6 to 13)."""

import torch
from torch import Tensor


def soft_target_loss(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """Compute -sum_k q_k log p_k, the mean over all images, real and generated together (SLSR eq. 13).

    With q from `raid.ops.smoothing` this is the paper's L = -(1 - Z) log p_y - Z / |C_i| sum_{k in C_i} log
    p_k: a real image (Z = 0) has its identity's row, one-hot or smoothed, a generated one (Z = 1) the row of
    the cluster it comes from. `uniform` rows give the release's loss, -1 / K sum_k log p_k, which is LSRO's.

    A table of these rows on the device, those of the identities, then those of the clusters, gives the
    targets of a batch in one look-up, `table[rows]`. Sums by cluster, without (B, K) targets, gain little:
    32 images of 751 identities take 1.8 times as long, 128 of 4101 identities .85 (one thread).

    On several workers of equally large parts of the batch, the mean of their losses is that of the whole.

    Args:
        log_probabilities: (B, K) log p, finite: `log_softmax` of logits, or `log_mixture`.
        targets: (B, K) q, rows that add up to one. No gradient is kept.

    Returns:
        Scalar, float32 at least.

    Raises:
        ValueError: no image, or shapes that differ.

    Memory: 2 * B * K numbers.
    """
    if log_probabilities.ndim != 2 or targets.shape != log_probabilities.shape or len(targets) == 0:
        raise ValueError(
            f"need two tensors of one shape (B, K), got {tuple(log_probabilities.shape)} and "
            f"{tuple(targets.shape)}"
        )
    kind = torch.promote_types(log_probabilities.dtype, torch.float32)
    return -(targets.detach().to(kind) * log_probabilities.to(kind)).sum(dim=1).mean()


def log_mixture(probabilities: Tensor, transition: Tensor) -> Tensor:
    """Return log p' of p'_j = sum_i p_i T_ij: what a noise layer after the softmax makes of the identities.

    T_ij is the probability that an image of identity i is labelled j (SLSR sections 3.3 and 4.3 add a linear
    layer on top of the softmax, without its formula). The identity matrix leaves log p as it is.

    Where p' is smaller than the smallest normal number of its precision, that number's logarithm is returned
    (float32: -87.3), and no gradient. A T that is learned is best the softmax of a parameter: it stays
    row-stochastic and is never quite 0, and the gradient of the parameter is at most 1 an image, whereas that
    of T itself, p_i / p'_j, has no bound.

    Args:
        probabilities: (B, K) p, rows that add up to one.
        transition: (K, K) T, rows that add up to one: not checked, nor normalised.

    Returns:
        (B, K), float32 at least, computed outside autocast: in half precision small probabilities are 0.
    """
    kind = torch.promote_types(torch.promote_types(probabilities.dtype, transition.dtype), torch.float32)
    with torch.autocast(probabilities.device.type, enabled=False):
        mixture = probabilities.to(kind) @ transition.to(kind)
        return mixture.clamp(min=torch.finfo(kind).tiny).log()
