"""Settings of the structural search."""

from pydantic import Field, PositiveInt

from spnas_core.settings.search import Candidates, Mutation


class Structures(Candidates):
    """The structural search, before the serial one: of head, neck, input, widths and depth together, as SM-NAS has it (AAAI 2020)."""

    rounds: PositiveInt = Field(4, description="rounds of the search")
    max_optimal: PositiveInt = Field(
        8, description="parents are the best of the ledger by Pareto rank, spread by the hyper-volume they add"
    )
    mutation: Mutation = Field(
        Mutation(add_stage=0.0, change_type=0.1, shrink=0.2),
        description="what makes a child of its parent: besides the operators of the serial search those of head, neck and proposals",
    )
    chosen: PositiveInt = Field(
        2, description="structures, spread over the front, that go on to the serial search, each with its own candidates"
    )
    finals: int = Field(3, ge=0, description="nets, spread over the last front, that are trained to the end beside the final one")
    stock: bool = Field(
        True,
        description="train a fixed family of stock nets from scratch too, for as many epochs in all as the final nets with most of them",
    )
