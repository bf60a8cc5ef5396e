"""The commands `spnas study baselines|front|proxy|inheritance|noise`: studies of the search on a data set."""

import json
from typing import Annotated, Any, Literal

import typer

from flows.cli.options import (
    AnnotationsOption,
    AsJson,
    DataOption,
    ImagesOption,
    Overrides,
    PresetArgument,
    SplitFileOption,
    StoreOption,
    with_reading,
)

PRESETS = "PRESET_OR_YAML: a preset (`study` is made for this, `seg_study` for segmentation, whose AP is the mIoU) or a YAML file."
GOES_ON = "Every training is an ordinary job: what is in the store is not done again, and what was interrupted goes on at the next start."
app = typer.Typer(no_args_is_help=True, help="What the search, its short scores and inheritance are worth on your data.")


@app.command(
    help="Compare, with equal training budget and the same seeds: the start net, random children of it trained from scratch, random "
    "search with inheritance, and SP-NAS.\n\n"
    "Budget: SP-NAS trains as its settings say (start net, serial and parallel candidates, reignitions). The epochs of all these "
    "trainings are added up, an epoch of reignition as one, and every other method trains as many with the same seed: the start net "
    "alone, for longer; the start net and as many random children from scratch as get the epochs of fine_tune; the start net and "
    "inherited children of uniformly drawn parents. Epochs are equal, not minutes: a larger net costs more per epoch. Then each method's "
    "net, chosen by its AP on val, is trained on by the recipe full_train, and scored on the test split. --against start compares with the "
    "start net alone, in half the time.\n\n"
    "Tie: the 95 % confidence interval of the mean difference over the seeds (paired, Student's t) contains 0. Intervals over the images "
    "of test, the same for all nets, stand beside it.\n\n"
    f"{PRESETS} {GOES_ON}\n\n"
    "Example: spnas study baselines study --data path/to/bccd --seeds 3"
)
def baselines(
    data: DataOption,
    preset: PresetArgument = "study",
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option("--seeds", min=2, max=20, help="How many, from `seed` of the settings on.")] = 3,
    against: Annotated[
        Literal["start", "scratch", "random"] | None,
        typer.Option("--against", help="Compare with this method alone: the start net, nets from scratch, or random search."),
    ] = None,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods."""
    settings, methods = with_reading(overrides, split_file, annotations, images), {"against": (against,)} if against else {}
    _study("baselines", preset, settings, data, store, as_json, seeds=seeds, **methods)


@app.command(
    help="The same AP for less: the front of AP and MACs of the search, of random search with inheritance, and of a fixed family of stock "
    "nets, each with as many epochs and the same seeds; hyper-volumes are those of AP on the test split. Then the recommended net, the "
    "cheapest that is hardly behind the start net on val (final.margin), is trained by full_train and set beside the start net trained for "
    "as many epochs in all: AP on test, MACs, latency.\n\n"
    f"{PRESETS} {GOES_ON}\n\n"
    "Example: spnas study front study --data path/to/bccd --seeds 5"
)
def front(
    data: DataOption,
    preset: PresetArgument = "study",
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option("--seeds", min=2, max=20, help="How many, from `seed` of the settings on.")] = 5,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Compare fronts."""
    _study("front", preset, with_reading(overrides, split_file, annotations, images), data, store, as_json, seeds=seeds)


@app.command(
    help="How well the short score predicts the long one: Kendall's tau-b between the val AP of children of the start net after their "
    "short, inherited training (serial.recipe), and after the training full_train that goes on from it. What the search ranks by, a gain "
    "over the parent or a mean of seeds and epochs where the settings ask for it, is set beside. A tau over nets of unequal cost measures "
    "their size above all, so keep the budget narrow: --set 'budget={gmacs: [0.085, 0.1]}'. With serial.evaluator=supernet they are paths, "
    "and their scores as paths are compared too.\n\n"
    f"{PRESETS} {GOES_ON}\n\n"
    "Example: spnas study proxy study --data path/to/bccd"
)
def proxy(
    data: DataOption,
    preset: PresetArgument = "study",
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    nets: Annotated[int, typer.Option("--nets", min=8, help="How many nets; fewer say nothing.")] = 8,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=20, help="Of the full trainings, whose mean counts.")] = 1,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure the proxy."""
    _study("proxy", preset, with_reading(overrides, split_file, annotations, images), data, store, as_json, count=nets, seeds=seeds)


@app.command(
    help="What inheritance saves: epochs and minutes until a child of the start net comes to the AP50 (val; of segmentation the mIoU) "
    "that it has at the end of its short training on inherited weights (serial.recipe), and until the same child does from scratch "
    "(recipe fine_tune, in trainings of 2, 4 and 8 times the short length, until one comes there). Every epoch is evaluated.\n\n"
    f"{PRESETS} {GOES_ON}\n\n"
    "Example: spnas study inheritance study --data path/to/bccd"
)
def inheritance(
    data: DataOption,
    preset: PresetArgument = "study",
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    children: Annotated[int, typer.Option("--children", min=1, help="How many children.")] = 5,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure inheritance."""
    _study("inheritance", preset, with_reading(overrides, split_file, annotations, images), data, store, as_json, count=children)


@app.command(
    help="How far short scores can be believed: children of the start net and the start net itself are trained by serial.recipe with "
    "several seeds, on the same inherited weights, and evaluated after each epoch. Told are the noise (standard deviation over seeds) of "
    "the AP at the end and of what can lower it: the mean of the last epochs, an average of the weights (serial.recipe.ema, else 0.98), "
    "the gain over the parent trained on with the same seed; the spread of the nets; Kendall's tau to expect from both; and how many "
    "seeds would make it 0.5. The budget makes the nets' cost equal: --set 'budget={gmacs: [0.085, 0.095]}'.\n\n"
    f"{PRESETS} {GOES_ON}\n\n"
    "Example: spnas study noise study --data path/to/bccd"
)
def noise(
    data: DataOption,
    preset: PresetArgument = "study",
    store: StoreOption = "spnas-store",
    overrides: Overrides = None,
    nets: Annotated[int, typer.Option("--nets", min=2, help="How many nets.")] = 6,
    seeds: Annotated[int, typer.Option("--seeds", min=2, max=20, help="How many, from `seed` of the settings on.")] = 5,
    split_file: SplitFileOption = None,
    annotations: AnnotationsOption = None,
    images: ImagesOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure the noise."""
    _study("noise", preset, with_reading(overrides, split_file, annotations, images), data, store, as_json, count=nets, seeds=seeds)


def _study(kind: Any, preset: str, overrides: list[str], data: str, store: str, as_json: bool, **more: Any) -> None:
    """Run a study, or look up a finished one, and print its tables."""
    from flows import presets
    from flows.cli.local import study_locally

    summary = study_locally(kind, presets.load_preset(preset, overrides), data, store, **more)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    typer.echo(f"\n{summary['text']}\n\nReport: {summary['folder']}")
