"""Prefect artifacts of a run for its web page: progress of each job, the ledger, its Pareto chart, the final table, links to the files.

They are by-products: if the server rejects one, the log says so and the run continues.
"""

import base64
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from spnas_core.jobs.progress import line, log_progress, share
from spnas_core.report import markdown, pareto_png, table_of
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.search.ledger import Ledger
from spnas_core.search.net import gene_words
from spnas_core.settings.task import task_of_metrics

_log = logging.getLogger("spnas_core.page")  # a child of spnas_core, whose lines the run's log shows
INTERVAL = 5.0  # s between two updates of a job's progress


def follow(label: str) -> Callable[[dict[str, Any]], None]:
    """Create a callback for the events of the job `label`: it logs each, and updates the progress on the page every `INTERVAL` seconds."""
    shown: UUID | None = None
    due = 0.0

    def on_event(event: dict[str, Any]) -> None:
        nonlocal shown, due
        log_progress(label, event)
        done = share(event)
        if done is None or (done < 1 and time.monotonic() < due):
            return
        due = time.monotonic() + INTERVAL
        with _by_product():
            if shown is None:
                shown = create_progress_artifact(100 * done, description=line(label, event))
            else:
                update_progress_artifact(shown, 100 * done, description=line(label, event))

    return on_event


def show_stage(plan: Plan, stage: StageRecord) -> None:
    """Show the ledger so far and its Pareto chart."""
    name, task = plan.settings.name, plan.settings.work
    with _by_product():
        create_table_artifact(
            ledger_rows(stage.ledger), key=_key(name, "ledger"), description=f"Ledger of run {name} after stage {stage.name}"
        )
        picture = base64.b64encode(pareto_png(stage.ledger, task)).decode()
        words = f"{task.score} against MACs, run {name}"
        create_image_artifact(f"data:image/png;base64,{picture}", key=_key(name, "pareto"), description=words)


def show_result(summary: dict[str, Any]) -> None:
    """Show the final table of a run and links to its files."""
    name, folder = summary["name"], summary["folder"]
    files = "\n".join(f"- `{folder}/{file}`" for file in ("report.html", "report.md", "trials.csv", "pareto.png", "summary.json", "model"))
    with _by_product():
        text = "\n\n".join([f"# Run {name}", markdown(table_of(summary)), *summary["notes"], files])
        create_markdown_artifact(text, key=_key(name, "result"), description=f"The nets of run {name}")
        create_link_artifact(f"{folder}/report.html", "report.html", key=_key(name, "report"), description=f"Report of run {name}")
        create_link_artifact(f"{folder}/model", "model", key=_key(name, "model"), description=f"Final model of run {name}")


def ledger_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Ledger as table rows, the score in per cent."""
    score = task_of_metrics(next((trial.metrics for trial in ledger if trial.metrics), {})).score
    return [
        {
            "stage": trial.stage,
            "round": trial.round,
            "candidate": trial.index + 1,
            "architecture": ", ".join(filter(None, (trial.arch, gene_words(trial.net, ledger[0].net)))),
            score: round(100 * trial.score, 1) if trial.score is not None and trial.score >= 0 else "-",
            "parameters, M": round(trial.metrics["params"] / 1e6, 2) if trial.metrics else "-",
            "GMACs": round(trial.metrics["macs"] / 1e9, 2) if trial.metrics else "-",
            "failure": trial.failure or "",
            "artifact": f"train/{trial.digest}",
        }
        for trial in ledger
    ]


def _key(name: str, what: str) -> str:
    """Key of a Prefect artifact, which allows lower-case letters, digits and dashes."""
    return f"{name.replace('_', '-')}-{what}"


@contextlib.contextmanager
def _by_product() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - an error of the page is no error of the run
        _log.warning("Prefect's page lacks something: %s", " ".join(str(error).split())[:300])
