"""Queries as people have them are dispatched with the money that they can cost, or refused by what is wrong."""

from __future__ import annotations

import pytest

from tests.query_cases import (
    ASK,
    CASES,
    FILE_TOKENS,
    IMAGE_TOKENS,
    INPUT,
    LLM,
    MADE,
    OUTPUT,
    Send,
    case,
    chat,
    of,
    reserved,
)
from worker.contract import sentences
from worker.contract.codes import RejectCode, Rejection
from worker.contract.messages import Dispatch

DISPATCHED = [
    "00",
    "01",
    "02",
    "05",
    "06",
    "07",
    "08",
    "09",
    "10",
    "14",
    "15",
    "16",
    "18",
    "19",
    "20",
    "21",
    "22",
    "23",
    "30",
    "31",
    "32",
    "34",
    "35",
    "36",
    "37",
    "40",
    "50",
    "52",
    "53",
    "57",
    "58",
    "59",
    "70",
    "71",
    "74",
    "76",
    "78",
    "79",
    "81",
    "85",
    "86",
    "88",
    "91",
    "92",
    "93",
    "94",
    "9b",
    "9d",
    "9f",
]
# The code of each refusal, and its detail where that is not the field `body` or empty.
REFUSED: dict[str, tuple[RejectCode, str]] = {
    "03": ("no_text", ""),
    "04": ("no_text", ""),
    "11": ("no_text", ""),
    "12": ("no_text", ""),
    "38": ("type", "body"),
    "39": ("type", "id"),
    "41": ("no_text", ""),
    "42": ("no_text", ""),
    "54": ("utf16", ""),
    "55": ("utf16", ""),
    "56": ("compressed", ""),
    "60": ("confluent_frame", ""),
    "61": ("confluent_frame", ""),
    "61b": ("confluent_frame", ""),
    "61c": ("confluent_frame", ""),
    "63": ("confluent_frame", ""),
    "64": ("array", ""),
    "65": ("quoted_json", ""),
    "66": ("connect_envelope", ""),
    "72": ("half_surrogate", ""),
    "75": ("no_text", ""),
    "77": ("no_text", ""),
    "82": ("number", "body"),
    "83": ("type", "body"),
    "84": ("format", "json"),
    "87": ("type", "input_tokens"),
    "89": ("deadline_in_seconds", "1795564896"),
    "90": ("type", "deadline_ms"),
    "95": ("type", "embedding"),
    "96": ("embedding_dimension", "2048"),
    "97": ("embedding_byte_order", ""),
    "99": ("embedding_ambiguous", "512"),
    "99b": ("embedding_ambiguous", "512"),
    "9a": ("type", "embedding"),
    "9c": ("type", ""),
    "9e": ("type", "parameters"),
    "9g": ("format", "msgpack"),
    "9h": ("array", ""),
}


def test_every_case_is_here() -> None:
    """96 cases, each dispatched or refused."""
    files = {path.stem.removeprefix("q-") for path in CASES.iterdir()}
    assert not files & MADE.keys()
    assert sorted(files | MADE.keys()) == sorted([*DISPATCHED, *REFUSED])


@pytest.mark.parametrize("name", DISPATCHED)
def test_a_case_is_dispatched(send: Send, name: str) -> None:
    """It goes to the LLM, and money is held for it."""
    outcome = send(case(name))
    assert isinstance(outcome, Dispatch), outcome
    assert outcome.llm == LLM
    assert outcome.reserved_micros > 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_is_refused(send: Send, name: str) -> None:
    """By the name of what is wrong, with a sentence that says what to do."""
    code, detail = REFUSED[name]
    outcome = send(case(name))
    assert isinstance(outcome, Rejection), outcome
    assert (outcome.code, outcome.detail) == (code, detail)
    assert sentences.reason(outcome)


SAME = [
    "01",
    "53",
    "57",
    "58",
    "59",
    "70",
    "71",
    "78",
    "79",
    "50",
    "52",
    "30",
    "31",
    "34",
    "35",
    "36",
    "37",
    "85",
    "9d",
]


@pytest.mark.parametrize("name", SAME)
def test_the_same_question_reserves_the_same(send: Send, name: str) -> None:
    """Whatever shape it comes in."""
    assert reserved(send, name) == reserved(send, "00")


MORE = {
    "06": 0,
    "09": 0,
    "10": 0,
    "32": 0,
    "02": IMAGE_TOKENS,
    "05": FILE_TOKENS,
    "14": 38_000,
    "15": 38_000,
    "18": 38_000,
}


@pytest.mark.parametrize("name", MORE)
def test_what_is_sent_besides_is_reserved(send: Send, name: str) -> None:
    """System, tools, results, files and images are paid like the question."""
    limit = {"max_tokens": 100} if name == "32" else {}
    plain = send(chat(of("user", ASK), **limit))
    assert isinstance(plain, Dispatch)
    assert reserved(send, name) >= plain.reserved_micros + MORE[name] * INPUT


def test_a_long_question_is_reserved(send: Send) -> None:
    """It costs at least its input."""
    assert reserved(send, "16") >= 38_000 * INPUT


@pytest.mark.parametrize("name", ["20", "21", "22", "23"])
def test_a_limit_of_output_is_kept(send: Send, name: str) -> None:
    """Five tokens of output are the most that can be paid."""
    assert reserved(send, name) <= 10 * INPUT + 5 * OUTPUT < reserved(send, "01")


def test_each_of_ten_answers_is_reserved(send: Send) -> None:
    """The output counts ten times, the input once."""
    one, ten = reserved(send, "01"), reserved(send, "19")
    assert 9 * (one - 10 * INPUT) <= ten <= 10 * one


def test_stated_tokens_are_taken(send: Send) -> None:
    """12.0 is 12, and 0 costs no more than 5."""
    twelve, five = send({"text": ASK, "input_tokens": 12}), send({"text": ASK, "input_tokens": 5})
    assert isinstance(twelve, Dispatch)
    assert isinstance(five, Dispatch)
    assert reserved(send, "86") == twelve.reserved_micros
    assert reserved(send, "88") <= five.reserved_micros
