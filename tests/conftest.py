"""What all tests share: decoded datasets go to a folder of the test run, not to a user's cache."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_dir(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("COG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
