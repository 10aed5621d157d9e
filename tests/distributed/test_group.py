"""The collectives, on real gloo processes: one start of the workers computes what many tests look at."""

import pickle
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn

from raid.distributed.group import Group
from raid.distributed.launch import run_workers
from raid.errors import InputError
from raid.models.batch_norm import SyncBatchNorm

SIZES = (2, 4)
COUNTS = (3, 0, 5, 1)  # rows of each worker
TIGHT = {"rtol": 1e-12, "atol": 1e-12}
LATE = 0.3  # seconds that the last worker lets the others wait


def seeded(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unequal(size):
    """This group's batch of rows and the slice of each worker, one of them empty."""
    ends = np.cumsum(COUNTS[:size])
    slices = [slice(end - count, end) for end, count in zip(ends, COUNTS, strict=False)]
    return seeded((ends[-1], 5), seed=1), slices


def network(norm):
    """Three layers, the same on every worker."""
    model = nn.Sequential(nn.Linear(5, 4), norm, nn.Linear(4, 3)).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(seeded(parameter.shape, seed=10 + i))
    return model


def global_loss(features):
    """A loss in which every row meets every other one."""
    return torch.logsumexp((features @ features.T).flatten(), dim=0) + features.square().mean()


def gather(group):
    rows, slices = unequal(group.size)
    mine = rows[slices[group.rank]]
    return {
        "float": group.gather_rows(mine),
        "not contiguous": group.gather_rows(mine.repeat(1, 2)[:, ::2]),
        "int64": group.gather_rows(torch.arange(COUNTS[group.rank]) + 100 * group.rank),
        "maps": group.gather_rows(mine[:, :, None, None].expand(-1, -1, 2, 3)),
        "nothing": group.gather_rows(rows[:0]),
        "equal": group.gather_rows(torch.full((2, 3), group.rank), equal=True),
    }


def gather_gradient(group):
    rows, slices = unequal(group.size)
    model = network(nn.Tanh())
    parallel = group.data_parallel(model)
    # DDP averages over the workers, and each worker's gradient holds its own rows' share.
    loss = global_loss(group.gather_rows(parallel(rows[slices[group.rank]]))) * group.size
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


def reduced(group):
    value = seeded((3, 2), seed=group.rank).requires_grad_()
    total = group.all_reduce_sum(value.square())
    ((group.rank + 1) * total.sum()).backward()
    before = torch.ones(2)
    group.all_reduce_sum(before)
    return {"total": total.detach(), "gradient": value.grad, "input": before}


def broadcast(group):
    mine = torch.full((2, 3), float(group.rank))
    last = group.broadcast(mine.clone().T, source=group.size - 1)
    return {"first": group.broadcast(mine.clone()), "last": last}


def once(group):
    calls = []

    def compute():
        calls.append(group.rank)
        return {"array": np.arange(3), "rank": group.rank, "nested": [None, (1.5, "text")]}

    result = group.once(compute)
    group.barrier()
    return {"result": {**result, "array": result["array"].tolist()}, "calls": calls}


def failing_once(group):
    def compute():
        raise InputError("data.root: not there")

    try:
        group.once(compute)
    except InputError as error:
        return {"message": str(error), "notes": error.__notes__}
    return {}


def lockstep(group):
    """Return what differing values are answered with, on this worker."""
    equal = seeded((3, 4), seed=2, dtype=torch.float32)
    for value in (equal, equal[0, 0], equal[:0], equal.T, equal > 0, torch.arange(3)):
        group.assert_lockstep(value)
    group.assert_lockstep(torch.tensor([float("nan")]))
    answers = []
    for seen, changed in ((equal, torch.nextafter(equal, equal + 1)), (torch.zeros(1), -torch.zeros(1))):
        try:
            group.assert_lockstep(changed if group.rank == group.size - 1 else seen)
        except AssertionError as error:
            answers.append(str(error))
    return answers


def sync_norm(group, shape):
    mine = slice(group.rank * shape[0] // group.size, (group.rank + 1) * shape[0] // group.size)
    layer = SyncBatchNorm(shape[1], all_reduce_sum=group.all_reduce_sum).double()
    with torch.no_grad():
        layer.weight.copy_(seeded(shape[1], seed=3))
        layer.bias.copy_(seeded(shape[1], seed=4))
    rows = (2 * seeded(shape, seed=5) + 1)[mine].requires_grad_()
    output = layer(rows)
    (output.square() * seeded(shape, seed=6)[mine]).sum().backward()
    return {
        "output": output.detach(),
        "rows": rows.grad,
        "weight": layer.weight.grad,
        "bias": layer.bias.grad,
        "mean": layer.running_mean,
        "var": layer.running_var,
    }


def sync_network(group):
    """Gradients of a network with sync layers under DDP, of the mean loss of the global batch."""
    rows, mine = seeded((8, 5), seed=7), group.slice(8)
    model = network(SyncBatchNorm(4, all_reduce_sum=group.all_reduce_sum))
    parallel = group.data_parallel(model)  # kept until after backward: its hooks average the gradients
    parallel(rows[mine]).square().mean().backward()
    return [parameter.grad for parameter in model.parameters()]


def buffers(group):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    parallel = group.data_parallel(model)
    model[1].running_mean.fill_(10.0 * group.rank)
    model[1].momentum = 0.0
    for _ in range(2):
        parallel(torch.ones(3, 5)).sum().backward()
    return model[1].running_mean


def clock(group):
    """Return the seconds that the clock counts of each kind of collective, whose last worker is late."""
    value = seeded((3, 2), seed=8).requires_grad_()
    total = group.all_reduce_sum(value)
    parallel = group.data_parallel(network(nn.Tanh()))

    def counted(collective):
        group.barrier()
        before = group.clock.seconds()
        if group.rank == group.size - 1:
            time.sleep(LATE)
        collective()
        return group.clock.seconds() - before

    return {
        "gather": counted(lambda: group.gather_rows(value.detach())),
        "reduce": counted(lambda: group.all_reduce_sum(value.detach())),
        "its backward": counted(lambda: total.sum().backward()),
        "broadcast": counted(lambda: group.broadcast(value.detach(), source=group.size - 1)),
        "gradients": counted(lambda: parallel(unequal(2)[0]).sum().backward()),
        "no gradients": counted(lambda: parallel(unequal(2)[0])),
        "once": counted(lambda: group.once(lambda: None)),
        "barrier": counted(group.barrier),
    }


CHECKS = {
    "gather": gather,
    "gather_gradient": gather_gradient,
    "reduced": reduced,
    "broadcast": broadcast,
    "once": once,
    "failing_once": failing_once,
    "lockstep": lockstep,
    "sync_norm_rows": partial(sync_norm, shape=(8, 3)),
    "sync_norm_maps": partial(sync_norm, shape=(8, 3, 4, 2)),
    "sync_network": sync_network,
    "buffers": buffers,
    "clock": clock,
    "threads": lambda group: torch.get_num_threads(),
    "position": lambda group: (group.rank, group.size, group.is_first),
}


def check_all(group, folder):
    results = {name: check(group) for name, check in CHECKS.items()}
    torch.save(results, folder / f"{group.rank}_of_{group.size}.pt")


@pytest.fixture(scope="module", params=SIZES)
def results(request, tmp_path_factory, quick_starts):
    """What every worker found, in rank order."""
    folder = tmp_path_factory.mktemp("group")
    run_workers(check_all, request.param, 1, folder)
    files = [folder / f"{rank}_of_{request.param}.pt" for rank in range(request.param)]
    return [torch.load(file) for file in files]


def test_workers_know_their_place_and_their_threads(results):
    size = len(results)
    assert [found["position"] for found in results] == [(r, size, r == 0) for r in range(size)]
    assert {found["threads"] for found in results} == {1}


def test_gather_rows_concatenates_unequal_counts_in_rank_order(results):
    rows, slices = unequal(len(results))
    numbers = [100 * rank + i for rank in range(len(results)) for i in range(COUNTS[rank])]
    for found in (worker["gather"] for worker in results):
        assert torch.equal(found["float"], rows)
        assert torch.equal(found["not contiguous"], rows.repeat(1, 2)[:, ::2])
        assert found["int64"].tolist() == numbers
        assert torch.equal(found["maps"], rows[:, :, None, None].expand(-1, -1, 2, 3))
        assert found["nothing"].shape == (0, 5)
        assert found["equal"][:, 0].tolist() == [rank for rank in range(len(results)) for _ in range(2)]
    assert slices[1] == slice(3, 3)  # one of them is empty


def test_gradient_of_a_loss_on_the_gathered_batch_equals_one_process(results):
    model = network(nn.Tanh())
    global_loss(model(unequal(len(results))[0])).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    for found in results:
        torch.testing.assert_close(found["gather_gradient"], expected, **TIGHT)


def test_all_reduce_sum_and_its_gradient(results):
    values = [seeded((3, 2), seed=rank) for rank in range(len(results))]
    factors = sum(range(1, len(results) + 1))
    for found, value in zip((worker["reduced"] for worker in results), values, strict=True):
        torch.testing.assert_close(found["total"], sum(v.square() for v in values), **TIGHT)
        torch.testing.assert_close(found["gradient"], 2 * factors * value, **TIGHT)
        assert torch.equal(found["input"], torch.ones(2))  # left alone


def test_broadcast_gives_the_sources_value(results):
    for found in (worker["broadcast"] for worker in results):
        assert torch.equal(found["first"], torch.zeros(2, 3))
        assert torch.equal(found["last"], torch.full((3, 2), float(len(results) - 1)))


def test_once_computes_on_the_first_worker_for_all(results):
    expected = {"array": [0, 1, 2], "rank": 0, "nested": [None, (1.5, "text")]}
    assert all(found["once"]["result"] == expected for found in results)
    assert [found["once"]["calls"] for found in results] == [[0]] + [[]] * (len(results) - 1)


def test_a_failure_inside_once_reaches_every_worker(results):
    for found in (worker["failing_once"] for worker in results):
        assert found["message"] == "data.root: not there"
        (note,) = found["notes"]
        assert note.startswith("on worker 0:\nTraceback")
        assert "in compute" in note


def test_lockstep_sees_one_bit_on_every_worker(results):
    for found in results:
        assert found["lockstep"] == ["the workers' states have drifted apart"] * 2


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4, 2)])
def test_sync_batch_norm_equals_torchs_on_the_whole_batch(results, shape):
    own = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3).double()
    own.weight.data, own.bias.data = seeded(3, seed=3), seeded(3, seed=4)
    rows = (2 * seeded(shape, seed=5) + 1).requires_grad_()
    output = own(rows)
    (output.square() * seeded(shape, seed=6)).sum().backward()
    found = [worker["sync_norm_rows" if len(shape) == 2 else "sync_norm_maps"] for worker in results]
    torch.testing.assert_close(torch.cat([f["output"] for f in found]), output.detach(), **TIGHT)
    torch.testing.assert_close(torch.cat([f["rows"] for f in found]), rows.grad, **TIGHT)
    torch.testing.assert_close(sum(f["weight"] for f in found), own.weight.grad, **TIGHT)
    torch.testing.assert_close(sum(f["bias"] for f in found), own.bias.grad, **TIGHT)
    for worker in found:
        torch.testing.assert_close(worker["mean"], own.running_mean, **TIGHT)
        torch.testing.assert_close(worker["var"], own.running_var, **TIGHT)
        assert torch.equal(worker["mean"], found[0]["mean"])
        assert torch.equal(worker["var"], found[0]["var"])


