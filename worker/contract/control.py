"""Control records: changes of budgets and LLMs that people make while queries flow, on `control`. Pure.

Whoever may write there decides on money, so every record is measured and checked before it is believed.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from worker.contract import codec
from worker.contract.budgets import Amount, BudgetDefinition, Name
from worker.contract.calendar import is_time_zone
from worker.contract.codes import MAX_DETAIL_CHARACTERS, Rejection, Resource
from worker.contract.token_costs import PriceList

MAX_CONTROL_BYTES = 65_536
MAX_NESTING = 10

Text = Annotated[str, Meta(max_length=1_000)]


class ControlRecord(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind"):
    """Who changed something, and why. When is the time of the record in Kafka."""

    by: Name
    why: Text


class SetBudget(ControlRecord, frozen=True, tag="set_budget"):
    """The amount of a budget from here on, in its open period too. `resource` must be the budget's own."""

    name: Name
    resource: Resource
    amount: Amount


class AddBudget(ControlRecord, frozen=True, tag="add_budget"):
    """A new budget. Its first period is the one that holds this moment."""

    budget: BudgetDefinition


class RemoveBudget(ControlRecord, frozen=True, tag="remove_budget"):
    """Nothing draws on the budget any more. What was reserved of it settles on it."""

    name: Name


class PauseBudget(ControlRecord, frozen=True, tag="pause_budget"):
    """Nothing may be reserved of the budget."""

    name: Name


class ResumeBudget(ControlRecord, frozen=True, tag="resume_budget"):
    """The end of a pause."""

    name: Name


class PauseLlm(ControlRecord, frozen=True, tag="pause_llm"):
    """The LLM gets no more queries."""

    llm: Name


class ResumeLlm(ControlRecord, frozen=True, tag="resume_llm"):
    """The end of a pause."""

    llm: Name


class PriceLlm(ControlRecord, frozen=True, tag="price_llm"):
    """What the LLM costs from here on."""

    llm: Name
    price_list: PriceList


Control = SetBudget | AddBudget | RemoveBudget | PauseBudget | ResumeBudget | PauseLlm | ResumeLlm | PriceLlm

KINDS: dict[str, type[Control]] = {kind.__struct_config__.tag: kind for kind in get_args(Control)}


def read_control(value: bytes | None) -> Control | Rejection:
    """The control record in a record's value (JSON or MessagePack), or why it cannot be used."""
    fields = codec.record_fields("control", value, MAX_CONTROL_BYTES, MAX_NESTING)
    if isinstance(fields, Rejection):
        return fields
    kind = KINDS.get(str(fields.get("kind")))
    if kind is None:
        return Rejection("type", detail="kind")
    if unknown := [name for name in fields if name not in (*kind.__struct_fields__, "kind")]:
        return Rejection("unknown_field", detail=unknown[0][:MAX_DETAIL_CHARACTERS])
    try:
        record = msgspec.convert(fields, kind)
    except msgspec.ValidationError:
        return _at_fault(fields, kind)
    if isinstance(record, AddBudget) and not is_time_zone(record.budget.time_zone):
        return Rejection("type", detail="budget.time_zone")
    return record


def _at_fault(fields: dict[str, Any], kind: type[Control]) -> Rejection:
    """The first field that is missing or not of its type."""
    types = get_type_hints(kind, include_extras=True)
    for name in kind.__struct_fields__:
        try:
            msgspec.convert(fields[name], types[name])
        except (KeyError, msgspec.ValidationError):
            return Rejection("type", detail=name)
    return Rejection("type")
