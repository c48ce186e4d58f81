"""What every table of tollgate.toml is made of."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=6)]


class Section(BaseModel):
    """One table of tollgate.toml; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Without this, `true` is taken for 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"is no switch, and cannot be {str(value).lower()}")
        return value
