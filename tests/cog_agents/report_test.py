import itertools
import json
import re

import imageio
import numpy as np
import pytest

from cog_agents import experiments, report

FIELDS = {
  "environment", "method", "observation", "seed", "steps", "episodes", "success_rate", "interval",
  "success_at_end_rate", "run_dir",
}  # fmt: skip


def write_run(path, method, environment, successes, seed=0, observation="state", filmed=False):
  """Writes the files of a run that has been evaluated over 100 episodes."""
  (path / "evaluations").mkdir(parents=True)
  config = {"method": method, "environment": environment, "observation": observation, "seed": seed}
  (path / "config.json").write_text(json.dumps({**config, "steps": 20}))
  rows = [{"step": 10, "success_rate": 0.1, "q_data": 1.0}, {"step": 20, "success_rate": 0.2}]
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  evaluation = {
    **config,
    "steps": 20,
    "episodes": 100,
    "success_rate": successes / 100,
    "interval": [0.1, 0.9],
    "success_at_end_rate": 0.0,
    "trials": [],
  }
  (path / "evaluations" / f"{environment}.json").write_text(json.dumps(evaluation))
  if filmed:
    (path / "videos").mkdir()
    (path / "videos" / f"{environment}.mp4").write_bytes(b"an mp4")
    imageio.imwrite(path / "videos" / f"{environment}.png", np.zeros((8, 16, 3), np.uint8))


@pytest.fixture
def root(tmp_path):
  write_run(tmp_path / "cog_0", "cog", "place_in_tray", 90, seed=0, filmed=True)
  write_run(tmp_path / "cog_1", "cog", "place_in_tray", 70, seed=1)
  write_run(tmp_path / "deep" / "bc", "bc", "place_in_tray", 2)
  write_run(tmp_path / "image", "cog", "place_in_tray", 10, observation="image")
  return tmp_path


def test_report_json_has_one_entry_of_the_schema_for_each_evaluation(root, tmp_path):
  rows = report.write(root, tmp_path / "out" / "report.html")
  assert json.loads((tmp_path / "out" / "report.json").read_text()) == rows
  assert len(rows) == 4
  assert all(row.keys() == FIELDS for row in rows)
  by_run = {row["run_dir"]: row for row in rows}
  assert by_run[str(root / "cog_0")] == {
    "environment": "place_in_tray",
    "method": "cog",
    "observation": "state",
    "seed": 0,
    "steps": 20,
    "episodes": 100,
    "success_rate": 0.9,
    "interval": [0.1, 0.9],
    "success_at_end_rate": 0.0,
    "run_dir": str(root / "cog_0"),
  }


def test_the_page_needs_no_other_file(root, tmp_path):
  report.write(root, tmp_path / "report.html")
  page = (tmp_path / "report.html").read_text()
  sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
  links = [source for source in sources if not source.startswith(("data:", "#"))]
  assert not links
  assert "data:video/mp4;base64,YW4gbXA0" in page
  assert "data:image/png;base64," in page
  assert page.count("<svg") == 2  # curves of state and of image runs
  assert not re.search(r"\$\w", page)


def test_the_table_pools_seeds_and_shows_the_papers_figures(root):
  text = report.table(report.entries(report.load_runs(root)))
  ours, paper = (line for line in text.splitlines()[1:3])
  # 160 of 200: Wilson's interval by hand is [0.739, 0.850]
  assert re.search(r"place_in_tray, state +ours +0\.80 \[0\.74, 0\.85\] +0\.02 \[", ours)
  assert re.search(r"paper +0\.96 +0\.02", paper)
  assert "place_in_tray, image" in text


def test_every_row_and_method_of_the_paper_can_be_reported(tmp_path):
  for method, environment in itertools.product(experiments.METHODS, experiments.ROWS):
    write_run(tmp_path / method / environment, method, environment, 50)
  rows = report.write(tmp_path, tmp_path / "report.html")
  page, text = (tmp_path / "report.html").read_text(), report.table(rows)
  for environment in experiments.ROWS:
    assert environment in page and environment in text
  for method in experiments.METHODS.values():
    assert f"<th>{method.title}</th>" in page and method.title in text


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(report.ReportError, match=f"{tmp_path / 'nowhere'} is no folder"):
    report.write(tmp_path / "nowhere", tmp_path / "report.html")


def test_a_folder_without_runs_is_named(tmp_path):
  with pytest.raises(report.ReportError, match=f"no run .* below {tmp_path}"):
    report.write(tmp_path, tmp_path / "report.html")


def test_runs_that_were_not_evaluated_are_counted(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  with pytest.raises(report.ReportError, match="none of the 1 runs .* evaluate_main"):
    report.write(tmp_path, tmp_path / "report.html")
