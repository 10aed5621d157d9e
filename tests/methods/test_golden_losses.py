import golden_losses
import pytest


@pytest.mark.parametrize("method", golden_losses.RUNS)
def test_losses_of_all_steps_are_those_committed(tmp_path, method):
    lines = golden_losses.file(method).read_text().splitlines()
    committed = {step: float(loss) for step, loss in (line.split(": ") for line in lines)}
    assert len(committed) == golden_losses.STEPS[method] * len(golden_losses.RUNS[method])
    tolerance = golden_losses.TOLERANCE[method]
    assert dict(golden_losses.losses(method, tmp_path)) == pytest.approx(committed, rel=tolerance)
