import contextlib
import dataclasses
import functools
import html
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from cog_agents import finetune_main, grid, reproduce, reproduce_main, run_dirs, train_main
from tests import fakes
from tests.cog_agents.grid_runs import RECIPE, ROWS, RUN, complete_run, write_run

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = f"""
from cog_agents import grid, reproduce_main
grid.RECIPES = dict.fromkeys(grid.RECIPES, {RECIPE})
raise SystemExit(reproduce_main.main())
"""
FAILING_SCRIPT = f"""
from cog_agents import reproduce
def execute(*_):
  raise reproduce.ReproduceError("a run failed")
reproduce.execute = execute
{SCRIPT}
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  fakes.write_dataset(data_dir, "cog_pickplace_prior", num_episodes=6)
  fakes.write_dataset(data_dir, "cog_pickplace_task", num_episodes=4, rewarded=True)
  return str(data_dir)


def command(tmp_path, data_dir, *flags, script=SCRIPT):
  return [
    *(sys.executable, "-c", script, f"--root_dir={tmp_path}/runs", f"--data_dir={data_dir}"),
    *("--rows=place_in_tray", "--methods=cog", "--episodes=2", *flags),
  ]


@pytest.mark.parametrize(
  ("rates", "expected"),
  [
    ([], False),
    ([1.0, 1.0, 1.0], False),  # no quarter yet
    ([0.0, 0.0, 0.0, 0.0], True),  # there is nothing that it learns
    ([0.0, 0.2, 0.6, 0.65], True),
    ([0.0, 0.2, 0.6, 0.75], False),
    ([0.0, 0.2, 0.9, 0.5], True),  # falling is not growing
    ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.3], False),
  ],
)
def test_a_run_has_converged_when_its_last_quarter_is_hardly_better_than_the_one_before(
  rates, expected
):
  metrics = [{"step": i, "success_rate": rate} for i, rate in enumerate(rates)]
  assert reproduce.converged([{"step": 0, "loss": 1.0}, *metrics]) == expected


@pytest.mark.parametrize(
  ("left", "step", "steps", "missing"),
  [
    ({"rates": []}, 0, 1_000, None),
    ({"rates": [0.0]}, 250, 1_000, None),
    ({"rates": [0.0] * 4}, 1_000, 1_000, None),  # killed before the export
    ({"rates": [0.0] * 4, "exported": 1_000}, 1_000, 1_000, ROWS),
    ({"rates": [0.0] * 4, "exported": 1_000, "evaluated": ROWS[:1]}, 1_000, 1_000, ROWS[1:]),
    ({"rates": [0.0] * 4, "exported": 1_000, "evaluated": ROWS}, 1_000, 1_000, ()),
    ({"rates": [0.0, 0.0, 0.0, 0.5], "exported": 1_000}, 1_000, 1_500, None),
    # In the extension nothing has converged that had not at the export.
    ({"rates": [0.0, 0.0, 0.0, 0.5, 0.5], "exported": 1_000}, 1_250, 1_500, None),
    # By an older recipe, or by hand.
    ({"rates": [0.0] * 4, "every": 750, "exported": 3_000}, 3_000, 3_000, ROWS),
    # The last extension allowed.
    ({"rates": [0.0, 0.0, 0.0, 0.5], "every": 500, "exported": 2_000}, 2_000, 2_000, ROWS),
  ],
)
def test_the_status_is_read_from_what_a_run_has_left(left, step, steps, missing, tmp_path):
  place = reproduce.Place(tmp_path, episodes=2)
  write_run(tmp_path / RUN.name, **left)
  now = reproduce.status(RUN, place)
  assert (now.step, now.steps) == (step, steps)
  assert now.is_trained == (missing is not None)
  assert now.missing == (ROWS if missing is None else missing)
  assert now.is_done == (missing == ())


def test_what_is_left_but_evaluations_needs_no_data(tmp_path):
  place = reproduce.Place(tmp_path, data_dir=str(tmp_path / "none"), episodes=2)
  assert reproduce.missing_datasets([RUN], place) == list(RUN.datasets)
  write_run(tmp_path / RUN.name, [0.0] * 4, exported=1_000)
  assert reproduce.missing_datasets([RUN], place) == []


def test_an_evaluation_of_fewer_episodes_or_another_step_does_not_count(tmp_path):
  write_run(tmp_path / RUN.name, [0.0] * 4, exported=1_000, evaluated=ROWS)
  assert reproduce.status(RUN, reproduce.Place(tmp_path, episodes=2)).is_done
  assert reproduce.status(RUN, reproduce.Place(tmp_path, episodes=3)).missing == ROWS


def test_the_estimate_is_of_the_speeds_met_so_far(tmp_path):
  place = reproduce.Place(tmp_path, episodes=2)
  now = reproduce.status(RUN, place)
  assert reproduce.seconds_left(RUN, now, place) == pytest.approx(1_000 / 100 + 2 * 2 * 0.3)
  write_run(tmp_path / RUN.name, [0.0] * 4, exported=1_000, evaluated=ROWS[:1])
  now = reproduce.status(RUN, place)
  assert reproduce.seconds_left(RUN, now, place) == pytest.approx(2 * 0.3)
  other = now.__class__(500, 1_000, False, None, ROWS)
  assert reproduce.seconds_left(RUN, other, place) == pytest.approx(500 / 50 + 2 * 10.0)


def test_a_row_without_a_speed_does_not_matter_to_the_estimate(tmp_path):
  write_run(tmp_path / RUN.name, [0.0])
  with (tmp_path / RUN.name / "metrics.jsonl").open("a") as file:
    file.write('{"step": 500, "success_rate": 0.0}\n')  # as after an evaluation that was lost
  place = reproduce.Place(tmp_path, episodes=2)
  now = reproduce.status(RUN, place)
  assert reproduce.seconds_left(RUN, now, place) == pytest.approx(500 / 50 + 2 * 2 * 0.3)


def test_fine_tuning_comes_after_the_evaluations(tmp_path):
  run = dataclasses.replace(RUN, new_episodes=20)
  place = reproduce.Place(tmp_path, episodes=2)
  write_run(tmp_path / RUN.name, [0.0] * 4, exported=1_000, evaluated=ROWS)
  assert reproduce.status(RUN, place).is_done
  now = reproduce.status(run, place)
  assert now.new_episodes == 20 and not now.is_done
  # Two rounds of 10 new and 20 monitoring episodes, and 100 steps each.
  seconds = 200 / 50 + 60 * 0.3
  assert reproduce.seconds_left(run, now, place) == pytest.approx(seconds)
  folder = tmp_path / RUN.name / "finetune" / "place_in_tray"
  folder.mkdir(parents=True)
  (folder / "metrics.jsonl").write_text('{"step": 1, "episodes": 10}\n')
  assert reproduce.status(run, place).new_episodes == 10
  (folder / "metrics.jsonl").write_text('{"step": 1, "episodes": 20}\n')
  assert reproduce.status(run, place).new_episodes == 1  # the evaluation
  (folder / "evaluations").mkdir()
  (folder / "policies" / "000001000").mkdir(parents=True)
  evaluation = folder / "evaluations" / "place_in_tray.json"
  evaluation.write_text('{"steps": 1000, "episodes": 1}')
  assert reproduce.status(run, place).new_episodes == 1  # of too few trials
  evaluation.write_text('{"steps": 1000, "episodes": 2}')
  assert reproduce.status(run, place).is_done


def test_a_run_of_other_settings_than_todays_says_so(tmp_path):
  folder = tmp_path / RUN.name
  write_run(folder, [0.0] * 4, exported=1_000, evaluated=ROWS)
  today = dataclasses.asdict(train_main.agent_config_of([*RUN.train_flags(1), "--run_dir=x"]))
  (folder / "config.json").write_text(json.dumps({"agent": today}))
  place = reproduce.Place(tmp_path, episodes=2)
  assert reproduce.plan([RUN], place).splitlines()[0].endswith("done, 1000 steps")
  (folder / "config.json").write_text(json.dumps({"agent": {**today, "gamma": 0.5}}))
  line = reproduce.plan([RUN], place).splitlines()[0]
  assert line.endswith("done, 1000 steps; settings have changed since: gamma: 0.5 → 0.97")


def test_a_run_that_diverged_is_done(tmp_path):
  write_run(tmp_path / RUN.name, [0.0])
  (tmp_path / RUN.name / "diverged.json").write_text('{"step": 300, "message": "critic is nan"}')
  now = reproduce.status(RUN, reproduce.Place(tmp_path))
  assert now.is_done and now.diverged == "critic is nan"
  text = reproduce.plan([RUN], reproduce.Place(tmp_path))
  assert "diverged: critic is nan" in text and "to be built" not in text


def test_the_plan_says_what_is_left_and_which_datasets_are_missing(tmp_path, monkeypatch):
  monkeypatch.setattr(reproduce.os, "cpu_count", lambda: 4)
  lines = reproduce.plan([RUN], reproduce.Place(tmp_path, data_dir=str(tmp_path))).splitlines()
  assert lines[0].split() == f"{RUN.name} 0 of 1000 steps, 2 to evaluate, 3 min".split()
  assert [line.split()[0] for line in lines[1:3]] == list(RUN.datasets)
  minutes = [grid.BUILD_CORE_MINUTES[name] / 4 for name in RUN.datasets]
  assert [line.split(maxsplit=1)[1] for line in lines[1:3]] == [
    f"to be built, {round(x)} min" for x in minutes
  ]
  assert lines[3] == f"{round(2.6 + sum(minutes))} min left with 1 runs side by side"


def test_a_killed_grid_goes_on_and_ends_with_results_and_a_report(tmp_path, data_dir):
  run_dir = tmp_path / "runs" / RUN.name
  process = subprocess.Popen(command(tmp_path, data_dir), cwd=ROOT)
  while process.poll() is None and not (run_dir / "checkpoints").exists():
    time.sleep(0.05)
  process.kill()  # its training goes on without it
  process.wait()

  done = subprocess.run(
    command(tmp_path, data_dir), cwd=ROOT, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stderr
  assert "place_in_tray, state" in done.stdout  # the table
  log = (run_dir / "log.txt").read_text()
  # The training that had begun was waited for; two points are too few to have converged.
  assert [log.count(f"--steps={steps} ") for steps in (1_000, 1_500, 2_000)] == [1, 1, 1]
  (entry,) = json.loads((tmp_path / "runs" / "table_1_state.json").read_text())
  assert entry["environment"] == "place_in_tray" and entry["episodes"] == 2
  assert entry["wall_clock_seconds"] > 0 and "cores" in entry["machine"]
  assert entry["commands_without_time"] == 1  # nobody waited for the first training
  assert "--steps=1000 " in entry["command"][0]
  verdict = json.loads(
    next((tmp_path / "runs/stitching").glob("cog_pickplace_prior-*/stitching.json")).read_text()
  )
  assert f"cog_pickplace_prior and cog_pickplace_task: {verdict['verdict']}" in done.stdout
  page = (tmp_path / "runs" / "report.html").read_text()
  assert html.escape(verdict["sentence"]) in page
  assert verdict["values"]["run_dir"] == str(run_dir)
  assert "Value that the agent gives after 2,000 steps" in page
  assert "evaluate_main" in entry["command"][-1]
  assert [point["step"] for point in entry["learning_curve"]] == [500, 1_000, 1_500, 2_000]
  assert (tmp_path / "runs" / "report.html").exists()

  again = subprocess.run(
    command(tmp_path, data_dir, "--plan"), cwd=ROOT, capture_output=True, text=True
  )
  assert f"{RUN.name} " in again.stdout and "done, 2000 steps" in again.stdout
  assert "0 min left" in again.stdout

  (tmp_path / "runs" / "table_1_state.json").unlink()
  failed = subprocess.run(
    command(tmp_path, data_dir, script=FAILING_SCRIPT), cwd=ROOT, capture_output=True, text=True
  )
  assert failed.returncode == 1 and "a run failed" in failed.stderr
  assert "place_in_tray, state" in failed.stdout  # the table of those that are there
  assert json.loads((tmp_path / "runs" / "table_1_state.json").read_text()) == [entry]


def test_ctrl_c_stops_a_grid_with_checkpoints(tmp_path, data_dir):
  run_dir = tmp_path / "runs" / RUN.name
  steps = 1_000_000  # for hours
  process = subprocess.Popen(
    command(tmp_path, data_dir, script=SCRIPT.replace("1_000, 500", f"{steps}, 500")),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    # A shell that starts these tests in the background has Ctrl-C ignored.
    preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
  )
  commands = set()
  try:
    while process.poll() is None and not run_dirs.read_metrics(run_dir):
      commands |= children(process.pid)
      time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
  finally:
    process.kill()
    for pid in commands:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
  assert commands  # or what a failure leaves would go on
  assert process.returncode == 130
  assert b"Stopped; the same command goes on." in output
  assert list((run_dir / "checkpoints").glob("*.index"))
  assert run_dirs.read_metrics(run_dir)[-1]["step"] < steps


def test_ctrl_c_while_a_dataset_is_built_ends_the_build(tmp_path):
  log = tmp_path / "runs" / "builds" / "cog_pickplace_prior" / "log.txt"
  process = subprocess.Popen(
    command(tmp_path, tmp_path / "data"),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
  )
  while process.poll() is None and not (log.exists() and "Recording" in log.read_text()):
    time.sleep(0.05)
  (build,) = children(process.pid)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 130
  assert b"Stopped; the same command goes on." in output
  for _ in range(300):
    if not running(session=build):
      return
    time.sleep(0.1)
  raise AssertionError(f"the build has left processes {running(session=build)}")


def children(pid):
  """Processes that the threads of a process have started, if it is still there."""
  found = set()
  for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
    with contextlib.suppress(OSError):  # the thread has just ended
      found |= {int(x) for x in path.read_text().split()}
  return found


def running(session):
  """Processes of a session but for those that have ended and were not waited for."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
    except OSError:  # it has just ended
      continue
    if int(its_session) == session and state != "Z":
      found.append(path.parent.name)
  return found


