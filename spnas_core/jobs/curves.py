"""Training curves of one attempt, as a TensorBoard event file."""

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path


class Curves:
    """Event file of one attempt, which starts after `done` steps.

    TensorBoard then drops points of later steps in earlier files of the folder, since this attempt repeats those steps.
    """

    def __init__(self, done: int) -> None:
        # MindSpore sets this too, on import: its messages need the slower parser, and a process has a single parser
        os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        self._folder = tempfile.TemporaryDirectory(prefix="spnas-curves-")
        self._file = EventsWriter(str(Path(self._folder.name) / "events"))
        begin = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=done + 1, session_log=begin))

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve named in `values`."""
        for name, value in values.items():
            self._file.write_event(self._event(wall_time=time.time(), step=step, summary=self._scalar(name, value)))

    def content(self) -> bytes:
        """Bytes of the file so far."""
        self._file.flush()
        (path,) = Path(self._folder.name).iterdir()
        return path.read_bytes()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._folder.cleanup()
