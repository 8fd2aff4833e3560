"""What all tests share: the CPU, and a folder of decoded datasets that is not a user's cache."""

import os

import pytest

# Many compare bit for bit, which sums on a GPU are not. CUDA_VISIBLE_DEVICES=0 tests there.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture(scope="session", autouse=True)
def _cache_dir(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("COG_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
