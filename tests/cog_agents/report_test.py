"""Tests of what a report contains; report_page_test.py opens it in a browser."""

import html
import itertools
import json
import pathlib
import re
import shutil

import imageio
import pytest

from cog_agents import config, experiments, report, report_data, report_page
from tests.cog_agents import runs

RESULTS = pathlib.Path(__file__).parents[2] / "results"
FIELDS = {
  "environment", "method", "observation", "seed", "steps", "episodes", "success_rate", "interval",
  "success_at_end_rate", "run_dir",
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
  root = tmp_path / "runs"
  runs.write_run(root / "cog_0", "cog", "place_in_tray", 90, seed=0, filmed=True)
  runs.write_run(root / "cog_1", "cog", "place_in_tray", 70, seed=1, monitored=(0.3, 0.6))
  runs.write_run(root / "deep" / "bc", "bc", "place_in_tray", 2, greedy_successes=1)
  runs.write_run(root / "image", "cog", "place_in_tray", 10, observation="image")
  return root


def test_an_ablation_is_in_no_cell(root, write):
  before = write()
  runs.write_run(root / "state" / "ablations" / "paper" / "seed_0", "cog", "place_in_tray", 0)
  runs.write_stitching(root / "ablations" / "stitching")
  assert section(write(), "table") == section(before, "table")
  assert 'href="#stitching"' not in write()


def test_a_run_that_was_set_aside_in_a_grid_is_in_no_cell(root, write):
  before = write()
  aside = root / "state" / "place_in_tray" / "cog" / "seed_0_old"
  runs.write_run(aside, "cog", "place_in_tray", 0)
  runs.write_fine_tuning(aside, "place_in_tray", [0.1])
  assert write() == before


@pytest.fixture
def write(root, tmp_path):
  """Writes the report of `root` and returns its page."""

  def write():
    report.write(root, tmp_path / "out" / "page.html")
    return (tmp_path / "out" / "page.html").read_text()

  return write


def section(page, name):
  found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
  return html.unescape(found[1]) if found else ""


def cell(page, method):
  """Text of the last row of Table 1 from state observations, in the column of a method."""
  table = section(page, "table").split("simulator’s state")[1]
  columns = re.findall(r'<th scope="col">(.*?)</th>', table)
  cells = re.findall(r"<td>(?=<span)(.*?)</td>", table, re.DOTALL)
  text = dict(zip(columns, cells[-len(columns) :], strict=True))[experiments.METHODS[method].title]
  return " ".join(re.sub("<[^>]*>", " ", text).split())


def test_report_json_has_one_entry_of_the_schema_for_each_evaluation(root, write, tmp_path):
  write()
  rows = json.loads((tmp_path / "out" / "report.json").read_text())
  assert len(rows) == 4
  by_run = {row["run_dir"]: row for row in rows}
  assert by_run[str(root / "deep" / "bc")].pop("greedy_success_rate") == 0.01
  assert all(row.keys() == FIELDS for row in rows)
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


def test_the_page_needs_no_other_file(write):
  page = write()
  sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
  links = [source for source in sources if not source.startswith(("data:", "#"))]
  assert not links
  assert "url(" not in re.sub(r"url\(#\w+\)", "", page)
  assert not re.search(r"\$\w", page)


def test_sections_without_content_are_left_out(write):
  page = write()
  links = re.findall('<a href="#(.*?)"', page)
  assert links == re.findall('<section id="(.*?)"', page)
  assert links == ["table", "curves", "videos", "data", "runs"]


def test_sections_have_the_order_of_the_issue(root, write):
  runs.write_fine_tuning(root / "cog_0", "place_in_tray", [0.8, 0.95])
  runs.write_stitching(root / "stitching")
  sections = re.findall('<section id="(.*?)"', write())
  assert sections == ["table", "curves", "finetuning", "videos", "data", "stitching", "runs"]


# 160 of 200 episodes: Wilson's interval by hand is [0.739, 0.850], and the paper has 0.96.
def test_a_cell_pools_its_seeds_and_stands_beside_the_papers_figure(write):
  text = cell(write(), "cog")
  assert text.startswith("0.80 [0.74, 0.85] paper 0.96 ▲ above 2 seeds")
  assert "seed 0: 0.90 of 100" in text and "seed 1: 0.70 of 100" in text


def test_a_cell_of_runs_with_other_hyperparameters_or_data_says_so(root, write):
  assert "differ" not in cell(write(), "cog")
  runs.write_run(root / "cog_2", "cog", "place_in_tray", 80, seed=2, gamma=0.99)
  assert "runs differ in gamma 3 seeds" in cell(write(), "cog")
  other = (runs.PRIOR, "task/2.0.0")
  runs.write_run(root / "cog_3", "cog", "place_in_tray", 80, seed=3, datasets=other)
  assert "runs differ in datasets, gamma 4 seeds" in cell(write(), "cog")


# 2 of 100: [0.006, 0.070] by hand; the paper has 0.02.
def test_a_cloned_policy_has_its_greedy_rate_beside_the_stochastic_one(write):
  assert cell(write(), "bc").startswith("0.02 [0.01, 0.07] paper 0.02 ● within greedy 0.01 1 seed")


def test_a_figure_of_the_paper_may_lie_below_ours(root, write):
  runs.write_run(root / "no_prior", "no_prior", "place_in_tray", 40)
  assert "paper 0.00 ▼ below" in cell(write(), "no_prior")


@pytest.mark.parametrize(
  ("figure", "place"),
  [(0.96, "above"), (0.86, "above"), (0.85, "within"), (0.74, "within"), (0.73, "below")],
)
def test_a_figure_of_two_decimals_is_compared_as_what_rounds_to_it(figure, place):
  assert report_data.standing(figure, (0.739, 0.8501)) == place


def test_a_run_that_diverged_is_shown_with_its_step(root, write):
  runs.write_run(root / "sac_0", "sac", "place_in_tray", diverged_at=1250)
  page = write()
  text = cell(page, "sac")
  assert text.startswith("diverged at step 1,250 paper: diverged")
  assert "critic_loss: &lt;NaN&gt;" in page and "<NaN>" not in page
  assert "diverged" in report.table(report_data.load(root))


def test_a_method_of_which_some_seeds_diverged_shows_both(root, write):
  runs.write_run(root / "sac_0", "sac", "place_in_tray", 3)
  runs.write_run(root / "sac_1", "sac", "place_in_tray", seed=1, diverged_at=50)
  text = cell(write(), "sac")
  assert text.startswith("0.03 ") and "1 run diverged at step 50" in text and "2 seeds" in text
  assert "0.03 [0.01, 0.08], 1 diverged" in report.table(report_data.load(root))


def test_a_run_that_was_evaluated_before_it_diverged_has_only_diverged(root, write):
  runs.write_run(root / "sac_0", "sac", "place_in_tray", 3, diverged_at=50)
  assert cell(write(), "sac").startswith("diverged at step 50")


def test_a_run_that_diverged_counts_in_every_condition_that_it_is_for(tmp_path):
  runs.write_run(tmp_path / "sac", "sac", "drawer_closed", diverged_at=50)
  runs.write_run(tmp_path / "no_prior", "no_prior", "drawer_open", diverged_at=50)
  cells = report_data.cells(report_data.load(tmp_path).runs)
  drawers = ["drawer_open", "drawer_closed", "drawer_blocked_1", "drawer_blocked_2"]
  assert [key[1] for key in cells if key[2] == "sac"] == drawers[:2]
  assert [key[1] for key in cells if key[2] == "no_prior"] == drawers


@pytest.mark.parametrize("cloning_first", [True, False])
def test_rows_of_runs_have_their_values_under_their_names(cloning_first):
  rows = [{"seed": 1, "greedy_success_rate": 0.5, "run_dir": "a"}, {"seed": 2, "run_dir": "b"}]
  page = report_page.runs_list(rows if cloning_first else rows[::-1])
  head = re.findall("<th[^>]*>(.*?)</th>", page)
  found = [
    dict(zip(head, re.findall("<td>(.*?)</td>", row), strict=True))
    for row in re.findall("<tr>(<td>.*?)</tr>", page)
  ]
  assert {row["run dir"]: row["greedy success rate"] for row in found} == {"a": "0.500", "b": ""}


def test_a_fine_tuning_that_was_set_aside_is_not_shown(root):
  runs.write_fine_tuning(root / "cog_0", "place_in_tray", [0.5, 0.9])
  runs.write_fine_tuning(root / "cog_0", "place_in_tray_old", [0.1])
  runs.write_fine_tuning(root / "cog_1", "place_in_tray", [0.1])
  shutil.move(root / "cog_1" / "finetune" / "place_in_tray", root / "cog_1" / "old")
  report.write(root, root / "report.html")
  contents = report_data.load(root)
  assert [tuned.path for tuned in contents.fine_tunings] == [root / "cog_0/finetune/place_in_tray"]
  paths = [run.path for run in contents.runs]
  assert root / "cog_1" in paths and root / "cog_1" / "old" not in paths


def test_the_fine_tuning_of_an_ablation_is_in_no_curve(root):
  runs.write_run(root / "ablations" / "alpha_10", "cog", "place_in_tray", 1)
  runs.write_fine_tuning(root / "ablations" / "alpha_10", "place_in_tray", [0.1])
  assert not report_data.load(root).fine_tunings


@pytest.mark.parametrize("value, shown", [(300.0, False), (-2.5e5, True), (400.0, True)])
def test_values_beyond_any_return_are_told(value, shown, root, write):
  # No return exceeds 1 / (1 - 0.97) = 33.
  runs.write_run(root / "exploded", "sac", "place_in_tray", 0, q_data=value)
  assert (f"values diverged: Q {value:.1e}" in write()) == shown


def test_runs_that_only_diverged_make_a_report(tmp_path):
  runs.write_run(tmp_path / "sac", "sac", "place_in_tray", diverged_at=50)
  report.write(tmp_path, tmp_path / "report.html")
  assert json.loads((tmp_path / "report.json").read_text()) == []


def test_learning_curves_have_a_panel_for_each_condition_and_a_line_for_each_method(root, write):
  runs.write_run(root / "held", "cog", "place_in_tray_held", 99)
  shown = section(write(), "curves").split("<details>")[0]
  assert shown.count("<svg") == 3  # image; state: two conditions
  assert "COG (2 seeds)" in shown and "BC all (1 seed)" in shown


def test_a_line_is_the_mean_over_seeds_and_its_band_their_range(root):
  panels = report_page.learning_panels(report_data.load(root))
  (line,) = (line for line in panels[1].lines if line.label == "COG (2 seeds)")
  assert line.x.tolist() == [10, 20]
  assert line.y == pytest.approx([0.2, 0.4])  # of 0.1, 0.2 and 0.3, 0.6
  assert line.band[0].tolist() == [0.1, 0.2] and line.band[1].tolist() == [0.3, 0.6]


def test_figures_use_the_colours_of_the_page(write):
  page = write()
  assert "var(--cog)" in section(page, "curves")
  assert not re.search("stroke: #[0-9a-f]", section(page, "curves"))


def test_fine_tunings_have_a_section_of_their_own_and_no_place_in_table_1(root, write, tmp_path):
  before = write()
  rows = json.loads((tmp_path / "out" / "report.json").read_text())
  runs.write_fine_tuning(root / "cog_0", "drawer_closed", [0.5, 0.92, 0.88], successes=93)
  runs.write_fine_tuning(root / "deep" / "bc", "drawer_closed", [0.0, 0.1, 0.3])
  page = write()
  assert json.loads((tmp_path / "out" / "report.json").read_text()) == rows
  assert section(page, "table") == section(before, "table")
  shown = section(page, "finetuning")
  assert shown.count("<svg") == 1
  assert "COG (1 seed)" in shown and "BC + SAC (1 seed)" in shown
  assert "COG, seed 0: above 0.90 first after 200 new episodes; afterwards 0.93" in shown
  assert "BC + SAC, seed 0: above 0.90 never" in shown


def test_the_best_run_of_a_condition_is_filmed(root, write):
  runs.write_run(root / "cog_2", "cog", "place_in_tray", 95, seed=2, filmed=True)
  shown = section(write(), "videos")
  assert shown.count("<video") == 1
  assert "seed 2, which succeeds in 0.95 of 100 episodes" in shown


def test_data_are_shown_by_what_was_drawn(root, write):
  runs.write_stitching(root / "stitching")
  shown = section(write(), "data")
  assert "BC all, COG" in shown
  assert re.search(rf"{runs.PRIOR}</td>.*?75 %.*?12,345</td>", shown)
  assert re.search(rf"{runs.TASK}</td>.*?25 %.*?150</td>", shown)


def test_a_stitching_analysis_is_enough_for_a_report(tmp_path):
  runs.write_stitching(tmp_path / "runs", verdict="weakly connected", prior="<i>prior</i>")
  report.write(tmp_path / "runs", tmp_path / "report.html")
  page = (tmp_path / "report.html").read_text()
  assert '<span class="verdict weakly">weakly connected</span>' in page
  assert "<i>prior" not in page and "&lt;i&gt;prior&lt;/i&gt;" in page
  assert section(page, "stitching").count("<svg") == 2
  assert report.table(report_data.load(tmp_path / "runs")) == "No run has been evaluated."


def test_values_that_an_agent_has_learned_are_a_panel(root, write):
  values = {"prior_start": [0, 1, 2], "connection": [], "task_start": [3, 4, 5], "steps": 20}
  runs.write_stitching(root / "stitching", values=values)
  shown = section(write(), "stitching")
  assert shown.count("<svg") == 3
  assert "where it connects" not in shown  # there is no such state


def test_figures_are_written_as_png_beside_the_page(root, tmp_path):
  runs.write_fine_tuning(root / "cog_0", "place_in_tray", [0.8, 0.95])
  runs.write_stitching(root / "stitching")
  _, written = report.write(root, tmp_path / "my_page.html")
  names = ["learning_curves", "finetuning", "stitching"]
  assert [path.name for path in written[2:]] == [f"my_page_{name}.png" for name in names]
  for path in written[2:]:
    assert imageio.imread(path).std() > 0


def test_the_text_table_pools_seeds_and_shows_the_papers_figures(root):
  text = report.table(report_data.load(root))
  ours, paper = (line for line in text.splitlines()[3:5])
  assert re.search(r"place_in_tray, state +ours +0\.02 \[.*\] +0\.80 \[0\.74, 0\.85\]", ours)
  assert re.search(r"paper +0\.02 +0\.96", paper)
  assert "place_in_tray, image" in text


def test_every_row_and_method_of_the_paper_can_be_reported(tmp_path):
  for method, environment in itertools.product(experiments.METHODS, experiments.ROWS):
    runs.write_run(tmp_path / method / environment, method, environment, 50)
  contents, _ = report.write(tmp_path, tmp_path / "report.html")
  page, text = (tmp_path / "report.html").read_text(), report.table(contents)
  for environment in experiments.ROWS:
    assert environment in page and environment in text
  titles = [experiments.METHODS[method].title for method in experiments.PAPER_METHODS]
  assert re.findall('<th scope="col">(.*?)</th>', section(page, "table")) == titles
  assert text.splitlines()[0].split() == " ".join(titles).split()


def test_a_line_that_a_killed_run_left_unfinished_is_skipped(root, write):
  with (root / "cog_0" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 30, "succ')
  assert section(write(), "curves")


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(report_data.ReportError, match=f"{tmp_path / 'nowhere'} is no folder"):
    report.write(tmp_path / "nowhere", tmp_path / "report.html")


def test_a_folder_without_runs_is_named(tmp_path):
  with pytest.raises(report_data.ReportError, match=f"no run .* below {tmp_path}"):
    report.write(tmp_path, tmp_path / "report.html")


def test_runs_that_were_not_evaluated_are_counted(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  with pytest.raises(report_data.ReportError, match="none of the 1 runs .* evaluate_main"):
    report.write(tmp_path, tmp_path / "report.html")


def entry_of_a_table(environment, method, seed, **rest):
  """As reproduce_main writes it; `rest` with what the run's end adds or replaces."""
  run_dir = f"runs/table_1/state/place_in_tray/{method}/seed_{seed}"
  train = (
    "python -m cog_agents.train_main --prior=cog_pickplace_prior --task=cog_pickplace_task"
    f" --environment=place_in_tray --method={method} --observation=state --preset=FAST"
    f" '--override=conv_filters=[4, 4]' --override=n_step=1 --seed={seed} --run_dir={run_dir}"
  )
  return {
    "environment": environment, "method": method, "observation": "state", "seed": seed,
    "steps": 20, "run_dir": run_dir, "command": [train, "python -m cog_agents.evaluate_main"],
    "learning_curve": [{"step": 10, "success_rate": 0.1}, {"step": 20, "success_rate": 0.3}],
    **rest,
  }  # fmt: skip


def outcome(successes):
  return {
    "episodes": 100,
    "success_rate": successes / 100,
    "interval": [0.0, 1.0],
    "success_at_end_rate": successes / 100,
  }


@pytest.fixture
def tables(tmp_path):
  """A folder with the tables of runs that are gone."""
  folder = tmp_path / "tables"
  folder.mkdir()
  cog = entry_of_a_table("place_in_tray", "cog", 0, **outcome(90))
  table_1 = [
    cog,
    entry_of_a_table("place_in_tray_held", "cog", 0, **outcome(100)),
    entry_of_a_table("place_in_tray", "cog", 1, **outcome(70)),
    entry_of_a_table("place_in_tray", "bc", 0, greedy_success_rate=0.01, **outcome(2)),
    entry_of_a_table("place_in_tray", "sac", 0, diverged="critic_loss is inf or nan"),
    entry_of_a_table("place_in_tray", "sac", 1, diverged_value=1e6, **outcome(0)),
  ]
  tuned = {
    **cog,
    **outcome(95),
    "method": "cog_finetuned",
    "run_dir": f"{cog['run_dir']}/finetune/place_in_tray",
    "fine_tuning_curve": [
      {"episodes": 0, "success_rate": 0.8},
      {"episodes": 10, "success_rate": 1.0},
    ],
  }
  (folder / "table_1_state.json").write_text(json.dumps(table_1))
  (folder / "table_finetuning_state.json").write_text(json.dumps([cog, tuned]))
  (folder / "table_ablations_state.json").write_text(json.dumps([{**cog, "seed": 2}]))
  return folder


def test_the_tables_of_runs_that_are_gone_make_the_same_report(tables, tmp_path):
  _, written = report.write(tables, tmp_path / "out" / "page.html")
  page = written[0].read_text()
  assert "0.80" in cell(page, "cog") and "2 seeds" in cell(page, "cog")
  assert "greedy 0.01" in cell(page, "bc")
  assert "diverged at step 20" in cell(page, "sac")
  assert "values diverged: Q 1.0e+06" in cell(page, "sac")
  assert "first after 10 new episodes; afterwards 0.95" in section(page, "finetuning")
  assert {path.name for path in written} == {
    "page.html", "report.json", "page_learning_curves.png", "page_finetuning.png",
  }  # fmt: skip
  assert len(json.loads(written[1].read_text())) == 5  # one for each evaluation of Table 1


def test_runs_from_other_settings_are_told_apart_in_tables_too(tables):
  table = tables / "table_1_state.json"
  entries = json.loads(table.read_text())
  entries[2]["command"][0] = entries[2]["command"][0].replace("n_step=1", "n_step=3")
  table.write_text(json.dumps(entries))
  cells = report_data.cells(report_data.load(tables).runs)
  assert cells["state", "place_in_tray", "cog"].differences == ["flags"]
  assert not cells["state", "place_in_tray", "bc"].differences


def test_a_run_that_was_trained_by_hand_is_in_the_report_of_its_table(tables):
  table = tables / "table_1_state.json"
  entries = json.loads(table.read_text())
  del entries[2]["command"][0]
  table.write_text(json.dumps(entries))
  cells = report_data.cells(report_data.load(tables).runs)
  assert cells["state", "place_in_tray", "cog"].seeds == {0, 1}


def test_what_was_trained_by_hand_is_known_by_its_folder(tables):
  for name in ("table_1_state.json", "table_finetuning_state.json"):
    entries = json.loads((tables / name).read_text())
    for entry in entries:
      del entry["command"][0]
    (tables / name).write_text(json.dumps(entries[1:]))  # first, by name, the training condition
  contents = report_data.load(tables)
  assert {(run.config["method"], run.config["environment"]) for run in contents.runs} == {
    (method, "place_in_tray") for method in ("cog", "bc", "sac")
  }
  (tuned,) = contents.fine_tunings
  assert (tuned.config["method"], tuned.config["environment"]) == ("cog", "place_in_tray")


def test_a_table_without_a_finished_run_is_nothing_to_report(tmp_path):
  (tmp_path / "table_1_state.json").write_text("[]")
  with pytest.raises(report_data.ReportError, match="no table of reproduce_main .* has one"):
    report_data.load(tmp_path)


def test_where_there_are_runs_the_tables_beside_them_are_not_read(tables):
  runs.write_run(tables / "run", "cog", "place_in_tray", 10)
  assert [run.path for run in report_data.load(tables).runs] == [tables / "run"]


@pytest.mark.parametrize("observation", config.OBSERVATIONS)
def test_the_published_results_are_a_report(observation):
  entries = json.loads((RESULTS / f"table_1_{observation}.json").read_text())
  cells = report_data.cells(report_data.load(RESULTS).runs)
  for key in {(e["observation"], e["environment"], e["method"]) for e in entries}:
    members = [e for e in entries if key[1:] == (e["environment"], e["method"])]
    rates = {e["seed"]: e["success_rate"] for e in members}
    shown = {x["seed"]: x["success_rate"] for _, x in cells[key].trials}
    assert shown == rates and not cells[key].differences
