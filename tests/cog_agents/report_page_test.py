"""Tests of the report by opening and clicking through it in a real Chromium."""

import pytest
from selenium.webdriver.common import by
from selenium.webdriver.support import wait

from cog_agents import report
from tests import chromium
from tests.cog_agents import runs

SECONDS = 20  # to wait for the page at the most
CONDITIONS = ("place_in_tray", "drawer_closed")

pytestmark = chromium.needed


@pytest.fixture(name="page", scope="module")
def _page(tmp_path_factory):
  root = tmp_path_factory.mktemp("runs")
  for environment in CONDITIONS:
    for seed in range(2):
      run = root / f"cog_{environment}_{seed}"
      runs.write_run(run, "cog", environment, 80 + seed, seed=seed, filmed=True)
      runs.write_fine_tuning(run, environment, [0.8, 0.95])
    runs.write_run(root / f"bc_{environment}", "bc", environment, 2, greedy_successes=1)
    runs.write_run(root / f"sac_{environment}", "sac", environment, diverged_at=1250)
  runs.write_stitching(root / "stitching")
  out = tmp_path_factory.mktemp("out") / "report.html"
  report.write(root, out)
  return out


@pytest.fixture(name="driver", scope="module")
def _driver(tmp_path_factory):
  driver = chromium.start(tmp_path_factory.mktemp("profile"))
  try:
    yield driver
  finally:
    driver.quit()


@pytest.fixture(name="open_page")
def _open_page(driver, page):
  """Opens the page in a window of some width, light or dark; the console stays empty meanwhile."""

  def open_page(width=1440, scheme="light"):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get(page.as_uri())
    return driver

  yield open_page
  assert driver.get_log("browser") == []


def colour(driver, selector, name):
  """(red, green, blue) of a computed style."""
  code = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
  value = driver.execute_script(code, selector, name)
  return tuple(int(x) for x in value.removeprefix("rgb(").removesuffix(")").split(", "))


def luminance(rgb):
  """Relative luminance of WCAG 2."""
  linear = [
    x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (c / 255 for c in rgb)
  ]
  return sum(x * weight for x, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one, other):
  dark, light = sorted((luminance(one), luminance(other)))
  return (light + 0.05) / (dark + 0.05)


def test_the_links_lead_to_the_sections(open_page):
  driver = open_page()
  links = driver.find_elements(by.By.CSS_SELECTOR, "nav a")
  assert [link.text for link in links] == [
    "Table 1", "Learning curves", "Fine-tuning", "Videos", "Data", "Stitching", "Runs",
  ]  # fmt: skip
  for link in links:
    link.click()
    section = driver.execute_script(
      "const box = document.querySelector(location.hash).getBoundingClientRect();"
      "return [location.hash, box.top, box.bottom]"
    )
    assert link.get_attribute("href").endswith(section[0])
    assert section[1] < 900 and section[2] > 0, f"{section[0]} is not in view"


def test_everything_that_is_folded_unfolds(open_page):
  driver = open_page()
  folded = driver.find_elements(by.By.CSS_SELECTOR, "details:not([open])")
  assert folded
  for details in folded:
    inside = details.find_element(by.By.CSS_SELECTOR, "summary ~ *")
    assert not inside.is_displayed()
    details.find_element(by.By.TAG_NAME, "summary").click()
    assert inside.is_displayed()
  titles = {x.text for x in driver.find_elements(by.By.CSS_SELECTOR, "details > summary")}
  assert {"Diagnostics of the training", "Each seed"} <= titles


def test_a_click_unfolds_the_seeds_of_a_cell_and_a_key_folds_them(open_page):
  driver = open_page()
  rows = driver.find_elements(by.By.CSS_SELECTOR, ".results tbody tr")
  row = next(row for row in rows if "object in tray area" in row.text)
  details = row.find_elements(by.By.CSS_SELECTOR, "details")[-1]
  assert "seed 1: 0.81 of 100" not in row.text
  details.find_element(by.By.TAG_NAME, "summary").click()
  assert "seed 0: 0.80 of 100" in row.text and "seed 1: 0.81 of 100" in row.text
  details.find_element(by.By.TAG_NAME, "summary").send_keys("\ue007")  # the key Enter
  assert "seed 1: 0.81 of 100" not in row.text


def test_every_video_and_picture_can_be_played_and_seen(open_page):
  driver = open_page()
  videos = driver.find_elements(by.By.TAG_NAME, "video")
  assert len(videos) == len(CONDITIONS)
  for video in videos:
    wait.WebDriverWait(driver, SECONDS).until(lambda _, v=video: v.get_property("readyState") > 0)
    assert video.get_property("videoWidth") == 64
    assert video.get_property("duration") == pytest.approx(0.8, abs=0.11)
    driver.execute_script("arguments[0].play()", video)
    wait.WebDriverWait(driver, SECONDS).until(lambda _, v=video: v.get_property("currentTime") > 0)
    assert video.get_property("error") is None
  for image in driver.find_elements(by.By.TAG_NAME, "img"):
    assert image.get_property("naturalWidth") == 8 * 64


def test_all_text_of_a_figure_lies_within_it(open_page):
  driver = open_page()
  outside = driver.execute_script("""
    return [...document.querySelectorAll("figure svg")].flatMap(svg => {
      const box = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].filter(text => {
        const own = text.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1;
      }).map(text => text.textContent);
    });
  """)
  assert outside == []


@pytest.mark.parametrize("width", [420, 768, 1440])
def test_the_page_is_no_wider_than_the_window_even_unfolded(open_page, width):
  driver = open_page(width)
  driver.execute_script("document.querySelectorAll('details').forEach(x => { x.open = true; })")
  root = driver.find_element(by.By.TAG_NAME, "html")
  assert root.get_property("scrollWidth") == root.get_property("clientWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_can_be_read_on_a_light_and_on_a_dark_page(open_page, scheme):
  driver = open_page(scheme=scheme)
  background = colour(driver, ".card", "backgroundColor")
  assert (luminance(background) < 0.1) == (scheme == "dark")
  for selector in (".rate", "td small", ".mark.above", ".mark.within", "figcaption"):
    assert contrast(colour(driver, selector, "color"), background) > 4.5, selector
  assert contrast(colour(driver, "figure svg text", "fill"), background) > 4.5
  # Lines of a figure; 3 is what WCAG asks of graphics.
  for name in ("cog", "no-prior", "bc-init", "bc", "bc-oracle", "sac"):
    hexadecimal = driver.execute_script(
      "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])",
      f"--{name}",
    )
    rgb = tuple(bytes.fromhex(hexadecimal.strip().removeprefix("#")))
    assert contrast(rgb, background) > 3, name
