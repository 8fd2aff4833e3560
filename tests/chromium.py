"""A real Chromium for the tests of pages."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome import service

_CHROMIUM, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_FLAGS = (
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--window-size=1400,1000",
)  # fmt: skip

needed = pytest.mark.skipif(
  not (_CHROMIUM and _DRIVER), reason="no chromium and chromedriver here: the page is not opened"
)


def start(profile) -> webdriver.Chrome:
  """Starts a browser without a window that keeps its console; `profile` is an empty folder."""
  options = webdriver.ChromeOptions()
  options.binary_location = _CHROMIUM
  for flag in (*_FLAGS, f"--user-data-dir={profile}"):
    options.add_argument(flag)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  return webdriver.Chrome(options, service.Service(_DRIVER))
