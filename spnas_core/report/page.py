"""Report of a run as one self-contained HTML file."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from spnas_core.arch import Arch
from spnas_core.data.masks.mask_samples import MaskSplit
from spnas_core.data.samples import Split
from spnas_core.jobs.progress import duration
from spnas_core.jobs.timing import PHASES
from spnas_core.necks import CellNeck
from spnas_core.report.ancestry import TrialEntry, entries, tree
from spnas_core.report.charts import curve_charts, pareto_chart, unit_of
from spnas_core.report.comparisons import START_NETS, comparisons, gains
from spnas_core.report.costs import stage_costs
from spnas_core.report.final_fronts import final_chart, final_fronts
from spnas_core.report.inputs import ReportInputs
from spnas_core.report.net_drawings import Drawing, descends, draw_net, stage_rows
from spnas_core.report.pixels import judge_pixels, pixel_rows
from spnas_core.report.pyramids import draw_pyramid
from spnas_core.report.quality import Quality, class_rows, judge_detections, size_rows
from spnas_core.report.reproduction import commands, facts
from spnas_core.report.second_opinions import second_opinions
from spnas_core.report.tables import path_rows, rows
from spnas_core.report.val_images import shoot
from spnas_core.run.plan import Plan, short
from spnas_core.run.rounds import rounds
from spnas_core.search.ledger import SEARCH_STAGES, chosen_net, ranked, winner
from spnas_core.search.net import Net, gene_words
from spnas_core.search.opinions import OPINIONS
from spnas_core.settings.search import DEVICE_LATENCY, MEASURED
from spnas_core.settings.task import DETECTION

TEMPLATES = Path(__file__).parent / "templates"
SMALL = 0.85  # scale of a net in the family tree
WIDE = 430.0  # px, breadth of a single net's drawing, unless its bars become too small or too broad
STAGE_TITLES = {
    "fine_tune": "start net",
    "structures": "structural search",
    "serial": "serial search",
    "reignite": "reignition",
    "parallel": "parallel search",
}
STAGE_TITLES |= {"full_train": "full training"}
REASONS = {
    "diverged": "a loss or a weight was not finite",
    "out_of_memory": "it needed more memory than there is, or than it may have",
    "timeout": "it took longer than it may",
    "killed": "it was stopped from outside",
    "crashed": "its process died of a fault of its own",
    "over_budget": "what was measured of it is over the budget; it was not trained",
}


def report_html(inputs: ReportInputs) -> str:
    """Render the whole report; equal inputs give equal text."""
    plan, stage = inputs.plan, inputs.stage
    family, table = entries(inputs), rows(stage, inputs.settings.objectives)
    outputs = inputs.of_final
    quality = judge_detections(inputs.val, outputs) if isinstance(inputs.val, Split) and outputs is not None else None
    pixels = judge_pixels(inputs.val, outputs) if isinstance(inputs.val, MaskSplit) and outputs is not None else None
    final, start = (stage.results.get(name) for name in ("final", stage.start_net))
    costs = stage_costs(inputs)
    fronts = final_fronts(stage.results, stage.ledger, plan.settings)
    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    numbers = {
        "name": plan.settings.name,
        "finished": inputs.finished,
        "final": {"metrics": final.scores["val"]} if final else None,
        "start": {"metrics": start.scores["val"], "words": START_NETS[stage.start_net]} if start else None,
        "tested": bool(final and "test" in final.scores),
        "last_stage": stage.name,
        "stage_names": STAGE_TITLES,
        "stages": list(dict.fromkeys(one.trial.stage for one in family)),
        "figures": _figures(inputs, family, sum(one.seconds for one in costs)),
        "table": table,
        "task": plan.settings.work,
        "notes": stage.notes,
        "estimated": any(trial.estimate for trial in stage.ledger),
        "gains": {one.number: one.interval for one in gains(inputs)},
        "differences": [one.words for one in comparisons(inputs)],
        "counts": {name: sum(one.trial.stage == name for one in family) for name in SEARCH_STAGES},
        "family": family,
        "tree": tree(family),
        "drawings": [_drawn(one.trial.net, plan, _parent(one), SMALL, links=False) for one in family],
        "genes": [gene_words(one.trial.net, stage.ledger[0].net) for one in family],
        "pyramids": [_pyramid(one.trial.net, one.parent.trial.net if one.parent else None) for one in family],
        "pareto": pareto_chart(family, inputs.settings.objectives, plan.settings.budget),
        "fronts": fronts,
        "final_chart": final_chart(fronts, plan.settings) if fronts else None,
        "kinds": [
            (name, STAGE_TITLES[name].removesuffix(" search")) for name in SEARCH_STAGES if name != "structures" or plan.settings.structures
        ],
        "chosen": _chosen(inputs, family),
        "objectives": " and ".join(unit_of(name)[0].split(",")[0] for name in inputs.settings.objectives),
        "measured": (measured := [*(MEASURED if inputs.measured else ()), *_devices(inputs)]),
        "units": {name: unit_of(name) for name in (*inputs.settings.work.scores, "macs", "params", *measured)},
        "opinions": second_opinions(inputs, family),
        "opinion_titles": OPINIONS,
        "failed": [one for one in family if one.state == "failed"],
        "reasons": REASONS,
        "rounds": rounds(stage.ledger, inputs.settings),
        "paths": path_rows(stage),
        "reignited": [(weights.arch, stage.top1.get(digest)) for digest, weights in stage.reignited.items()],
        "nets": _nets(inputs),
        "curves": curve_charts(inputs, family),
        "quality": quality,
        "pixels": pixels,
        "classes": class_rows(inputs) if plan.settings.work is DETECTION else pixel_rows(inputs),
        "sizes": size_rows(inputs) if plan.settings.work is DETECTION else (),
        "costs": costs,
        "device_seconds": sum(one.seconds for one in costs),
        "phases": (*PHASES, "other"),
        "devices": f"{plan.settings.device_target}, {plan.settings.devices_per_job} for a job",
        "checkpoint": plan.settings.checkpoint,
        "facts": facts(inputs),
        "commands": commands(inputs),
        "settings": yaml.safe_dump(plan.settings.model_dump(mode="json"), sort_keys=False),
        "version": version("spnas"),
        "store": plan.store.url,
        "script": Markup(script),
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return _environment().get_template("page.html").render(numbers | _shots(inputs, quality))


def _environment() -> jinja2.Environment:
    """Environment of the templates: every value is escaped, and a missing value is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    found = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"short_arch": lambda text: short(text, 200), "duration": duration}
    return found


