"""What several files of tests read: one run of `verify`."""

import pytest


@pytest.fixture(scope="session")
def table():
    from subnetwork.experiments.verify import verify

    return verify(0, n_seeds=2000)
