"""Simulated features of person images, for tests and benchmarks of any size.

As in trained networks, the features vary in few directions: identity, camera and noise are drawn in a
small latent space, which is then embedded in `dim` dimensions.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raid.data.streams import stream
from raid.errors import InputError
from raid.ops.neighbors import knn

_LATENT_DIM = 64
# Identities share looks: each has one of these many prototypes of each trait.
_NUM_TRAITS, _PROTOTYPES_PER_TRAIT = 3, 12
_SHARED = 0.6  # share of an identity's variance that its prototypes explain
_BLOCK_ROWS = 4096  # part of what a seed means: every block of rows has a stream of its own


@dataclass(frozen=True, eq=False)
class SimulatedFeatures:
    """N simulated images in random order.

    Attributes:
        features: (N, D) float32 unit rows.
        identities: (N,) int64 from 0.
        cameras: (N,) int64 from 0.
    """

    features: NDArray[np.float32]
    identities: NDArray[np.int64]
    cameras: NDArray[np.int64]

    def one_nn_precision(self) -> float:
        """Return the share of images whose nearest other image is of the same identity (exact search)."""
        return float((self.identities[nearest_others(self.features)] == self.identities).mean())

    def same_camera_share(self) -> float:
        """Return the share of images whose nearest other image is of the same camera."""
        return float((self.cameras[nearest_others(self.features)] == self.cameras).mean())


def features(
    seed: int,
    *,
    num_identities: int = 100,
    num_cameras: int = 6,
    images_per_identity: int = 16,
    dim: int = 2048,
    camera_shift: float = 0.7,
    noise: float = 0.9,
    degrees_of_freedom: float = 5.0,
    camera_sizes: Sequence[int] | None = None,
) -> SimulatedFeatures:
    """Simulate the features of images of people; the same arguments give the same values.

    Args:
        seed: of all random numbers.
        num_identities: people; each gets the same number of images (give or take one with camera_sizes).
        num_cameras: cameras, of equal size (give or take one); with `camera_sizes` it does not count.
        images_per_identity: images a person; with `camera_sizes` it does not count.
        dim: dimensions of a feature.
        camera_shift: length of what a camera adds, relative to the distance of an identity from the mean.
        noise: length of what an image adds, likewise.
        degrees_of_freedom: of Student's t that scales an image's noise; the fewer, the more outliers.
        camera_sizes: images of each camera, exactly.

    Raises:
        InputError: a number is out of range.

    Memory: the result, N * dim * 4 bytes, and about three blocks of 4096 rows.
    """
    sizes = _camera_sizes(num_identities * images_per_identity, num_cameras, camera_sizes)
    _validate(seed, num_identities, int(sizes.sum()), dim, camera_shift, noise, degrees_of_freedom)
    num_images = int(sizes.sum())
    order = stream(seed, 0)
    identities = order.permutation(np.arange(num_images) % num_identities)
    cameras = order.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = features_of(
        seed,
        identities,
        cameras,
        dim=dim,
        camera_shift=camera_shift,
        noise=noise,
        degrees_of_freedom=degrees_of_freedom,
    )
    return SimulatedFeatures(rows, identities, cameras)


def features_of(
    seed: int,
    identities: NDArray[np.int64],
    cameras: NDArray[np.int64],
    *,
    dim: int = 2048,
    camera_shift: float = 0.7,
    noise: float = 0.9,
    degrees_of_freedom: float = 5.0,
) -> NDArray[np.float32]:
    """Simulate the features (N, dim), float32 unit rows, of a set whose identities and cameras are known.

    Args:
        seed: of all random numbers.
        identities: (N,) from 0.
        cameras: (N,) from 0.
        dim: as the others in `features`.
        camera_shift: see `features`.
        noise: see `features`.
        degrees_of_freedom: see `features`.
    """
    num_images = len(identities)
    centres = _centres(stream(seed, 1), int(identities.max()) + 1)
    shifts = camera_shift * _vectors(stream(seed, 2), int(cameras.max()) + 1)
    embedding = stream(seed, 3).normal(size=(_LATENT_DIM, dim)).astype(np.float32)
    rows = np.empty((num_images, dim), dtype=np.float32)
    for number, start in enumerate(range(0, num_images, _BLOCK_ROWS)):
        block = slice(start, start + _BLOCK_ROWS)
        latent = centres[identities[block]] + shifts[cameras[block]]
        latent += noise * _student(stream(seed, 4, number), len(latent), degrees_of_freedom)
        np.matmul(latent, embedding, out=rows[block])
        rows[block] /= np.linalg.norm(rows[block], axis=1, keepdims=True)
    return rows


def nearest_others(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the index of the nearest other row of each of `rows` (N, D), N >= 2: (N,)."""
    _, neighbours = knn(rows, rows, 2)
    # Of exact duplicates, the search may name another one first.
    itself = neighbours[:, 0] == np.arange(len(rows))
    return np.where(itself, neighbours[:, 1], neighbours[:, 0])


