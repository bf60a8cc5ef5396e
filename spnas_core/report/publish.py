"""Files of a finished run below `runs/NAME/` of the store: reports, `trials.csv`, `pareto.png`, and the final model with its card."""

import hashlib
import json
from typing import Any

import yaml

from spnas_core.names import MODEL_FILE, WEIGHTS_FILE
from spnas_core.report.comparisons import comparisons
from spnas_core.report.costs import stage_costs
from spnas_core.report.final_fronts import final_fronts
from spnas_core.report.inputs import collect
from spnas_core.report.page import report_html
from spnas_core.report.picture import pareto_png
from spnas_core.report.tables import rows, trials_csv
from spnas_core.report.text import report_md
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.run.register import announce_run
from spnas_core.run.rounds import rounds

HTML = "report.html"


def publish_run(plan: Plan, stage: StageRecord) -> dict[str, Any]:
    """Write the reports and the model of a finished run below `runs/NAME/` of the store, and return its summary."""
    announce_run(plan)
    inputs = collect(plan, stage)
    store, folder, final = plan.store, f"runs/{plan.settings.name}", stage.results["final"]
    card = json.loads(store.fetch("train", final.digest, MODEL_FILE).read_text())
    weights = store.fetch("train", final.digest, WEIGHTS_FILE).read_bytes()
    card |= {"scores": final.scores, "train_artifact": final.digest, "data_fingerprint": plan.data.fingerprint}
    card |= {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    compared = comparisons(inputs)
    differences = [one.words for one in compared]
    store.write(f"{folder}/config.yml", yaml.safe_dump(plan.settings.model_dump(mode="json"), sort_keys=False).encode())
    store.write(f"{folder}/report.md", report_md(plan, stage, differences).encode())
    store.write(f"{folder}/{HTML}", report_html(inputs).encode())
    store.write(f"{folder}/trials.csv", trials_csv(stage.ledger, plan.settings.objectives).encode())
    store.write(f"{folder}/pareto.png", pareto_png(stage.ledger, plan.settings.work))
    store.write(f"{folder}/model/{WEIGHTS_FILE}", weights)
    store.write(f"{folder}/model/{MODEL_FILE}", json.dumps(card, indent=1).encode())
    fronts = final_fronts(stage.results, stage.ledger, plan.settings)
    table = rows(stage, plan.settings.objectives)
    summary = {
        "name": plan.settings.name,
        "folder": f"{store.url}/{folder}",
        "model": f"{store.url}/{folder}/model",
        "trials": len(stage.ledger),
        "failed": sum(1 for trial in stage.ledger if trial.failure),
        "notes": list(stage.notes),
        "differences": [{"net": one.net, "split": one.split, **one.interval._asdict(), "words": one.words} for one in compared],
        "rounds": rounds(stage.ledger, plan.settings),
        "reignited": [{"arch": weights.arch, "top1": stage.top1[digest]} for digest, weights in stage.reignited.items()],
        "table": [
            {
                "net": row.net,
                "arch": row.arch,
                **({"genes": row.genes} if row.genes else {}),
                **{n: row.metrics.get(n) for n in ("params", "macs", *plan.settings.work.stats)},
            }
            for row in table
        ],
        **({"fronts": fronts.document()} if fronts else {}),
        "timing": {one.name: dict(one.phases) for one in stage_costs(inputs)},
        "key": stage.key,
    }
    store.write(f"{folder}/summary.json", json.dumps(summary, indent=1).encode())
    return summary
