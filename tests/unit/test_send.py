"""What `tollgate send` shows of a query, and what it says if no decision or no answer came."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from worker.commands import main
from worker.commands import send as command
from worker.contract import codec, examples
from worker.contract.asks import Asks
from worker.contract.decisions import Cause, Closed, Decision, Rejected, Routed
from worker.contract.messages import Completion, Origin, Query
from worker.contract.record import StoredRecord
from worker.contract.settings import Settings
from worker.kafka import clients
from worker.kafka.memory import MemoryBroker
from worker.local import send
from worker.local.send import Missing, ScoredLlm, SendResult

[ROUTED] = (decision for decision in examples.decisions().values() if isinstance(decision, Routed))
[CLOSED] = (decision for decision in examples.decisions().values() if isinstance(decision, Closed))
ORIGIN = Origin(1, ROUTED.offset)
ID = send.dispatch_id(ORIGIN, ROUTED)
SETTLED = msgspec.structs.replace(CLOSED, dispatch_id=ID)
FAILED = msgspec.structs.replace(SETTLED, outcome="released", error="busy", spent_micros=0)
AGAIN = msgspec.structs.replace(ROUTED, attempt=2, llm="small")
GIVEN_UP = msgspec.structs.replace(ROUTED, attempt=2, llm=None, reason="failed")
NOBODY = msgspec.structs.replace(ROUTED, llm=None, reason="no_candidate", excluded={"gpt-4o": "vision"})
WISHED = msgspec.structs.replace(ROUTED, asks=Asks(wish=("gpt-9",)), remarks=("unknown_model",))
CANDIDATES = send.candidates(examples.LLMS, ROUTED)


def reply(attempts: list[Routed], closed: list[Closed], cause: Any = None, detail: str = "") -> SendResult:
    """A reply to a query that was routed."""
    return SendResult(ORIGIN, attempts, CANDIDATES, None, closed, None if cause is None else Missing(cause, detail))


REJECTED = SendResult(ORIGIN, [], [], "Object contains unknown field `txt` - at `$[...]`", [])
UNDECIDED = SendResult(ORIGIN, [], [], None, [], Missing("not_decided"))
ANSWERED = reply([ROUTED], [SETTLED])


def shown(one: SendResult) -> str:
    """What is printed about a reply."""
    written = io.StringIO()
    command.show(Console(file=written, width=200, markup=False), one)
    return written.getvalue()


SHOWN = [
    ("rejected", REJECTED, ["rejected  Object contains unknown field `txt` - at `$[...]`"]),
    ("routed", ANSWERED, ["goes to   gpt-4o (best_score); 5,340 micro-dollars reserved"]),
    ("settled", ANSWERED, ["settled   3,910 micro-dollars (usage)"]),
    (
        "tried again",
        reply([ROUTED, AGAIN], [FAILED]),
        ["released  0 micro-dollars (usage); error: busy", "goes to   small (best_score, attempt 2)"],
    ),
    ("given up", reply([ROUTED, GIVEN_UP], [FAILED]), ["error: busy", "deferred  failed"]),
    ("no candidate", reply([NOBODY], []), ["deferred  no_candidate", "gpt-4o: it sees no images"]),
    ("an unknown model", reply([WISHED], []), ["remark    the request's model is no LLM of the settings: gpt-9"]),
]


@pytest.mark.parametrize(("one", "lines"), [c[1:] for c in SHOWN], ids=[c[0] for c in SHOWN])
def test_a_reply_is_shown(one: SendResult, lines: list[str]) -> None:
    """A rejection with its reason; each attempt with its LLM, its end and its error."""
    said = shown(one)
    for line in lines:
        assert line in said, f"{line!r} is not shown"


def test_the_chosen_llm_is_shown_below_llms_with_a_higher_score() -> None:
    """The command that explains why they could not reserve is named."""
    best = [ScoredLlm(f"llm-{number}", 1.0, 1, 0.0, 1.0) for number in range(10)]
    chosen = ScoredLlm(str(ROUTED.llm), 0.5, 1, 0.0, 0.5)
    said = shown(SendResult(ORIGIN, [ROUTED], [*best, chosen], None, []))
    assert f"\n {ROUTED.llm} " in said, "the chosen LLM is not in the table"
    assert "and 2 more" in said, "the others are not counted"
    assert f"`tollgate explain {ROUTED.query_id}`" in said, "the remedy is not named"


MISSING = [
    ("no worker", SendResult(ORIGIN, [], [], None, [], Missing("no_worker")), ["no decision", "`tollgate run`"]),
    ("a slow worker", UNDECIDED, ["no decision", "--wait", "`tollgate status`"]),
    (
        "no inference worker",
        reply([ROUTED], [], "no_completion"),
        [f"no answer came in 3 s to dispatch {ID}", "reads dispatch.gpt-4o", "`tollgate infer --llm gpt-4o`"],
    ),
    ("a wrong partition", reply([ROUTED], [], "other_partition", "3"), ["is in partition 3", "`origin.partition`"]),
    ("no worker to apply it", reply([ROUTED], [], "not_applied"), ["no worker has applied it", "`tollgate run`"]),
    ("a dead letter", reply([ROUTED], [], "rejected", "not JSON"), ["is a dead letter: not JSON"]),
    ("the second attempt", reply([ROUTED, AGAIN], [FAILED], "no_completion"), ["reads dispatch.small"]),
]


@pytest.mark.parametrize(("one", "parts"), [c[1:] for c in MISSING], ids=[c[0] for c in MISSING])
def test_what_did_not_come_is_said_with_its_reason_and_remedy(one: SendResult, parts: list[str]) -> None:
    """A missing answer also says until when its money is held."""
    said = "\n".join(command.missing(Settings(), one, 3.0))
    for part in parts:
        assert part in said, f"{part!r} is not said"
    assert ("The reservation is held until" in said) == bool(one.attempts), said


CODES = [
    ("answered", ANSWERED, 0),
    ("deferred", reply([GIVEN_UP], []), 0),
    ("rejected", REJECTED, 1),
    ("not decided", UNDECIDED, 1),
    ("not answered", reply([ROUTED], [], "no_completion"), 1),
]


@pytest.mark.parametrize(("one", "code"), [c[1:] for c in CODES], ids=[c[0] for c in CODES])
def test_the_exit_code_is_1_if_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, one: SendResult, code: int
) -> None:
    """With --json too, which leaves nothing but JSON on standard output."""
    monkeypatch.setattr(command, "send_query", lambda *_: one)
    done = CliRunner().invoke(main.app, ["send", "hello", "--json"])
    assert done.exit_code == code, done.output
    assert msgspec.json.decode(done.stdout)["origin"] == {"partition": 1, "offset": ORIGIN.offset}


# What is sent

CHAT = {"model": "gpt-9", "messages": [{"role": "user", "content": "Why?"}]}
SENT: list[tuple[str, list[str], object, Query]] = [
    ("a text", ["Why?"], None, Query(text="Why?")),
    ("a request", ["--request", "-"], CHAT, Query(body=CHAT)),
    ("a query", ["--request", "-"], {"text": "Why?", "tags": ["a=b"]}, Query(text="Why?", tags={"a": "b"})),
    (
        "with options",
        ["--request", "-", "--allow", "large", "--allow", "small", "--tag", "team=search", "--max-output-tokens", "5"],
        CHAT,
        Query(body=CHAT, allow=("large", "small"), tags={"team": "search"}, max_output_tokens=5),
    ),
    ("with a deny", ["Why?", "--deny", "large"], None, Query(text="Why?", deny=("large",))),
]


@pytest.mark.parametrize(("options", "given", "query"), [c[1:] for c in SENT], ids=[c[0] for c in SENT])
def test_what_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], given: object, query: Query
) -> None:
    """A text or a request in any shape, with what the options add."""
    sent: list[Query] = []

    def send_query(_: object, query: Query, __: object) -> SendResult:
        sent.append(query)
        return ANSWERED

    monkeypatch.setattr(command, "send_query", send_query)
    done = CliRunner().invoke(main.app, ["send", *with_llms(tmp_path), *options], input=json.dumps(given))
    assert done.exit_code == 0, done.output
    assert sent == [query]


WRONG: list[tuple[str, list[str], str, str]] = [
    ("nothing", [], "", "give a TEXT, or a file with --request"),
    ("both", ["Why?", "--request", "-"], "{}", "and not both"),
    ("no query", ["--request", "-"], '{"txt": 1}', "there is no field 'txt'"),
    ("an unknown LLM", ["Why?", "--deny", "gpt-9"], "", "gpt-9 is no LLM of the settings"),
    ("a tag without a name", ["Why?", "--tag", "=x"], "", "the tags cannot be used"),
    ("no file", ["--request", "nowhere.json"], "", "nowhere.json cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("options", "given", "said"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_what_cannot_be_sent(tmp_path: Path, options: list[str], given: str, said: str) -> None:
    """Nothing is sent, and the option is named with what is wrong."""
    done = CliRunner().invoke(main.app, ["send", *with_llms(tmp_path), *options], input=given)
    assert done.exit_code == 2, done.output
    # The message is in a frame that breaks its lines.
    words = " ".join(done.output.replace("│", " ").split())
    assert said in words


def with_llms(place: Path) -> list[str]:
    """The option that names settings with two LLMs."""
    path = place / "tollgate.toml"
    path.write_text("[llms.large]\nbudget_usd = 1\n[llms.small]\nbudget_usd = 1\n")
    return ["--config", str(path)]


# What the topics say


def written(decisions: list[Decision], completions: dict[int, list[Completion]]) -> list[StoredRecord]:
    """The records of `decisions` and `completions`; the query lands in partition 1."""
    topics: dict[tuple[str, int], list[Any]] = {("decisions", ORIGIN.partition): [*decisions]}
    topics |= {("completions", partition): [*values] for partition, values in completions.items()}
    return [
        StoredRecord(*place, offset, 0, None, codec.encode(value), ())
        for place, values in topics.items()
        for offset, value in enumerate(values)
    ]


ANSWER = Completion(dispatch_id=ID, origin_partition=1, llm="gpt-4o", status="ok")
OTHER = msgspec.structs.replace(ANSWER, dispatch_id=f"{ID}1")
DEAD = Rejected(b"", Cause("completions", 0), 0, "partition", None, "7")
OF_ANOTHER = "the dispatch is of partition 7: send its completion to that partition"

FOUND = [
    ("answered", [ROUTED, SETTLED], {}, None),
    ("nobody answered", [ROUTED], {1: [OTHER]}, Missing("no_completion")),
    ("answered in another partition", [ROUTED], {0: [ANSWER]}, Missing("other_partition", "0")),
    ("answered, not applied", [ROUTED], {1: [ANSWER]}, Missing("not_applied")),
    ("the answer is a dead letter", [ROUTED, DEAD], {1: [ANSWER]}, Missing("rejected", OF_ANOTHER)),
    ("not decided", [], {}, Missing("no_worker")),
]


@pytest.mark.parametrize(("decisions", "completions", "missing"), [c[1:] for c in FOUND], ids=[c[0] for c in FOUND])
def test_the_reason_is_read_from_the_topics(
    monkeypatch: pytest.MonkeyPatch,
    decisions: list[Decision],
    completions: dict[int, list[Completion]],
    missing: Missing | None,
) -> None:
    """A completion is looked for in every partition, and its rejection among the decisions."""
    broker = MemoryBroker()

    def produce(*_: object) -> Origin:
        broker.log.load(written(decisions, completions))
        return ORIGIN

    monkeypatch.setattr(send, "_produce", produce)
    monkeypatch.setattr(send, "_llms", lambda *_: examples.LLMS)
    monkeypatch.setattr(clients, "has_members", lambda *_: False)
    monkeypatch.setattr(clients, "admin_client", lambda _: None)
    assert send.send(Settings(), Query(text="hello"), 0.0, broker.reader).missing == missing


ANSWER_TEXTS = [
    ({"choices": [{"message": {"content": " Paris. "}}]}, "Paris."),
    ({"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Paris."}]}, "Paris."),
    ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Paris."}]}]}, "Paris."),
    ({"recorded": {"quality": 1.0}}, '{"recorded":{"quality":1.0}}'),
]


@pytest.mark.parametrize(("response", "text"), ANSWER_TEXTS)
def test_an_answer_is_shown(response: Any, text: str) -> None:
    """The text of an answer in any dialect; an answer without text as it is."""
    answer = msgspec.structs.replace(examples.outputs()["answer"], response=msgspec.Raw(msgspec.json.encode(response)))
    assert f"answer    {text}" in shown(msgspec.structs.replace(ANSWERED, answer=answer))
