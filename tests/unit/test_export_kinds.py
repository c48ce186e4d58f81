"""Each kind of export in the spellings of other versions and settings."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.exports import USER, call, read, scores, write
from worker.contract.errors import FixSetting
from worker.exports.records import LeftOut

# Votes between two LLMs: what each won.
VOTES: dict[str, tuple[dict[str, Any], list[float | None]]] = {
    "model_a": ({"winner": "model_a"}, [1, 0]),
    "B": ({"winner": "B"}, [0, 1]),
    "a tie": ({"winner": "tie"}, [0.5, 0.5]),
    "both bad": ({"winner": "tie (bothbad)"}, [0, 0]),
    "both bad in one word": ({"winner": "both_bad"}, [0, 0]),
    "columns": ({"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}, [0, 1]),
    "nobody judged": ({"winner": ""}, []),
    "names were shown": ({"winner": "model_a", "anony": False}, []),
    "one did not answer": ({"winner": "model_a", "response_a": "So.", "response_b": None}, []),
}


@pytest.mark.parametrize("name", VOTES)
def test_a_vote_is_what_each_llm_won(name: str, tmp_path: Path) -> None:
    """A tie is half for each; that both are bad is nothing for each."""
    changed, expected = VOTES[name]
    vote = {"question_id": "1", "model_a": "x", "model_b": "y", "prompt": "Why?"} | changed
    assert scores(read(write(tmp_path, {"votes.json": [vote]}))) == expected


def test_votes_of_one_pair_are_averaged(tmp_path: Path) -> None:
    """Several people judge the same question."""
    votes = [
        {"question_id": "1", "model_a": "x", "model_b": "y", "prompt": "Why?", "winner": winner, "judge": winner}
        for winner in ("model_a", "tie")
    ]
    assert scores(read(write(tmp_path, {"votes.json": votes}))) == [0.75, 0.25]


def test_votes_and_scores_do_not_mix(tmp_path: Path) -> None:
    """A vote depends on the LLM beside it."""
    vote = {"question_id": "1", "model_a": "x", "model_b": "y", "prompt": "Why?", "winner": "model_a"}
    with pytest.raises(FixSetting, match="votes and scores do not mix"):
        read(write(tmp_path, {"votes.json": [vote], "logs.json": [call("1")]}))


def test_a_batch_of_anthropic_is_read(tmp_path: Path) -> None:
    """Requests have `params`, results have `result`; cached input stands beside the input."""
    usage = {"input_tokens": 8, "cache_read_input_tokens": 2, "output_tokens": 5}
    message = {"model": "claude", "content": [{"type": "text", "text": "So."}], "usage": usage}
    place = write(
        tmp_path,
        {
            "in.jsonl": [{"custom_id": n, "params": {"messages": USER}} for n in ("1", "2", "3")],
            "out.jsonl": [
                {"custom_id": "2", "result": {"type": "errored", "error": {}}},
                {"custom_id": "1", "result": {"type": "succeeded", "message": message}},
            ],
        },
    )
    found = read(place)
    assert [(one.answer.query_id, one.answer.counts.input_tokens) for one in found.results] == [("1", 10)]
    assert sorted((one.id, one.reason) for one in found.left) == [("2", "error"), ("3", "no_answer")]


# Judgements of a batch that two LLMs answered: the scores of both, and what is left out.
OF_TWO: dict[str, tuple[str, list[float | None], list[LeftOut]]] = {
    "by the query and the LLM": ("custom_id,model,score\n1,b,1\n1,a,0\n", [0, 1], []),
    "by the query alone": ("custom_id,score\n1,1\n", [None, None], [LeftOut("1", "judgement_without_row")]),
}


@pytest.mark.parametrize("name", OF_TWO)
def test_one_batch_asked_of_two_llms_is_one_query(name: str, tmp_path: Path) -> None:
    """Their answers share the `custom_id`. A judgement of both at once counts for none."""
    judged, expected, left = OF_TWO[name]
    body = {"object": "chat.completion", "choices": [{"message": {"content": "So."}}]}
    asked = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": USER}}
    outputs = {
        f"{llm}.jsonl": [
            {"custom_id": "1", "response": {"status_code": 200, "body": body | {"model": llm}}, "error": None}
        ]
        for llm in ("a", "b")
    }
    found = read(write(tmp_path, {"in.jsonl": [asked], "judged.csv": judged, **outputs}))
    assert [(one.answer.query_id, one.llm) for one in found.results] == [("1", "a"), ("1", "b")]
    assert (scores(found), found.left) == (expected, left)


def test_an_own_log_with_the_model_in_it_gives_prompts(tmp_path: Path) -> None:
    """Beside OpenRouter's activity it is no second list of answers."""
    activity = (
        "generation_id,created_at,cost_total,byok_usage_inference,tokens_prompt,tokens_completion,model_permaslug,variant\n"
        "gen-1,2026-10-12 08:05:51,0.002,0,7,4,openai/gpt-4o,standard\n"
        "gen-2,2026-10-12 08:05:52,0,0,7,4,openai/gpt-4o,free\n"
    )
    log = [{"generation_id": f"gen-{n}", "model": "gpt-4o", "messages": USER} for n in (1, 2)]
    found = read(write(tmp_path, {"activity.csv": activity, "log.jsonl": log}))
    assert [(one.answer.prompt, one.cost_usd) for one in found.results] == [("Why?", Decimal("0.002")), ("Why?", 0)]


