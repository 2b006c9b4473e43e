"""TensorBoard events, written by the thread that logs them, where a full disk is an error and is not overlooked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

if TYPE_CHECKING:
  from collections.abc import Mapping


class Events:
  """An event file in `folder`; TensorBoard forgets what an earlier one has from `purge_step` on."""

  def __init__(self, folder, purge_step=None):
    self._writer = EventsWriter(str(folder / "events"))
    if purge_step is not None:
      self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes named numbers of one step."""
    numbers = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    self._write(Event(step=step, summary=Summary(value=numbers)))

  def close(self) -> None:
    self._writer.close()

  def _write(self, event):
    event.wall_time = time.time()
    self._writer.write_event(event)
    self._writer.flush()
