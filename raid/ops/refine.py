"""Discard members of global clusters that the intra-camera clusters contradict (ICSR eq. 2)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.centrality import information_nodes

REFEREES = ("top", "union", "intersection", "sequential", "infomap_last")
COINS = ("sample", "pair")

Ints = NDArray[np.int64]
Coin = Callable[[Ints], NDArray[np.bool_]]


def refine_labels(
    labels: NDArray[Any],
    local_labels: NDArray[Any],
    cameras: NDArray[Any],
    scores: NDArray[Any],
    *,
    discard_probability: float,
    seed: int,
    epoch: int,
    referee: str = "top",
    coin: str = "sample",
    require_above_mean: bool = True,
    modules: NDArray[Any] | None = None,
) -> Ints:
    """Set the label of contradicted samples to -1.

    Within each (global cluster, camera) the candidates for referee are the live members (label != -1) that
    have a local label and, with `require_above_mean`, a score above the mean of all scores. A live member
    of the same cluster and camera disagrees with a referee if its local label is another one. Other
    cameras are untouched; so are groups without a candidate. A local label of -1 says nothing: its owner is
    neither referee nor discarded. Equal scores: the lower index goes first.

    The paper does not say what several information nodes do that differ; the readings are:
      - `top`: the candidate of the highest score alone is referee.
      - `union`: a member disagrees if its local label is no candidate's.
      - `intersection`: every candidate is referee, also a discarded one (eq. 2 in a loop); it alone can
        empty a camera's share of a cluster, or a cluster.
      - `sequential`: candidates by falling score; one that has been discarded is no longer referee.
      - `infomap_last`: as the release: first only the last index of each module with a score above the mean
        is left a candidate (whatever `require_above_mean`), then as `sequential`.

    Args:
        labels: (N,) global pseudo labels, -1 = in no cluster.
        local_labels: (N,) labels within the sample's camera, -1 = none.
        cameras: (N,).
        scores: (N,) centrality.
        discard_probability: p, 0 (nothing is discarded) to 1 (everything contradicted is).
        seed: together with `epoch` the key of the random numbers (Philox), both 0 to 2**64 - 1.
        epoch: see `seed`.
        referee: the reading, above.
        coin: `sample`: one number u_j for each sample and epoch, j is discarded iff it disagrees and u_j < p,
            so p is what it says and the result does not depend on any order. `pair`: a fresh number for
            each visited pair (as the release), in the order of cluster, camera, referee by falling score
            then index, member by index; several referees raise the effective probability.
        require_above_mean: see above.
        modules: (N,) ids of Infomap modules, -1 = in none; `infomap_last` only.

    Returns:
        (N,) int64, a copy of `labels` with -1 for the discarded; what is left is not renumbered.

    Raises:
        ValueError: unknown referee or coin, arrays of other shapes, numbers out of range, modules missing.

    Memory: a few arrays of N numbers.
    """
    arrays = {"labels": labels, "local_labels": local_labels, "cameras": cameras, "scores": scores}
    if modules is not None:
        arrays["modules"] = modules
    _check(arrays, discard_probability, referee, coin)
    if not (0 <= seed < 2**64 and 0 <= epoch < 2**64):
        raise ValueError(f"seed and epoch must be 0 to 2**64 - 1, got {seed} and {epoch}")
    candidate = (labels != -1) & (local_labels >= 0)
    if require_above_mean:
        candidate &= information_nodes(scores)
    if referee == "infomap_last":
        if modules is None:
            raise ValueError("referee 'infomap_last' needs modules")
        candidate &= _last_of_modules(modules, information_nodes(scores))
    groups = _Groups(labels, local_labels, cameras, scores, candidate)
    flip = _coin(coin, discard_probability, seed, epoch, len(labels))
    refined = labels.astype(np.int64)
    if referee == "top":
        contradicted = _by_top(groups, local_labels)
        refined[contradicted[flip(contradicted)]] = -1
    else:
        refined[_by_turns(groups, local_labels, referee, flip)] = -1
    return refined


def _check(arrays: dict[str, NDArray[Any]], probability: float, referee: str, coin: str) -> None:
    num_samples = len(arrays["labels"])
    for name, values in arrays.items():
        if values.shape != (num_samples,):
            raise ValueError(f"{name} must have shape ({num_samples},) like labels, got {values.shape}")
    if not 0 <= probability <= 1:
        raise ValueError(f"discard_probability must be 0 to 1, got {probability}")
    if referee not in REFEREES:
        raise ValueError(f"unknown referee {referee!r}: choose one of {', '.join(REFEREES)}")
    if coin not in COINS:
        raise ValueError(f"unknown coin {coin!r}: choose one of {', '.join(COINS)}")


def _coin(kind: str, probability: float, seed: int, epoch: int, num_samples: int) -> Coin:
    """Return the function that says which of the visited samples (in the order of the visits) are hit."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    if kind == "pair":
        return lambda visited: random.random(len(visited)) < probability
    hit: NDArray[np.bool_] = random.random(num_samples) < probability
    return lambda visited: hit[visited]


