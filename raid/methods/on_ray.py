"""The Ray backend of a configuration, by itself: a run without Ray does not import it."""

from raid.distributed.ray_backend import RayBackend
from raid.methods.launch import Launched


def ray_backend(config: Launched) -> RayBackend:
    """Return the backend that runs `config` on Ray; nothing is started yet."""
    return RayBackend(
        workers=config.run.workers,
        threads=config.numerics.threads,
        device=config.run.device,
        pool_size=config.pool.size,
    )
