"""Scores from 0 to 1 out of what people, judges and programs wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.exports import call, read, scores, span, table, write
from worker.contract.errors import FixSetting
from worker.exports.records import LeftOut

# What stands in a column: the score, with the options that it needs.
SCORES: dict[str, tuple[list[Any], dict[str, Any], list[float | None]]] = {
    "from 0 to 1": ([0, 0.25, 1], {}, [0, 0.25, 1]),
    "text": (["0.25", " 1 ", "0"], {}, [0.25, 1, 0]),
    "booleans": ([True, False, "true"], {}, [1, 0, 1]),
    "thumbs": (["👍", "👎", "up"], {}, [1, 0, 1]),
    "thumbs with a colour": (["👍🏽", "👎🏿", "👍️"], {}, [1, 0, 1]),
    "thumbs as numbers": ([1, -1, 1], {}, [1, 0, 1]),
    "words": (["PASS", "fail", "Partial"], {}, [1, 0, 0.5]),
    "not judged": (["pass", "N/A", ""], {}, [1, None, None]),
    "percent": (["85%", "0 %", "100%"], {}, [0.85, 0, 1]),
    "1 to 5": ([1, 3, "5"], {"scale": ["1..5"]}, [0, 0.5, 1]),
    "1 to 5 of a named score": ([1, 3, 5], {"scale": ["score=1..5"]}, [0, 0.5, 1]),
    "0 to 100": ([0, 85, 100], {"scale": ["percent"]}, [0, 0.85, 1]),
    "5 is worst": ([1, 5, 2], {"scale": ["5..1"]}, [1, 0, 0.75]),
    "out of 10": (["9/10", "1/10", "10 of 10"], {"scale": ["0..10"]}, [0.9, 0.1, 1]),
    "stars": (["★★★★★", "★☆☆☆☆", "★★★☆☆"], {"scale": ["1..5"]}, [1, 0, 0.5]),
    "labels": (["good", "bad", "meh"], {"labels": "good=1,bad=0,meh=0.4"}, [1, 0, 0.4]),
    "outside of the scale": ([1, 0, 11], {"scale": ["1..10"]}, [0, None, None]),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_from_0_to_1(name: str, tmp_path: Path) -> None:
    """However somebody wrote it."""
    values, options, expected = SCORES[name]
    assert scores(read(write(tmp_path, {"judged.jsonl": table(values)}), **options)) == expected


# Scores that cannot be known: what the message names.
ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "a scale": ({"judged.jsonl": table([1, 7, 10])}, "--scale score="),
    "a scale that is said only in part": ({"judged.jsonl": table(["9/10", "8/10"])}, "--scale score="),
    "labels": ({"judged.jsonl": table(["good", "bad"])}, "--labels bad=1,good=1"),
    "two scores": ({"judged.jsonl": table([1, 0], rating=5)}, "--score rating"),
    "a score that is not there": ({"judged.jsonl": table([1, 0])}, "the export has the scores score"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_cannot_be_known_is_asked_for(name: str, tmp_path: Path) -> None:
    """The message names the option."""
    files, message = ASKED[name]
    with pytest.raises(FixSetting, match=message.replace(".", r"\.")):
        read(write(tmp_path, files), score=["helpful"] if "not there" in name else [])


# Judgements of one answer: the score that counts.
JUDGED: dict[str, tuple[list[dict[str, Any]], float | None]] = {
    "several are averaged": ([{"id": "a", "score": 0.2}, {"id": "b", "score": 0.8}], 0.5),
    "a person before a judge": ([{"score": 0, "annotator_kind": "LLM"}, {"score": 1, "annotator_kind": "HUMAN"}], 1),
    "a judge before code": ([{"score": 0, "annotator_kind": "CODE"}, {"score": 1, "annotator_kind": "LLM"}], 1),
    "a correction with the same id": (
        [{"id": "a", "score": 0, "created_at": 1791291757582}, {"id": "a", "score": 1, "created_at": 1791291757583}],
        1,
    ),
    "an old one after a new one": (
        [{"id": "a", "score": 1, "created_at": 1791291757583}, {"id": "a", "score": 0, "created_at": 1791291757582}],
        1,
    ),
    "a label with the number of another": ([{"score": None, "label": "fine"}], 1),
    "a label that nobody knows": ([{"score": None, "label": "odd"}], None),
}


@pytest.mark.parametrize("name", JUDGED)
def test_several_judgements_come_to_one_score(name: str, tmp_path: Path) -> None:
    """By who judged, and when."""
    judgements, expected = JUDGED[name]
    rows = [
        {"span_id": "s1", "annotation_name": "ok", "annotator_kind": "LLM", "label": None} | one for one in judgements
    ]
    rows.append({"span_id": "s2", "annotation_name": "ok", "annotator_kind": "LLM", "label": "fine", "score": 1})
    spans = [
        {
            "context.span_id": given,
            "context.trace_id": given,
            "attributes.openinference.span.kind": "LLM",
            "attributes.llm.model_name": "gpt-4o",
            "attributes.input.value": "Why?",
        }
        for given in ("s1", "s2")
    ]
    found = read(write(tmp_path, {"spans.jsonl": spans, "annotations.jsonl": rows}))
    assert scores(found)[0] == expected


def test_a_judgement_without_an_id_is_replaced_by_a_later_one(tmp_path: Path) -> None:
    """A person who changes a thumb corrects it."""
    thumbs = "request_id,thumb,created_at\n1,up,1791291757582\n1,down,1791291757999\n"
    assert scores(read(write(tmp_path, {"logs.json": [call("1")], "thumbs.csv": thumbs}))) == [0]


def test_the_score_of_a_trace_is_its_last_answers(tmp_path: Path) -> None:
    """Also if a later call of it failed."""
    spans = [
        span("1"),
        span("2", startTime="2026-10-06T08:00:01Z"),
        span("3", startTime="2026-10-06T08:00:02Z", level="ERROR"),
    ]
    rows = [{"id": "x", "name": "ok", "value": 1, "trace_id": "t", "observation_id": None, "source": "API"}]
    assert scores(read(write(tmp_path, {"observations.jsonl": spans, "scores.jsonl": rows}))) == [None, 1]


def test_a_score_told_in_two_files_counts_once(tmp_path: Path) -> None:
    """Langfuse writes it into a column of the observations and into the file of scores."""
    rows = [
        {"id": "x", "name": "ok", "value": 0, "trace_id": "t", "observation_id": "1"},
        {"id": "y", "name": "ok", "value": 1, "trace_id": "t", "observation_id": "1"},
    ]
    place = write(tmp_path, {"observations.jsonl": [span("1", ok="[0]")], "scores.jsonl": rows})
    assert scores(read(place)) == [0.5]


def test_only_the_inner_one_of_two_calls_counts(tmp_path: Path) -> None:
    """A wrapper and the client inside it both record the tokens and the cost."""
    place = write(tmp_path, {"observations.jsonl": [span("1"), span("2", parentObservationId="1")]})
    found = read(place)
    assert ([one.answer.id for one in found.results], found.left) == (["2"], [LeftOut("1", "parent_span")])