def _last_of_modules(modules: NDArray[Any], above_mean: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark, for each module, its last index with a score above the mean."""
    eligible = np.flatnonzero(above_mean & (modules >= 0))[::-1]
    _, first_of_reversed = np.unique(modules[eligible], return_index=True)
    mask = np.zeros(len(modules), np.bool_)
    mask[eligible[first_of_reversed]] = True
    return mask


class _Groups:
    """Members with a local label, and the candidates among them, ordered by (cluster, camera).

    Attributes:
        members: sample indices, by (cluster, camera, index).
        group: number of the (cluster, camera) of each member, rising from 0.
        candidates: sample indices, by (cluster, camera, falling score, index).
        candidate_group: number of the (cluster, camera) of each candidate.
    """

    def __init__(
        self,
        labels: NDArray[Any],
        local_labels: NDArray[Any],
        cameras: NDArray[Any],
        scores: NDArray[Any],
        candidate: NDArray[np.bool_],
    ) -> None:
        members = np.flatnonzero((labels != -1) & (local_labels >= 0))
        self.members = members[np.lexsort((cameras[members], labels[members]))]
        keys = np.stack([labels[self.members], cameras[self.members]])
        starts = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
        self.group = np.concatenate([[0], np.cumsum(starts)])[: len(members)]
        chosen = candidate[self.members]
        candidates, group = self.members[chosen], self.group[chosen]
        order = np.lexsort((candidates, -scores[candidates], group))
        self.candidates, self.candidate_group = candidates[order], group[order]

    def with_referees(self) -> Iterator[tuple[Ints, Ints]]:
        """Yield the members and the candidates of each group that has a candidate."""
        voting = np.unique(self.candidate_group)
        of_members = np.searchsorted(self.group, [voting, voting + 1]).T.tolist()
        of_candidates = np.searchsorted(self.candidate_group, [voting, voting + 1]).T.tolist()
        for (low, high), (first, last) in zip(of_members, of_candidates, strict=True):
            yield self.members[low:high], self.candidates[first:last]


def _by_top(groups: _Groups, local_labels: NDArray[Any]) -> Ints:
    """Return the members that disagree with the first candidate of their group, in order of visit."""
    if len(groups.candidates) == 0:
        return np.empty(0, np.int64)
    voting, first = np.unique(groups.candidate_group, return_index=True)
    verdict: Ints = np.full(groups.group[-1] + 1, -1, np.int64)
    verdict[voting] = local_labels[groups.candidates[first]]
    votes = verdict[groups.group]
    disagrees = (votes >= 0) & (local_labels[groups.members] != votes)
    visited: Ints = groups.members[disagrees]
    return visited


def _by_turns(groups: _Groups, local_labels: NDArray[Any], referee: str, flip: Coin) -> NDArray[np.bool_]:
    """Let each candidate visit the live members that disagree; return the mask of the discarded, (N,)."""
    discarded = np.zeros(len(local_labels), np.bool_)
    for members, candidates in groups.with_referees():
        locals_of_members, locals_of_candidates = local_labels[members], local_labels[candidates]
        disagrees = ~np.isin(locals_of_members, locals_of_candidates)  # with all of them: `union`
        for candidate, local in zip(candidates, locals_of_candidates, strict=True):
            if discarded[candidate] and referee != "intersection":
                continue
            if referee != "union":
                disagrees = locals_of_members != local
            visited = members[disagrees & ~discarded[members]]
            discarded[visited[flip(visited)]] = True
    return discarded
