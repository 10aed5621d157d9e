"""The clock of collectives on a GPU: with a stand-in for its events, and on a GPU where there is one."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from raid.distributed.clock import CollectiveClock

GPU = torch.device("cuda")


@dataclass
class Stream:
    """A GPU that takes two seconds for every collective, and does nothing before the host waits for it."""

    now: float = 0.0
    waited: int = 0
    events: list["Event"] = field(default_factory=list)


@dataclass
class Event:
    """Of a `Stream`; knows its time once the host has waited."""

    stream: Stream
    enable_timing: bool = False
    at: float | None = None

    def record(self) -> None:
        self.stream.events.append(self)

    def synchronize(self) -> None:
        self.stream.waited += 1
        for number, event in enumerate(self.stream.events):
            self.stream.now += 2.0 if number % 2 else 0.5  # a collective, or what is computed before it
            event.at = self.stream.now
        self.stream.events.clear()

    def elapsed_time(self, end: "Event") -> float:
        assert self.enable_timing
        assert self.at is not None
        assert end.at is not None
        return 1000 * (end.at - self.at)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(stream, enable_timing))
    return stream


def test_collectives_of_a_gpu_are_read_when_they_are_asked_for(stream):
    clock = CollectiveClock()
    assert clock.seconds() == 0.0
    for _ in range(3):
        with clock(GPU):
            pass
    assert stream.waited == 0  # the host has not
    assert clock.seconds() == 6.0
    assert clock.seconds() == 6.0  # once
    with clock(GPU):
        pass
    assert clock.seconds() == 8.0
    assert stream.waited == 2


def test_a_collective_that_fails_has_its_end_as_well(stream):
    clock = CollectiveClock()
    with pytest.raises(RuntimeError), clock(GPU):
        raise RuntimeError("connection closed by peer")
    assert clock.seconds() == 2.0


def test_a_backward_pass_is_followed_from_its_last_gradient_to_its_end():
    """What DDP asks the engine for with its last gradient comes between the clock's two looks."""
    seen: list[str] = []

    class Noted(CollectiveClock):
        def _begin(self, device: torch.device) -> None:
            seen.append(f"begin on {device}")

        def _end(self, device: torch.device) -> None:
            seen.append("end")

    model = nn.Linear(3, 2)
    Noted().follow(model)

    def with_the_last_gradient(parameter: torch.Tensor) -> None:
        seen.append("gradient")
        torch.autograd.Variable._execution_engine.queue_callback(lambda: seen.append("wait"))

    model.weight.register_post_accumulate_grad_hook(with_the_last_gradient)
    with torch.no_grad():
        model(torch.ones(4, 3))
    assert seen == []
    for _ in range(2):
        model(torch.ones(4, 3)).sum().backward()
    assert seen == ["gradient", "begin on cpu", "wait", "end"] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_s_own_events():
    clock = CollectiveClock()
    torch.cuda._sleep(10**7)  # cycles: what is computed before is not counted
    with clock(GPU):
        torch.cuda._sleep(10**8)
    seconds = clock.seconds()
    assert 0.01 < seconds < 1.0
    with clock(GPU):
        pass
    assert clock.seconds() - seconds < 0.01
