"""Reproduction of a run: the inputs that determine it, digests to verify a repeated run, and commands."""

import shlex

from spnas_core.job import RECIPE_VERSION
from spnas_core.names import WEIGHTS_FILE
from spnas_core.report.inputs import ReportInputs
from spnas_core.run.plan import SEARCH_VERSION


def facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    """List the inputs that determine the run, and the digests that verify a repeated one."""
    plan, final = inputs.plan, inputs.stage.results.get("final")
    manifests = [one.manifest for one in (*inputs.trainings.values(), *inputs.reignitions.values()) if one.manifest]
    versions = sorted({", ".join(f"{name} {text}" for name, text in sorted(one.versions.items())) for one in manifests})
    settings = plan.settings
    found = [("data", plan.data.url), ("fingerprint of the data", plan.data.fingerprint), ("seed", str(settings.seed))]
    found += [("checkpoint", f"{settings.checkpoint}, sha256 {plan.checkpoint_sha256}")] if settings.checkpoint else []
    found += [("device", f"{settings.device_target}, {settings.threads} threads"), *(("versions", text) for text in versions)]
    found.append(("meaning of jobs, of stages", f"recipe version {RECIPE_VERSION}, search version {SEARCH_VERSION}"))
    found += [(f"stage {name}", plan.keys[name]) for name in settings.stages]
    if final and (manifest := inputs.trainings[final.digest].manifest):
        found += [("final net", f"train/{final.digest}"), ("its weights, sha256", manifest.files[WEIGHTS_FILE].sha256)]
    return found


def commands(inputs: ReportInputs) -> list[tuple[str, str]]:
    """List the commands that repeat the run, and those that use its results."""
    plan, name = inputs.plan, inputs.plan.settings.name
    place = str(plan.store.local or plan.store.url)
    store, data = shlex.quote(place), shlex.quote(plan.data.url)
    again = [("go on with this run, or see its table", f"spnas resume {name} --store {store}")]
    if inputs.finished:
        folder = shlex.quote(f"{place}/runs/{name}")
        config = f"{folder}/config.yml" if plan.store.local else "config.yml"
        split = "test" if plan.test or "test" in inputs.stage.results["final"].scores else "val"
        again = [
            ("the same run in another store" + ("" if plan.store.local else f"; config.yml lies in {folder}"),
             f"spnas run {config} --data {data} --store ANOTHER"),
            *again,
            ("score the final net", f"spnas eval {folder}/model --data {data} --split {split}"),
        ]  # fmt: skip
    return [*again, ("write this report", f"spnas report {name} --store {store}")]
