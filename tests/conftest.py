from collections.abc import Iterator

import pytest
import quick_start


@pytest.fixture(scope="module")
def quick_starts() -> Iterator[None]:
    """Processes start quickly: for tests of what they do, not of how they come about."""
    with quick_start.in_use():
        yield
