"""The tray scene: variety of objects, physics that holds."""

import numpy as np
import pytest

from collection import objects, scenes, tasks


@pytest.fixture(name="scene", scope="module")
def _scene():
  scene = scenes.TrayScene()
  yield scene
  scene.close()


def test_there_are_ten_objects_and_some_from_pybullet_data():
  assert len(objects.OBJECT_KINDS) >= 10
  assert sum(kind.shape == "file" for kind in objects.OBJECT_KINDS.values()) >= 2


@pytest.mark.parametrize("kind", objects.OBJECT_KINDS)
@pytest.mark.parametrize("held", [False, True])
def test_every_object_rests_on_the_table_or_in_the_gripper(scene, kind, held, monkeypatch):
  monkeypatch.setattr(objects, "OBJECT_KINDS", {kind: objects.OBJECT_KINDS[kind]})
  for seed in range(5):
    scene.reset(np.random.default_rng(seed), held=held)
    before = scene.position()
    if held:
      assert scene.distance_to_end_effector() < tasks.GRASPED_WITHIN
    else:
      assert scenes.TABLE_TOP < before[2] < scenes.TABLE_TOP + 0.03
    scene.arm.apply(np.zeros(8))
    assert np.linalg.norm(scene.position() - before) < 0.002, "does not creep"


def test_places_shapes_and_colours_vary_with_the_seed(scene):
  places, images = [], []
  for seed in range(8):
    scene.reset(np.random.default_rng(seed), held=False)
    places.append(tuple(scene.position()[:2]))
    images.append(scene.image().tobytes())
  assert len(set(places)) == len(set(images)) == 8
