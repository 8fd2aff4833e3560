"""A gradient step on several devices, which is that of one device on the same batch.

Every device has the same weights and computes its own rows of the batch, in their order: the parts
of a step that must know of this call a function below. On one device these change nothing.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf


def strategy(num_devices: int) -> tf.distribute.Strategy:
  """Returns what trains on the first GPUs; for one device, TensorFlow's default.

  The other GPUs are left to other processes. Call this before TensorFlow has used any.

  Raises:
    ValueError: if there are too few; the message says how many.
  """
  gpus = tf.config.list_physical_devices("GPU")[:num_devices]
  if gpus:
    tf.config.set_visible_devices(gpus, "GPU")
  if num_devices == 1:
    return tf.distribute.get_strategy()
  # A machine without GPUs has one CPU, unless a test divides it.
  devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")[:num_devices]
  if len(devices) < num_devices:
    raise ValueError(f"--devices={num_devices}: TensorFlow finds {len(gpus)} GPUs")
  return tf.distribute.MirroredStrategy([device.name for device in devices])


def own_rows(batch: tf.Tensor) -> tf.Tensor:
  """The rows of a batch of all devices, (B, ...), that this one computes, (B / devices, ...)."""
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return batch
  count = tf.shape(batch)[0] // context.num_replicas_in_sync
  first = count * context.replica_id_in_sync_group
  return batch[first : first + count]


def draw(sample: Callable[..., tf.Tensor], shape: Sequence, *args) -> tf.Tensor:
  """Returns sample(shape, *args) for the B rows of this device, which are `shape[0]`.

  Drawn for the rows of all devices, so that a row's numbers are those that it has on one device.
  """
  rows, *others = shape
  return own_rows(sample((rows * _num_replicas(), *others), *args))


def share() -> tf.Tensor | None:
  """Weight of this device's mean in that of the batch, for gradients, which optimizers add up.

  None, TensorFlow's word for 1, on one device.
  """
  return None if _num_replicas() == 1 else tf.constant(1.0 / _num_replicas())


def step(
  strategy: tf.distribute.Strategy,
  take: Callable[..., dict[str, tf.Tensor]],
  batch,
  maxima: Sequence[str] = (),
) -> dict[str, tf.Tensor]:
  """Calls `take` on every device with its rows of a batch; returns the metrics of the whole batch.

  Args:
    strategy: of the devices.
    take: rows -> scalar metrics, which are means over the rows.
    batch: tensors (B, ...) in any structure.
    maxima: names of the metrics that are maxima instead.
  """
  if strategy.num_replicas_in_sync == 1:
    return take(batch)

  def take_own(batch):
    with tf.device("CPU:0"):  # where batches are: a GPU gets its own rows alone
      rows = tf.nest.map_structure(own_rows, batch)
    return take(rows)

  merged = {}
  for name, value in strategy.run(take_own, (batch,)).items():
    merge = tf.reduce_max if name in maxima else tf.reduce_mean
    merged[name] = merge(strategy.experimental_local_results(value))
  return merged


def _num_replicas() -> int:
  return tf.distribute.get_strategy().num_replicas_in_sync
