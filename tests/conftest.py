"""What all tests share: the CPU, and a folder of decoded datasets that is not a user's cache."""

import os

import pytest

# Many tests compare bit for bit, and sums on a GPU are not the same each time.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("COG_TEST_GPUS", "-1")


@pytest.fixture(scope="session", autouse=True)
def _cache_dir(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("COG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
