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


@pytest.mark.parametrize("kind", objects.OBJECT_KINDS)
@pytest.mark.parametrize("yaw", [0.0, 0.4, 0.8, 1.2])
def test_the_gripper_closes_on_every_object_however_it_lies(scene, kind, yaw, monkeypatch):
  monkeypatch.setattr(objects, "OBJECT_KINDS", {kind: objects.OBJECT_KINDS[kind]})
  put = scene._put_on_table
  monkeypatch.setattr(scene, "_put_on_table", lambda name, xy, _: put(name, xy, yaw))
  for seed in range(3):
    scene.reset(np.random.default_rng(seed), held=False)
    for _ in range(25):
      action = np.zeros(8)
      distance = scene.position() + (0, 0, 0.02) - scene.arm.end_effector_pose()[0]
      action[:3] = np.clip(15 * distance, -1, 1)
      scene.arm.apply(action)
    scene.arm.toggle_gripper()
    assert scene.holds() and scene.arm.gripper_opening() < 0.95


def test_places_shapes_and_colours_vary_with_the_seed(scene):
  places, images = [], []
  for seed in range(8):
    scene.reset(np.random.default_rng(seed), held=False)
    places.append(tuple(scene.position()[:2]))
    images.append(scene.image().tobytes())
  assert len(set(places)) == len(set(images)) == 8


@pytest.mark.parametrize("camera", [scenes.POLICY_CAMERA, scenes.VIDEO_CAMERA])
def test_a_camera_projects_a_place_to_where_its_image_shows_it(scene, camera):
  for seed in range(5):
    scene.reset(np.random.default_rng(seed), held=False)
    with_object = scene.image(camera)
    x, y, _, w = camera.world_to_clip() @ (*scene.position(), 1.0)
    scene._client.removeBody(scene._bodies[scenes.OBJECT])
    changed = np.argwhere(np.any(with_object != scene.image(camera), axis=2))
    pixel = np.array([1.0 - y / w, 1.0 + x / w]) * camera.size / 2 - 0.5
    assert np.all(changed.min(axis=0) - 1 < pixel) and np.all(pixel < changed.max(axis=0) + 1)
    assert np.linalg.norm(changed.mean(axis=0) - pixel) < camera.size * 0.03
