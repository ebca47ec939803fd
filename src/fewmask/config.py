"""Base of every configuration section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen section of a recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
