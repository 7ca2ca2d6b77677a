"""Without a browser these tests are skipped; where CI is set that is a failure, not a skip."""

import os

import pytest

from tests.browser.chrome import find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a run that would call whole journeys passed because nobody could make them."""
    asked = [item for item in items if item.get_closest_marker("browser")]
    if asked and os.environ.get("CI") and find() is None:
        raise pytest.UsageError(
            f"{len(asked)} tests need chromium (apt-get install chromium), and CI is set: they "
            "would be skipped in silence"
        )