def test_a_network_with_sync_layers_under_ddp_equals_one_process(results):
    model = network(nn.BatchNorm1d(4))
    model(seeded((8, 5), seed=7)).square().mean().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    for found in results:
        torch.testing.assert_close(found["sync_network"], expected, **TIGHT)


def test_data_parallel_leaves_the_buffers_alone(results):
    for rank, found in enumerate(results):
        assert torch.equal(found["buffers"], torch.full((4,), 10.0 * rank))


def test_the_clock_counts_what_the_others_wait_for_in_collectives_of_tensors(results):
    for found in (worker["clock"] for worker in results[:-1]):
        for name in ("gather", "reduce", "its backward", "broadcast", "gradients"):
            assert 0.7 * LATE < found[name] < 20, name
        for name in ("no gradients", "once", "barrier"):
            assert found[name] == 0.0, name


def test_shares_cover_everything_once_and_evenly():
    for size in (1, 2, 3, 4, 7, 16):
        for count in (0, 1, 2, 3, 5, 16, 17, 100, 12936):
            shares = [range(count)[Group(rank, size).slice(count)] for rank in range(size)]
            assert [i for share in shares for i in share] == list(range(count))
            lengths = {len(share) for share in shares}
            assert max(lengths) - min(lengths) <= 1


def test_a_solo_group_does_nothing():
    group, rows = Group.solo(), torch.ones(2, 3, requires_grad=True)
    assert (group.rank, group.size, group.is_first) == (0, 1, True)
    assert group.gather_rows(rows) is rows
    assert group.all_reduce_sum(rows) is rows
    assert group.broadcast(rows) is rows
    assert group.once(lambda: [1]) == [1]
    assert group.slice(5) == slice(0, 5)
    model = nn.Linear(2, 2)
    assert group.data_parallel(model) is model
    group.assert_lockstep(rows)
    group.barrier()
    with pytest.raises(ZeroDivisionError):
        group.once(lambda: 1 // 0)
    assert not dist.is_initialized()  # it needed no process group
    assert group.clock.seconds() == 0.0


def test_the_clock_is_no_part_of_who_a_worker_is():
    group = Group.solo()
    with group.clock(torch.device("cpu")):
        time.sleep(0.01)
    assert group.clock.seconds() >= 0.01
    assert group == Group.solo()
    assert pickle.loads(pickle.dumps(group)).clock.seconds() == 0.0  # another process has its own
