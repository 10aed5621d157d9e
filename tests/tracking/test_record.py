import pytest
import tracked

from raid.tracking.record import Held, Record


def test_one_at_a_time(folder):
    record = Record.open(folder.path)
    with pytest.raises(Held):
        Record.open(folder.path)
    record.close()
    Record.open(folder.path).close()


def test_it_is_read_back(folder):
    record = Record.open(folder.path)
    record.note([tracked.figures(0), tracked.figures(1)], recorded_ms=5)
    record.sent_to("http://there").epochs["0"] = record.epochs["0"]
    with record.changing():
        record.outcome, record.tags = "FAILED", {"a": "b"}
    record.close()
    again = Record.open(folder.path)
    assert again._content() == record._content()
    assert again.sent_to("http://there").epochs == {"0": record.epochs["0"]}
    again.close()


def test_a_later_version_has_a_later_time(folder):
    record = Record.open(folder.path)
    for loss, clock in ((1.0, 500), (2.0, 400), (2.0, 900)):
        record.note([tracked.figures(0, loss=loss)], recorded_ms=clock)
        assert record.epochs["0"].recorded_ms == {1.0: 500, 2.0: 501}[loss]
    record.close()
