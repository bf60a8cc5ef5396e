"""One search in a process of its own, which tests kill: ``searching.py SETTINGS.yml DATA STORE LOG``.

LOG gets one JSON line per event of a job, {"label", "event", ...}, and {"event": "over"} when the search is at its end.
"""

import json
import logging
import sys
from pathlib import Path

from flows import presets
from flows.cli.local import run_locally


class Journal(logging.Handler):
    """Appends events to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self.file = path.open("a", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        label, event = getattr(record, "progress", (record.getMessage(), {"event": "line"}))
        self.file.write(json.dumps({"label": label, **event}) + "\n")


if __name__ == "__main__":
    settings, data, store, log = sys.argv[1:]
    journal = Journal(Path(log))
    progress = logging.getLogger("spnas_core.jobs.progress")
    progress.addHandler(journal)
    progress.setLevel(logging.DEBUG)
    run_locally(presets.load_preset(settings), data, store)
    journal.file.write(json.dumps({"label": "", "event": "over"}) + "\n")
