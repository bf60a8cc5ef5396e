"""Report of a finished run as Markdown, `report.md`."""

from collections.abc import Sequence

from spnas_core.report.final_fronts import final_fronts
from spnas_core.report.tables import markdown, paths_md, rows
from spnas_core.run.plan import Plan
from spnas_core.run.record import StageRecord
from spnas_core.run.rounds import rounds_md
from spnas_core.search.ledger import SEARCH_STAGES, Trial


def report_md(plan: Plan, stage: StageRecord, differences: Sequence[str] = ()) -> str:
    """Return the report of a finished run; `differences`: what is told of the final net beside others, a line each."""
    final, failed = stage.results["final"], [trial for trial in stage.ledger if trial.failure]
    genes = f", {final.genes}" if final.genes else ""
    counts = {name: sum(trial.stage == name for trial in stage.ledger) for name in SEARCH_STAGES}
    structures = f"{counts['structures']} structures, " if plan.settings.structures else ""
    fronts = final_fronts(stage.results, stage.ledger, plan.settings)
    kinds = plan.settings.work.of_class
    parts = [
        f"# Run `{plan.settings.name}`",
        f"Data `{plan.data.url}` (fingerprint `{plan.data.fingerprint[:12]}`), {plan.classes} classes; {structures}"
        f"{counts['serial']} serial and {counts['parallel']} parallel candidates, {len(failed)} of them failed. "
        f"{plan.settings.work.score} in per cent, on the val "
        "split unless said otherwise.",
        markdown(rows(stage, plan.settings.objectives)),
        *stage.notes,
        *(fronts.words() if fronts else ()),
        "\n".join(f"- {line}" for line in differences),
        *map(_failed, failed),
        rounds_md(stage.ledger, plan.settings),
        *filter(None, [paths_md(stage)]),
        *(f"- reignited: `{weights.arch}`, top-1 {100 * stage.top1[digest]:.1f} %" for digest, weights in stage.reignited.items()),
        f"![{plan.settings.work.score} against MACs](pareto.png)",
        f"## Final net\n\n`{final.arch}`{genes}, weights of `train/{final.digest}`, in `model/`. Per class, on val:",
        f"| class | {' | '.join(kinds)} |\n| --- | ---: | ---: |\n"
        + "\n".join(
            f"| {name} | {' | '.join(_per_cent(scores[kind]) for kind in kinds)} |"
            for name, scores in final.scores["val"].get("per_class", {}).items()
        ),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _per_cent(value: float) -> str:
    return f"{100 * value:.1f}"


def _failed(trial: Trial) -> str:
    place = f"{trial.stage} r{trial.round} c{trial.index + 1} `{trial.arch}`"
    return f"- failed: {place}: {trial.failure}, log in `logs/train/{trial.digest}.txt` of the store"