def test_sums_of_days_are_refused(tmp_path: Path) -> None:
    """They hold no answers."""
    days = "date,model,model_permaslug,usage,requests,prompt_tokens,completion_tokens\n2026-10-12,x,x,0.1,7,70,40\n"
    found = read(write(tmp_path, {"activity.csv": days}))
    assert (found.results, found.left) == ([], [LeftOut("activity.csv", "aggregate")])


def test_two_filters_of_a_task_are_asked_about(tmp_path: Path) -> None:
    """One answer is one row, and not two that are averaged."""
    rows = [
        {
            "doc_id": 0,
            "arguments": {"gen_args_0": {"arg_0": "Why?"}},
            "resps": [["So."]],
            "filter": name,
            "metrics": ["exact_match"],
            "exact_match": score,
        }
        for name, score in (("strict", 0.0), ("flexible", 1.0))
    ]
    place = write(tmp_path, {"org__model/samples_task_2026-10-02T10-11-12.131415.jsonl": rows})
    with pytest.raises(FixSetting, match="--filter flexible"):
        read(place)
    found = read(place, filter="flexible")
    assert [(one.llm, one.answer.query_id) for one in found.results] == [("org/model", "task/0")]
    assert (scores(found), [one.reason for one in found.left]) == ([1], ["other_filter"])


def test_prompts_and_evaluations_in_otlp_logs_are_read(tmp_path: Path) -> None:
    """Newer instrumentations write events as log records, by the id of the span."""
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}

    def pairs(values: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"key": name, "value": {"stringValue": value}} for name, value in values.items()]

    spans = {"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "s", "attributes": pairs(attributes)}]}]}]}
    records = [
        {
            "spanId": "s",
            "eventName": "gen_ai.user.message",
            "body": {"kvlistValue": {"values": pairs({"content": "Why?"})}},
        },
        {
            "spanId": "s",
            "eventName": "gen_ai.evaluation.result",
            "attributes": [
                *pairs({"gen_ai.evaluation.name": "ok"}),
                {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.75}},
            ],
        },
    ]
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}
    found = read(write(tmp_path, {"spans.json": spans, "logs.json": logs}))
    assert ([one.answer.prompt for one in found.results], scores(found)) == (["Why?"], [0.75])


def test_what_is_no_export_is_refused_with_the_formats(tmp_path: Path) -> None:
    """The message lists what can be read."""
    with pytest.raises(FixSetting, match="the formats are litellm"):
        read(write(tmp_path, {"numbers.csv": "a,b\n1,2\n"}))
