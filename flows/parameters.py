"""Types of the flows' parameters, checked by the server and Prefect's form; a flow's module has no `from __future__ import annotations`."""

from typing import Annotated, Literal

from pydantic import Field

from flows import presets

Preset = Literal[*presets.names()]
RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
StoreUrl = Annotated[str, Field(pattern=r"^[a-z0-9+]+://([^/@]+(/.*)?|/.+)$")]  # no user and password: Prefect records it
DataUrl = Annotated[str, Field(pattern=r"^(demo|/.+|[a-z0-9+]+://([^/@]+(/.*)?|/.+))$")]  # no relative path: a worker has another folder
