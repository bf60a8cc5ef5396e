"""What all settings share: frozen, unknown keys refused, each field described for whoever writes a preset or fills in a form."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt

from spnas_core import arch as architecture
from spnas_core.names import check_url


def _canonical(text: str) -> str:
    return str(architecture.check_space(architecture.parse(text)))


def _canonical_type(text: str) -> str:
    return architecture.parse_type(text).text


TypeText = Annotated[str, AfterValidator(_canonical_type)]
_PATTERN = r"^((b|r|x\([1-9][0-9]*x[1-9][0-9]*d\))_)?[12]+(-[12]+)*(_[0-9]+(-[0-9]+)*){0,2}$"  # for forms; `parse` says what is wrong
ArchText = Annotated[str, AfterValidator(_canonical), Field(json_schema_extra={"pattern": _PATTERN})]
Url = Annotated[str, AfterValidator(check_url), Field(json_schema_extra={"pattern": r"^(/.*|[^:]*|[a-z0-9+]+://[^/@]*(/.*)?)$"})]
Limit = tuple[float | None, float | None]
Taps = tuple[NonNegativeInt, ...]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
