"""Control records: what people write is measured and checked, and each fault has a name."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.budgets import BudgetDefinition
from worker.contract.codes import Rejection
from worker.contract.control import (
    KINDS,
    MAX_CONTROL_BYTES,
    AddBudget,
    Control,
    PauseBudget,
    PauseLlm,
    PriceLlm,
    RemoveBudget,
    ResumeBudget,
    ResumeLlm,
    SetBudget,
    read_control,
)
from worker.contract.token_costs import PriceList

RIGHT: list[Control] = [
    SetBudget(by="ann", why="more users", name="company", resource="usd", amount=5_000_000),
    AddBudget(by="ann", why="", budget=BudgetDefinition("search", "tokens", 100, "day", "Europe/Berlin", True)),
    RemoveBudget(by="ann", why="over", name="search"),
    PauseBudget(by="ann", why="an incident", name="search"),
    ResumeBudget(by="ann", why="it is over", name="search"),
    PauseLlm(by="ann", why="an incident", llm="gpt-4o"),
    ResumeLlm(by="ann", why="it is over", llm="gpt-4o"),
    PriceLlm(by="ann", why="a new price", llm="gpt-4o", price_list=PriceList(Decimal("2.5"), Decimal(10))),
]


def test_each_kind_is_tried() -> None:
    """The table of right records has all kinds."""
    assert {type(record) for record in RIGHT} == set(KINDS.values())


@pytest.mark.parametrize("record", RIGHT, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("encode", [msgspec.msgpack.encode, msgspec.json.encode])
def test_a_right_record_is_read_in_both_formats(record: Control, encode: Any) -> None:
    """MessagePack and JSON say the same."""
    assert read_control(encode(record)) == record


SET = {"kind": "set_budget", "by": "ann", "why": "", "name": "a", "resource": "usd", "amount": 1}
ADD = {"kind": "add_budget", "by": "ann", "why": "", "budget": {"name": "a", "resource": "usd", "amount": 1}}


def added(**changes: object) -> dict[str, object]:
    """A record that adds a budget, with something changed in the budget."""
    return {**ADD, "budget": {**ADD["budget"], **changes}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("fields", "code", "detail"),
    [
        ({}, "type", "kind"),
        ({**SET, "kind": "raise_budget"}, "type", "kind"),
        ({**SET, "kind": ["set_budget"]}, "type", "kind"),
        ({**SET, "amount": -1}, "type", "amount"),
        ({**SET, "amount": 2**53 + 1}, "type", "amount"),
        ({**SET, "amount": 1.5}, "type", "amount"),
        ({**SET, "amount": "1"}, "type", "amount"),
        ({**SET, "amount": True}, "type", "amount"),
        ({**SET, "amount": None}, "type", "amount"),
        ({**SET, "resource": "euros"}, "type", "resource"),
        ({**SET, "name": ""}, "type", "name"),
        ({**SET, "name": "x" * 257}, "type", "name"),
        ({**SET, "by": ""}, "type", "by"),
        ({**SET, "why": "x" * 1_001}, "type", "why"),
        ({**SET, "until": "tomorrow"}, "unknown_field", "until"),
        ({name: value for name, value in SET.items() if name != "by"}, "type", "by"),
        ({name: value for name, value in SET.items() if name != "amount"}, "type", "amount"),
        (added(every="year"), "type", "budget"),
        (added(time_zone="Europe/Atlantis"), "type", "budget.time_zone"),
        (added(time_zone="../../etc/passwd"), "type", "budget.time_zone"),
        (added(amount=-1), "type", "budget"),
        (added(limit=5), "type", "budget"),
        (added(tags={"": "x"}), "type", "budget"),
        (added(llms=["x"] * 1_001), "type", "budget"),
        ({"kind": "price_llm", "by": "a", "why": "", "llm": "x", "price_list": {}}, "type", "price_list"),
    ],
)
def test_a_wrong_record_has_its_fault_named(fields: dict[str, object], code: str, detail: str) -> None:
    """The first field at fault, and never an exception."""
    found = read_control(json.dumps(fields).encode())
    assert isinstance(found, Rejection)
    assert (found.code, found.detail) == (code, detail)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"x" * (MAX_CONTROL_BYTES + 1), "too_large"),
        (b"{", "format"),
        (b"[1, 2]", "array"),
        (b"pause it", "format"),
        (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, "nesting"),
    ],
)
def test_bytes_that_are_no_record_are_refused(value: bytes | None, code: str) -> None:
    """They are measured before they are read."""
    found = read_control(value)
    assert isinstance(found, Rejection)
    assert found.code == code


@given(st.binary(max_size=200))
def test_no_bytes_raise(value: bytes) -> None:
    """Whatever is in a record, the answer is a record or a rejection."""
    assert read_control(value) is not None


@given(
    st.dictionaries(
        st.sampled_from([*SET, "budget", "llm", "price_list"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    ),
    st.sampled_from(list(KINDS)),
)
def test_no_fields_raise(fields: dict[str, Any], kind: str) -> None:
    """Fields of any type, in records of any kind."""
    assert read_control(json.dumps({**fields, "kind": kind}).encode()) is not None
