import pytest
import torch

from raid import machine
from raid.distributed.group import Group
from raid.losses.discriminative import MultilabelMemory
from raid.methods.mar.multilabel_table import MultilabelTable, table_is_sharded

CPU = torch.device("cpu")
N, P = 11, 5


class Together(Group):
    """One of several workers in one process; what they add up is handed from one to the next."""

    def all_reduce_sum(self, value):
        return value

    def gather_rows(self, rows, *, equal=False):
        return rows


def table(*, sharded: bool, group: Group | None = None) -> MultilabelTable:
    return MultilabelTable(
        N, P, momentum=0.1, sharded=sharded, group=group or Group.solo(), device=CPU, dtype=torch.float64
    )


def visits() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randperm(N, generator=generator)[:6],
            torch.rand(6, P, generator=generator, dtype=torch.float64),
        )
        for _ in range(4)
    ]


def slowly(rows_seen: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[int, list[float]]:
    """What the table holds after the visits, number by number."""
    held: dict[int, list[float]] = {}
    for rows, multilabels in rows_seen:
        for row, new in zip(rows.tolist(), multilabels.tolist(), strict=True):
            old = held.get(row)
            held[row] = new if old is None else [0.9 * a + 0.1 * b for a, b in zip(old, new, strict=True)]
    return held


@pytest.mark.parametrize("sharded", [False, True])
def test_visits_are_averaged_and_returned(sharded):
    ours = table(sharded=sharded)
    for number, (rows, multilabels) in enumerate(visits(), start=1):
        found = ours.visit(ours.places(rows), multilabels)
        held = slowly(visits()[:number])
        expected = torch.tensor([held[row] for row in rows.tolist()], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found.zero_()  # a copy
    assert ours.memory.table[rows].abs().min() > 0


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shards_hold_their_rows_and_add_up_to_the_whole(size):
    whole = table(sharded=False)
    shards = [table(sharded=True, group=Together(rank, size)) for rank in range(size)]
    assert sum(len(shard.memory.table) for shard in shards) == N
    assert max(len(shard.memory.table) for shard in shards) <= -(-N // size)
    for rows, multilabels in visits():
        expected = whole.visit(whole.places(rows), multilabels)
        parts = torch.stack([shard.visit(shard.places(rows), multilabels) for shard in shards])
        assert ((parts != 0).any(dim=2).sum(dim=0) == 1).all()  # a row is one worker's
        assert torch.equal(parts.sum(dim=0), expected)
    assert torch.equal(torch.cat([shard.memory.table for shard in shards]), whole.memory.table)


@pytest.mark.parametrize("size", [2, 3])
def test_a_state_is_of_all_rows_and_fits_any_number_of_workers(size):
    whole = table(sharded=False)
    for rows, multilabels in visits()[:1]:
        whole.visit(whole.places(rows), multilabels)
    state = whole.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {"table": (N, P), "visited": (N,)}
    for visited in (state["visited"], state["visited"].byte()):  # as shards send it
        shards = [table(sharded=True, group=Together(rank, size)) for rank in range(size)]
        for shard in shards:
            shard.load_state_dict({"table": state["table"], "visited": visited})
        assert torch.equal(torch.cat([shard.memory.table for shard in shards]), whole.memory.table)
        assert torch.equal(torch.cat([shard.memory.visited for shard in shards]), whole.memory.visited)
    again = table(sharded=False)
    again.load_state_dict({"table": state["table"], "visited": state["visited"].byte()})
    assert again.memory.visited.dtype == torch.bool
    rows, multilabels = visits()[1]
    assert torch.equal(
        again.visit(again.places(rows), multilabels), whole.visit(whole.places(rows), multilabels)
    )


def test_the_nearest_agent_is_the_first_of_the_largest_and_of_visited_images_alone():
    ours = table(sharded=False)
    assert ours.nearest().tolist() == [-1] * N
    rows = {
        4: [0.1, 0.3, 0.2, 0.3, 0.1],
        0: [0.2] * 5,
        9: [0.0, 0.0, 0.0, 0.0, 1.0],
        7: [0.4, 0.1, 0.4, 0.0, 0.1],
    }
    ours.visit(ours.places(torch.tensor(list(rows))), torch.tensor(list(rows.values())).double())
    assert ours.nearest().tolist() == [0, -1, -1, -1, 1, -1, -1, 0, -1, 4, -1]
    # The table's: a tenth of the new one does not turn the old one round.
    ours.visit(ours.places(torch.tensor([9, 1])), torch.eye(5)[[0, 2]].double())
    assert ours.nearest().tolist() == [0, 2, -1, -1, 1, -1, -1, 0, -1, 4, -1]
    assert ours.nearest().dtype == torch.int64


@pytest.mark.parametrize("size", [2, 3, 4, 13])
def test_the_nearest_agents_of_shards_are_the_whole_s(size):
    whole = table(sharded=False)
    shards = [table(sharded=True, group=Together(rank, size)) for rank in range(size)]
    for rows, multilabels in visits()[:1]:
        for one in (whole, *shards):
            one.visit(one.places(rows), multilabels)
    assert -1 in whole.nearest()
    assert torch.equal(torch.cat([shard.nearest() for shard in shards]), whole.nearest())


def test_a_batch_without_rows_of_a_shard():
    last = table(sharded=True, group=Together(3, 4))
    assert torch.equal(
        last.visit(last.places(torch.arange(3)), torch.rand(3, P).double()), torch.zeros(3, P).double()
    )
    assert not last.memory.visited.any()


def test_an_image_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        table(sharded=False).visit(
            table(sharded=False).places(torch.tensor([1, 1])), torch.rand(2, P).double()
        )
    assert MultilabelMemory(N, P, momentum=0.1).table.dtype == torch.float32


@pytest.mark.parametrize(
    ("choice", "size", "gib", "sharded"),
    [
        ("whole", 4, 100, False),
        ("sharded", 4, 0.1, True),
        ("sharded", 1, 0.1, True),
        ("auto", 1, 100, False),  # nobody to share it with
        ("auto", 4, 0.9, False),
        ("auto", 4, 1.1, True),  # over a quarter of what each of the four has of 16 GiB
        ("auto", 2, 1.1, False),
    ],
)
def test_a_table_is_shared_out_where_it_is_large(monkeypatch, choice, size, gib, sharded):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 16 * 2**30)
    monkeypatch.setattr(Group, "once", lambda group, compute: compute())
    assert table_is_sharded(choice, int(gib * 2**30), Group(0, size), CPU) == sharded
