"""What all settings share: frozen, unknown keys refused, each field described for whoever writes a preset or fills in a form."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt

from spnas_core import arch as architecture
from spnas_core.names import check_url


def _canonical(text: str) -> str:
    return str(architecture.check_space(architecture.parse(text), architecture.FEWEST_BLOCKS))


def _canonical_type(text: str) -> str:
    return architecture.parse_type(text).text


TypeText = Annotated[str, AfterValidator(_canonical_type)]
_PATTERN = r"^((b|r|x\([1-9][0-9]*x[1-9][0-9]*d\))_)?[12]+(-[12]+)*(_[0-9]+(-[0-9]+)*){0,2}$"  # for forms; `parse` says what is wrong
ArchText = Annotated[str, AfterValidator(_canonical), Field(json_schema_extra={"pattern": _PATTERN})]
Url = Annotated[str, AfterValidator(check_url), Field(json_schema_extra={"pattern": r"^(/.*|[^:]*|[a-z0-9+]+://[^/@]*(/.*)?)$"})]
Limit = tuple[float | None, float | None]
Taps = tuple[NonNegativeInt, ...]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys are errors.

    `later`: fields that came after stores were in use. At their default they stand in no key and in no digest (`key_document`), so that
    what such a store has is still found.
    """

    later: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def key_document(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON for keys and digests: without the `later` fields that are at their default."""
    return _without_later(settings, settings.model_dump(mode="json"))


def _without_later(settings: Settings, document: dict[str, Any]) -> dict[str, Any]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name in settings.later and value == field.default:
            del document[name]
        elif isinstance(value, Settings):
            _without_later(value, document[name])
    return document
