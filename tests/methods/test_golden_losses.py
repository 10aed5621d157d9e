import golden_losses
import pytest


def test_losses_of_all_steps_are_those_committed(tmp_path):
    lines = golden_losses.FILE.read_text().splitlines()
    committed = {step: float(loss) for step, loss in (line.split(": ") for line in lines)}
    assert len(committed) == 3 * 4 * len(golden_losses.RUNS)
    assert dict(golden_losses.losses(tmp_path)) == pytest.approx(committed, rel=1e-6)
