"""What all sections of a recipe share."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """What all parts of a recipe share: frozen, strict types, no unknown keys, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
