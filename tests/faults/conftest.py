"""The test that waits longest and computes least begins first: the others run meanwhile."""

from pathlib import Path

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    places = [place for place, item in enumerate(items) if item.path.parent == HERE]
    own = sorted(
        (items[place] for place in places), key=lambda item: item.path.stem != "test_hosts"
    )
    for place, item in zip(places, own, strict=True):
        items[place] = item
