"""Tests that BUILD states the real imports, and that these point in the direction of the design."""

import ast
import graphlib
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("collection", "cog_datasets", "pipelines", "cog_agents", "benchmarks")
FILES = sorted(
  path.relative_to(ROOT)
  for folder in (*PACKAGES, "tests")
  for path in (ROOT / folder).rglob("*")
  if path.is_file() and "__pycache__" not in path.parts
)
SOURCES = [path for path in FILES if path.suffix == ".py"]

# Package → the packages of this project that it may import. Benchmarks and tests may import any.
ALLOWED = {
  "collection": {"collection"},
  "cog_datasets": {"cog_datasets", "collection"},
  "pipelines": {"pipelines", "cog_datasets", "collection"},
  "cog_agents": {"cog_agents", "collection"},
}
# What a machine that only simulates does without.
NOT_IN_COLLECTION = {
  "apache_beam",
  "rlds",
  "tensorflow",
  "tensorflow_datasets",
  "tensorflow_probability",
  "tf_agents",
}
SIMULATORS = {"pybullet", "pybullet_data", "pybullet_utils"}
CALLERS_OF_A_SIMULATOR = {
  pathlib.Path("collection") / name
  for name in ("drawer_scene.py", "objects.py", "robot.py", "scenes.py")
}


def imported_names(source: pathlib.Path) -> set[tuple[str, ...]]:
  """Returns every imported name, at any depth of the file, as its parts: a.b.c → (a, b, c)."""
  names = set()
  for node in ast.walk(ast.parse((ROOT / source).read_text())):
    if isinstance(node, ast.Import):
      names |= {tuple(alias.name.split(".")) for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{source}:{node.lineno} has a relative import; write the whole name"
      names |= {(*node.module.split("."), alias.name) for alias in node.names}
  return names


def imported_source(name: tuple[str, ...]) -> pathlib.Path | None:
  """Returns the file of this project that an imported name comes from, None if it is elsewhere."""
  while name:
    path = pathlib.Path(*name)
    for source in (path.with_suffix(".py"), path / "__init__.py"):
      if source in SOURCES:
        return source
    name = name[:-1]  # the last part may be a function or a class
  return None


def imported_sources(source: pathlib.Path) -> set[pathlib.Path]:
  return {imported_source(name) for name in imported_names(source)} - {None, source}


def target_name(source: pathlib.Path) -> str:
  return str(source.with_suffix(""))


def expected_rule(source: pathlib.Path) -> str:
  if source.stem.endswith("_test"):
    return "py_test"
  return "py_binary" if source.stem.endswith("_main") else "py_library"


def build_targets() -> dict[str, tuple[str, dict[str, list[str]]]]:
  """Returns name → (rule, its other attributes) of BUILD, whose syntax is Python's."""
  calls = [
    statement.value
    for statement in ast.parse((ROOT / "BUILD").read_text()).body
    if isinstance(statement.value, ast.Call)
  ]
  targets = {}
  for call in calls:
    attributes = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    name = attributes.pop("name")
    assert name not in targets, f"BUILD has two targets {name}"
    targets[name] = (call.func.id, attributes)
  return targets


def expected_stanza(source: pathlib.Path, data: list[str]) -> str:
  """Returns the target of a source file as BUILD should have it."""
  deps = sorted(f":{target_name(dependency)}" for dependency in imported_sources(source))
  lines = [f'    name = "{target_name(source)}",', f'    srcs = ["{source}"],']
  for attribute, values in (("data", sorted(data)), ("deps", deps)):
    if len(values) == 1:
      lines.append(f'    {attribute} = ["{values[0]}"],')
    elif values:
      lines += [f"    {attribute} = [", *(f'        "{value}",' for value in values), "    ],"]
  return "\n".join([f"{expected_rule(source)}(", *lines, ")"])


def stated_stanza(name: str) -> str | None:
  """Returns a target of BUILD in the layout of `expected_stanza`, None if there is none."""
  stanzas = [stanza.strip() for stanza in (ROOT / "BUILD").read_text().split("\n\n")]
  return next((stanza for stanza in stanzas if f'name = "{name}"' in stanza), None)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_build_states_the_imports_of(source):
  name = target_name(source)
  data = build_targets().get(name, ("", {}))[1].get("data", [])
  expected = expected_stanza(source, data)
  assert stated_stanza(name) == expected, f"BUILD should have this target:\n\n{expected}\n"


def test_every_file_belongs_to_one_target():
  owned = [
    file
    for _, attributes in build_targets().values()
    for file in attributes["srcs"] + attributes.get("data", [])
  ]
  assert sorted(owned) == sorted(map(str, FILES)), "BUILD owns the files on the left"


def test_imports_have_no_cycle():
  graph = {source: imported_sources(source) for source in SOURCES}
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which shows the cycle


@pytest.mark.parametrize("source", [s for s in SOURCES if s.parts[0] in ALLOWED], ids=str)
def test_imports_point_in_the_direction_of_the_design(source):
  package = source.parts[0]
  imported = {name[0] for name in imported_names(source)}
  assert imported & {*PACKAGES, "tests"} <= ALLOWED[package]
  if package == "collection":
    assert not imported & NOT_IN_COLLECTION
  if source not in CALLERS_OF_A_SIMULATOR:
    assert not imported & SIMULATORS


@pytest.mark.skipif(not shutil.which("bazel"), reason="no Bazel (apt-get install bazel-bootstrap)")
def test_bazel_builds_every_target(tmp_path):
  command = ["bazel", "--batch", f"--output_user_root={tmp_path}", "build", "//..."]
  options = ["--noshow_progress", "--color=no"]
  result = subprocess.run(command + options, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