def test_data_that_cannot_be_analysed_are_trained_on_all_the_same(tmp_path, monkeypatch, capsys):
  fakes.write_dataset(tmp_path / "data", "some_prior")
  fakes.write_dataset(tmp_path / "data", "some_task")  # never rewarded
  run = dataclasses.replace(RUN, prior_data="some_prior", task_data="some_task")
  finished = []
  monkeypatch.setattr(reproduce, "_finish", lambda run, *_: finished.append(run))
  monkeypatch.setattr(reproduce, "_line", lambda run, place: run.name)
  reproduce.execute([run], reproduce.Place(tmp_path / "runs", data_dir=str(tmp_path / "data")))
  assert finished == [run]
  output = capsys.readouterr().out
  assert "some_prior and some_task are not analysed: " in output
  assert "with a reward" in output


def test_a_build_that_fails_stops_only_the_runs_that_need_it(tmp_path, monkeypatch):
  for name in ("some_prior", "some_task"):
    fakes.write_dataset(tmp_path / "data", name, rewarded=True)
  run = dataclasses.replace(RUN, prior_data="some_prior", task_data="some_task")
  other = dataclasses.replace(run, name="state/other/cog/seed_0", prior_data="no_such_dataset")
  finished = []
  monkeypatch.setattr(reproduce, "_finish", lambda run, *_: finished.append(run))
  monkeypatch.setattr(reproduce, "_line", lambda run, place: run.name)
  place = reproduce.Place(tmp_path / "runs", data_dir=str(tmp_path / "data"))
  with pytest.raises(reproduce.ReproduceError, match=r"^failed:\nno_such_dataset, and with it"):
    reproduce.execute([other, run], place)
  assert finished == [run]