def _figures(inputs: ReportInputs, family: Sequence[TrialEntry], seconds: float) -> list[tuple[str, str, str]]:
    """Key figures of the run: title, value, remark."""
    results, found = inputs.stage.results, list[tuple[str, str, str]]()
    final, start = (results[name].scores["val"] if name in results else None for name in ("final", inputs.stage.start_net))
    if final:
        for name in inputs.plan.settings.work.scores:
            more = f"{100 * (final[name] - start[name]):+.1f} against the start net".replace("-", "−") if start else ""
            found.append((unit_of(name)[0].removesuffix(", %"), f"{100 * final[name]:.1f}", more))
        for title, cost, factor in (("GMACs", "macs", 1e-9), ("parameters", "params", 1e-6)):
            unit = " M" if cost == "params" else ""
            more = f"{final[cost] / start[cost]:.2f} times the start net's" if start else ""
            found.append((title, f"{factor * final[cost]:.2f}{unit}", more))
    failed = sum(one.state == "failed" for one in family)
    found.append(("trials", str(len(family)), f"{failed} failed"))
    return [*found, ("time of devices", duration(seconds), "all jobs")]


def _devices(inputs: ReportInputs) -> list[str]:
    """Names of the latencies on other devices that count in the run, as soon as the start net has them."""
    return [f"{DEVICE_LATENCY}{name}" for name in inputs.settings.clocks if inputs.stage.name != "fine_tune"]


def _parent(entry: TrialEntry) -> Arch | None:
    return entry.parent.trial.net.arch if entry.parent else None


def _chosen(inputs: ReportInputs, family: Sequence[TrialEntry]) -> int | None:
    """Find the number of the trial whose net was trained to the end, else None."""
    if not inputs.finished:
        return None
    chosen, _ = chosen_net(inputs.stage.ledger, inputs.plan.settings)
    return next(one.number for one in family if one.trial.digest == chosen.digest)


def _nets(inputs: ReportInputs) -> list[dict[str, Any]]:
    """List the nets to draw, each once: the start net, the best of each search stage, the final net."""
    plan, ledger = inputs.plan, inputs.stage.ledger
    wanted = {"Start net": ledger[0].net}
    for stage in SEARCH_STAGES[1:]:
        trials = [trial for trial in ledger if trial.stage == stage]
        if ranked(trials, inputs.settings.objectives):
            wanted[f"Best {stage.removesuffix('s')} net"] = winner(trials, inputs.settings.objectives).net
    if inputs.finished:
        wanted["Final net"] = chosen_net(ledger, plan.settings)[0].net
    names: dict[Net, list[str]] = {}
    for name, net in wanted.items():
        names.setdefault(net, []).append(name)
    return [
        {
            "name": ", ".join(titles[:1] + [title.lower() for title in titles[1:]]),
            "arch": str(net.arch),
            "genes": gene_words(net, ledger[0].net),
            "drawing": _large(net, plan, ledger[0].net),
            "pyramid": _pyramid(net, ledger[0].net),
            "rows": stage_rows(net.arch, detector.image_size, detector.base_width),
        }
        for net, titles in names.items()
        for detector in [net.detector(plan.settings.detector)]
    ]


def _large(net: Net, plan: Plan, start: Net) -> Drawing:
    before = start.arch if descends(start.arch, net.arch) else None
    return _drawn(net, plan, before, min(2.2, max(1.0, WIDE / _drawn(net, plan, before).width)))


def _drawn(net: Net, plan: Plan, parent: Arch | None, scale: float = 1.0, links: bool = True) -> Drawing:
    """Draw a net of a run."""
    own = plan.settings.detector
    return draw_net(net.arch, parent, scale, links, plan.leaves_out, net.detector(own).base_width / own.base_width)


def _pyramid(net: Net, parent: Net | None) -> Drawing | None:
    """Draw the neck of a net, where it is one of cells."""
    if not isinstance(net.neck, CellNeck):
        return None
    before = parent.neck if parent else None
    return draw_pyramid(net.neck, before if isinstance(before, CellNeck) and before.kind == net.neck.kind else None)


def _shots(inputs: ReportInputs, quality: Quality | None) -> dict[str, Any]:
    """Collect the pictures, or the reason for their absence."""
    final = inputs.stage.results.get("final")
    if quality and isinstance(inputs.val, Split) and final:
        shots = shoot(quality, inputs.val, int(final.digest[:8], 16))
        return {"shots": shots, "no_pictures": "" if shots else "none of the images could be read."}
    lost = "the store has no outputs of the final net any more."
    return {"shots": [], "no_pictures": f"the data cannot be read ({inputs.no_data})." if inputs.no_data else lost}