def _camera_sizes(num_images: int, num_cameras: int, camera_sizes: Sequence[int] | None) -> NDArray[np.int64]:
    if camera_sizes is None:
        if num_cameras < 1 or num_images < 1:
            raise InputError("num_identities, images_per_identity, num_cameras: give at least 1 of each")
        return np.bincount(np.arange(num_images) % num_cameras, minlength=num_cameras)
    if len(camera_sizes) == 0 or min(camera_sizes) < 0:
        raise InputError("camera_sizes: give the number of images, 0 or more, of each camera")
    return np.array(camera_sizes, dtype=np.int64)


def _validate(
    seed: int,
    num_identities: int,
    num_images: int,
    dim: int,
    camera_shift: float,
    noise: float,
    degrees_of_freedom: float,
) -> None:
    if seed < 0:
        raise InputError(f"seed: {seed} is negative; give 0 or more")
    if not 1 <= num_identities <= num_images:
        raise InputError(
            f"num_identities: {num_identities} do not fit {num_images} images; give 1 to that many"
        )
    if dim < 1:
        raise InputError(f"dim: {dim} is too small; give at least 1")
    for name, value in (("camera_shift", camera_shift), ("noise", noise)):
        if not 0 <= value < np.inf:
            raise InputError(f"{name}: {value} is out of range; give a finite number from 0")
    if not degrees_of_freedom > 0:
        raise InputError(f"degrees_of_freedom: {degrees_of_freedom} is out of range; give more than 0")


def _vectors(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Draw `count` latent vectors of about unit length, (count, L)."""
    return generator.standard_normal((count, _LATENT_DIM), dtype=np.float32) / np.float32(_LATENT_DIM**0.5)


def _centres(generator: np.random.Generator, num_identities: int) -> NDArray[np.float32]:
    """Draw identities that share prototypes of their traits: (identities, L) of about unit length."""
    own = _vectors(generator, num_identities)
    shared = np.zeros_like(own)
    for _ in range(_NUM_TRAITS):
        prototypes = _vectors(generator, _PROTOTYPES_PER_TRAIT)
        shared += prototypes[generator.integers(_PROTOTYPES_PER_TRAIT, size=num_identities)]
    weight, own_weight = np.sqrt([_SHARED / _NUM_TRAITS, 1 - _SHARED]).astype(np.float32)
    mixed: NDArray[np.float32] = weight * shared + own_weight * own
    return mixed


def _student(generator: np.random.Generator, count: int, degrees_of_freedom: float) -> NDArray[np.float32]:
    """Draw multivariate Student-t noise: one heavy-tailed length a row, so that whole images are outliers."""
    scale = np.sqrt(degrees_of_freedom / generator.chisquare(degrees_of_freedom, (count, 1)))
    return _vectors(generator, count) * scale.astype(np.float32)


def main() -> None:
    """Print how well nearest neighbours tell the identities of a simulation."""
    parser = argparse.ArgumentParser(description="Simulate features and measure them.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--num-identities", type=int, default=100)
    parser.add_argument("--num-cameras", type=int, default=6)
    parser.add_argument("--images-per-identity", type=int, default=16)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--camera-shift", type=float, default=0.7)
    parser.add_argument("--noise", type=float, default=0.9)
    parser.add_argument("--degrees-of-freedom", type=float, default=5.0)
    parser.add_argument("--camera-sizes", type=int, nargs="+", help="images of each camera")
    simulated = features(**vars(parser.parse_args()))
    print(
        f"{len(simulated.features)} images  1-NN precision {simulated.one_nn_precision():.4f}  "
        f"same camera {simulated.same_camera_share():.4f}"
    )


if __name__ == "__main__":
    main()