def write_analysis(command, **more):
  """Writes what a command of stitching_main is to write, as far as it is read here."""
  (out,) = (flag.removeprefix("--out=") for flag in command if flag.startswith("--out="))
  run_dirs.write_json(pathlib.Path(out), {"verdict": "connected", "sentence": "", **more})


def test_a_version_and_data_of_ablations_have_an_analysis_of_their_own(tmp_path, monkeypatch):
  monkeypatch.setattr(reproduce, "_call", lambda command, *_: write_analysis(command))
  for name in ("some_prior", "some_task"):
    fakes.write_dataset(tmp_path / "data", name)
  place = reproduce.Place(tmp_path, data_dir=str(tmp_path / "data"))
  reproduce.analyse("some_prior", "some_task", place)
  monkeypatch.setitem(grid.CUSTOM_CONFIGS, "some_prior", {})
  reproduce.analyse("some_prior", "some_task", place)
  both = "some_prior-1.0.0-some_task-1.0.0/stitching.json"
  found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("stitching.json")}
  assert found == {f"stitching/{both}", f"ablations/stitching/{both}"}


def test_the_values_of_a_trained_run_are_added_to_the_analysis_once(tmp_path, monkeypatch):
  flags = []  # --run_dir of each analysis

  def call(command, *_):
    flags.append([flag for flag in command if flag.startswith("--run_dir=")])
    values = {"values": {}} if flags[-1] else {}
    write_analysis(command, **values)

  monkeypatch.setattr(reproduce, "_call", call)
  monkeypatch.setattr(reproduce, "_finish", lambda run, *_: None)
  monkeypatch.setattr(reproduce, "_line", lambda run, place: run.name)
  for name in ("some_prior", "some_task"):
    fakes.write_dataset(tmp_path / "data", name)
  data = {"prior_data": "some_prior", "task_data": "some_task"}
  runs = [
    dataclasses.replace(RUN, name=f"state/{name}", method=method, **data)
    for name, method in (
      ("ablations/alpha_10/seed_0", "cog"),
      ("x/bc/seed_0", "bc"),
      ("x/cog/seed_0", "cog"),
      ("x/cog/seed_1", "cog"),
    )
  ]
  place = reproduce.Place(tmp_path, data_dir=str(tmp_path / "data"))
  reproduce.execute(runs, place)  # none is trained
  assert flags == [[]]
  for run in runs:
    write_run(tmp_path / run.name, [0.0] * 4, exported=1_000, evaluated=ROWS)
  for _ in range(2):
    reproduce.execute(runs, place)
  assert flags == [[], [f"--run_dir={tmp_path}/state/x/cog/seed_0"]]


