"""The Ray backend of a configuration, by itself: a run without Ray does not import it."""

from raid.distributed.ray_backend import RayBackend
from raid.errors import InputError
from raid.methods.fitting import with_workers
from raid.methods.known import MethodConfig


def ray_backend(config: MethodConfig) -> RayBackend:
    """Return the backend that runs `config` on Ray; nothing is started yet.

    Raises:
        InputError: fewer workers would do, and would come to another result.
    """
    return RayBackend(
        workers=config.run.workers,
        threads=config.numerics.threads,
        device=config.run.device,
        pool_size=config.pool.size,
        per_gpu=config.pool.per_gpu,
        fewer=fewer_workers(config),
    )


def fewer_workers(config: MethodConfig) -> tuple[int, ...]:
    """Return the numbers of workers below `run.workers` that will do and can share a batch, falling.

    Raises:
        InputError: as `ray_backend`.
    """
    run = config.run
    if run.min_workers is None:
        return ()
    if config.also_determining():
        raise InputError(
            "run.min_workers: the result of this configuration depends on the number of workers "
            "(scale=weak, or model.batch_norm=local): leave it null"
        )
    counts = range(run.workers - 1, run.min_workers - 1, -1)
    return tuple(count for count in counts if not any(with_workers(config, count).problems()))
