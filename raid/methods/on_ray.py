"""The Ray backend of a configuration, by itself: a run without Ray does not import it."""

from raid.distributed.ray_backend import RayBackend
from raid.methods.contrastive import device_of
from raid.methods.icsr_config import IcsrConfig


def ray_backend(config: IcsrConfig) -> RayBackend:
    """Return the backend that runs `config` on Ray; nothing is started yet."""
    return RayBackend(
        workers=config.run.workers,
        threads=config.numerics.threads,
        on_gpu=device_of(config.run.device).type == "cuda",
        pool_size=config.pool.size,
    )