@pytest.mark.parametrize(
  ("count", "allowed", "jobs", "expected"),
  [
    (0, None, 2, [{}, {}]),
    (0, "", 2, [{}, {}]),
    (2, None, 2, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
    (2, "3,5", 2, [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]),
    (1, "3", 1, [{"CUDA_VISIBLE_DEVICES": "3"}]),
    (1, "3", 2, [{"CUDA_VISIBLE_DEVICES": "3", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}] * 2),
  ],
)
def test_jobs_share_the_gpus(tmp_path, monkeypatch, count, allowed, jobs, expected):
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  if allowed is not None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
  monkeypatch.setattr(reproduce.tf.config, "list_physical_devices", lambda kind: [kind] * count)
  found = []
  together = threading.Barrier(jobs, timeout=60)  # no run ends before as many as jobs have begun

  def finish(run, place, stopped, environment):
    together.wait()
    found.append(environment)

  monkeypatch.setattr(reproduce, "_finish", finish)
  monkeypatch.setattr(reproduce, "_line", lambda run, place: run.name)
  run = dataclasses.replace(RUN, environments=(), prior_data=None)
  write_run(tmp_path / run.name, [0.0] * 4, exported=1_000)  # nothing to build or analyse
  reproduce.execute([run] * 2 * jobs, reproduce.Place(tmp_path, jobs=jobs))
  assert sorted(found, key=str) == sorted(expected * 2, key=str)


def test_the_command_of_a_fine_tuning_is_one_that_finetune_main_takes(tmp_path):
  run = dataclasses.replace(RUN, new_episodes=20)
  command = reproduce._finetune_command(run, reproduce.Place(tmp_path, episodes=2))
  assert command[1:3] == ["-m", "cog_agents.finetune_main"]
  args = finetune_main._parser().parse_args(command[3:])
  assert (args.environment, args.episodes, args.evaluation_episodes) == ("place_in_tray", 20, 2)
  assert args.steps_per_round == 100


def test_a_failing_command_is_shown_with_the_end_of_its_output(tmp_path, data_dir):
  broken = tmp_path / "runs" / RUN.name
  broken.mkdir(parents=True)
  (broken / "config.json").write_text('{"steps": 1, "method": "td3"}')
  done = subprocess.run(
    command(tmp_path, data_dir), cwd=ROOT, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 1
  assert "exited with 2" in done.stderr and "holds a run with another configuration" in done.stderr
  (entry,) = json.loads((broken / reproduce.RECORD).read_text())
  assert entry["wall_clock_seconds"] > 0  # it was seen to end


def test_a_run_that_was_set_aside_is_of_no_table(tmp_path):
  for name in ("seed_1", "seed_0_old"):
    (tmp_path / RUN.name).with_name(name).mkdir(parents=True)
  runs = reproduce_main._whole_table("1", "state", tmp_path)
  assert {run.seed for run in runs} == {1}


def test_a_call_with_more_trials_keeps_the_runs_with_fewer(tmp_path, monkeypatch):
  (run,) = grid.table_1("state", ["place_in_tray"], ["cog"], [0])
  folder = tmp_path / run.name
  write_run(folder, [0.0] * 4, run.recipe.steps // 4, exported=run.recipe.steps, evaluated=ROWS)
  complete_run(folder, ROWS, datasets=[])
  monkeypatch.setattr(reproduce, "execute", lambda *_: None)
  flags = ["--rows=place_in_tray", "--methods=no_prior", "--episodes=9", f"--root_dir={tmp_path}"]
  assert reproduce_main.main(flags) == 0
  entries = json.loads((tmp_path / "table_1_state.json").read_text())
  assert {(entry["environment"], entry["episodes"]) for entry in entries} == {(x, 2) for x in ROWS}


def test_a_table_is_of_its_methods_alone(capsys):
  flags = ["--root_dir=runs", "--list"]
  assert reproduce_main.main([*flags, "--table=finetuning", "--methods=cog"]) == 0
  commands = capsys.readouterr().out.splitlines()
  assert len(commands) == len(grid.FINE_TUNED_ROWS)
  assert all("/cog/seed_0" in command for command in commands)


def test_the_list_has_a_command_for_each_run_that_does_that_run(capsys):
  flags = ["--table=1", "--observation=state", "--seeds=2", "--root_dir=a b", "--data_dir=d"]
  assert reproduce_main.main([*flags, "--methods=cog", f"--rows={','.join(ROWS)}", "--list"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2 and "'--root_dir=a b'" in lines[0]
  assert lines[1].endswith("--run=state/place_in_tray/cog/seed_1")
  assert reproduce_main.main([*flags, "--list", "--run=state/place_in_tray/cog/seed_1"]) == 0
  assert capsys.readouterr().out.splitlines()[0].endswith("seed_1")


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--rows=kitchen", "unknown row 'kitchen'; known: place_in_tray_held, place_in_tray"),
    ("--methods=td3", "unknown method 'td3'; known: cog, no_prior"),
    ("--table=ablations --methods=bc", "unknown method 'bc'; known: cog"),
    ("--table=finetuning --methods=sac", "unknown method 'sac'; known: cog, bc"),
    ("--run=seed_9", "unknown run 'seed_9'; known: state/place_in_tray/cog/seed_0"),
    ("--table=2", "choose from '1', 'finetuning', 'ablations'"),
  ],
)
def test_a_wrong_name_lists_the_known_ones(flag, message, capsys):
  with pytest.raises(SystemExit, match="2"):
    reproduce_main.main([*flag.split(), "--root_dir=runs"])
  assert message in capsys.readouterr().err
