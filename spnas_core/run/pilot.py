"""Pilot of a search: whether its short score says anything about the long one, measured on a few nets before it spends.

Source: the proxy check of Google's Vertex AI Neural Architecture Search (https://cloud.google.com/vertex-ai/docs/training/neural-architecture-search/proxy-task-design),
which correlates 10 to 20 nets first.
"""

from spnas_core.run.candidates import Round, train_each
from spnas_core.run.crew import Crew, Label, Work, do
from spnas_core.run.plan import Plan, inherited
from spnas_core.run.record import StageRecord
from spnas_core.search.agreement import Agreement, agreement
from spnas_core.search.estimate import own_scores
from spnas_core.search.ledger import ranked
from spnas_core.search.propose import propose_children
from spnas_core.store.manifest import Manifest

HELP = (
    "what the search ranks by may be chance. More epochs in serial.recipe, serial.race, serial.recipe.scored_epochs and ema lower that, "
    "a wider space makes the nets differ more; `spnas study noise` measures what each is worth"
)


def piloted(plan: Plan, crew: Crew, record: StageRecord) -> StageRecord:
    """Train the start net's first children briefly and then to the end; the record with a note that says how well the one tells the other.

    It is done where the settings ask for it. Trainings that failed are left out; the short ones of round 1 are the same artifacts.
    """
    settings = plan.settings
    if not settings.serial.pilot:
        return record
    children = propose_children(record.ledger[:1], settings, 1, settings.serial.pilot, plan.cost_of)
    trials = ranked(train_each(plan, crew, Round("serial", 0), children, {}), settings.objectives)
    work: list[Work] = [
        (
            Label("serial", "pilot", trial.arch, index=trial.index, ends_run=False),
            plan.train_net(trial.net, settings.full_train, (inherited(trial),)),
        )
        for trial in trials
    ]
    score = settings.objectives[0]
    ended = do(crew, work)
    pairs = [
        (trial.value(score), own_scores(one.metrics)[score]) for trial, one in zip(trials, ended, strict=True) if isinstance(one, Manifest)
    ]
    note = note_of(agreement([short for short, _ in pairs], [long for _, long in pairs]))
    crew.tell(lambda: note)
    made = [digest for trial in trials for digest in trial.trainings] + [one.digest for one in ended if isinstance(one, Manifest)]
    return record.model_copy(update={"notes": (*record.notes, note), "searched": (*record.searched, *(f"train/{one}" for one in made))})


def note_of(found: Agreement) -> str:
    """One line on a pilot."""
    if not found.nets or found.tau != found.tau:
        return f"Pilot: too few of its nets were trained with success to say anything, {found.nets}."
    text = f"Pilot over {found.nets} nets: Kendall's tau of the short score with that of the full training is {found.tau:.2f}"
    interval = f"95 % interval {found.low:.2f} to {found.high:.2f}"
    return f"{text}, {interval}{'.' if found.agrees else f'; it contains 0, {HELP}.'}"
