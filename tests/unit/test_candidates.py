"""An LLM that a query rules out, or that cannot do what it needs, is no candidate; the decision says why."""

from __future__ import annotations

from typing import Any

import pytest

from tests.drive import CRASH, Drive, completion, config, failure, query
from worker.contract.asks import Asks
from worker.contract.codes import Exclusion, QueryRemark, Rejection, Remedy
from worker.contract.decisions import Rejected, Routed
from worker.contract.messages import Configuration, TagTotal
from worker.core.candidates import exclusions, remarks
from worker.core.tags import MOST_TAGS, OTHERS

ABLE = config(
    unknown_model="ignore",
    features={"small": (), "medium": ("tools", "json")},
    context_tokens={"small": 100},
    dialects={"small": ("chat",), "medium": ("messages", "chat")},
)
SETTINGS = config(unknown_model="ignore")
OLDER = config(features={"small": ()})

NOT_SMALL: dict[str, Exclusion] = {"medium": "not_allowed", "small": "not_allowed"}
EXCLUSIONS: list[tuple[str, Asks, Configuration, dict[str, Exclusion]]] = [
    ("nothing", Asks(), ABLE, {}),
    ("denied", Asks(deny=("large", "gpt-9")), ABLE, {"large": "denied"}),
    ("allowed", Asks(allow=("large",)), ABLE, {"medium": "not_allowed", "small": "not_allowed"}),
    ("none allowed", Asks(allow=()), SETTINGS, dict.fromkeys(("large", "medium", "small"), "not_allowed")),
    ("allowed and denied", Asks(allow=("large",), deny=("large",)), SETTINGS, NOT_SMALL | {"large": "denied"}),
    ("a wish", Asks(wish=("small",)), ABLE, {"large": "not_wished", "medium": "not_wished"}),
    ("a wish for two", Asks(wish=("small", "large")), ABLE, {"medium": "not_wished"}),
    ("an unknown wish", Asks(wish=("gpt-9",)), ABLE, {}),
    (
        "a wish that is known in part",
        Asks(wish=("gpt-9", "large")),
        ABLE,
        {"medium": "not_wished", "small": "not_wished"},
    ),
    ("tools", Asks(features=("tools",)), ABLE, {"small": "tools"}),
    ("images", Asks(features=("vision",)), ABLE, {"medium": "vision", "small": "vision"}),
    ("JSON and images", Asks(features=("vision", "json")), ABLE, {"medium": "vision", "small": "vision"}),
    ("all that settings do not tell", Asks(features=("tools", "vision", "json")), SETTINGS, {}),
    ("a context that fits", Asks(context_tokens=100), ABLE, {}),
    ("a context that does not", Asks(context_tokens=101), ABLE, {"small": "context"}),
    ("a format", Asks(dialects=("messages",)), ABLE, {"small": "dialect"}),
    ("either format", Asks(dialects=("chat", "messages")), ABLE, {}),
    ("a format that none has", Asks(dialects=()), ABLE, {"medium": "dialect", "small": "dialect"}),
    ("any format", Asks(), ABLE, {}),
    ("a lane that did not look", Asks(deny=("large",), features=("tools",)), OLDER, {}),
]


@pytest.mark.parametrize(("asks", "settings", "wanted"), [c[1:] for c in EXCLUSIONS], ids=[c[0] for c in EXCLUSIONS])
def test_exclusions(asks: Asks, settings: Configuration, wanted: dict[str, Exclusion]) -> None:
    """Each LLM that is no candidate has the first reason; what is not known of an LLM excludes it from nothing."""
    assert exclusions(asks, settings) == wanted


REMARKS: list[tuple[Asks, tuple[QueryRemark, ...]]] = [
    (Asks(wish=("large",), allow=("small",), deny=("medium",)), ()),
    (Asks(wish=("gpt-9",)), ("unknown_model",)),
    (Asks(allow=("gpt-9", "large")), ("unknown_allowed",)),
    (Asks(deny=("gpt-9",)), ("unknown_denied",)),
]


@pytest.mark.parametrize(("asks", "wanted"), REMARKS)
def test_remarks(asks: Asks, wanted: tuple[QueryRemark, ...]) -> None:
    """A name that is no LLM is remarked: it may be misspelt."""
    assert remarks(asks, SETTINGS) == wanted


def first(drive: Drive) -> Routed:
    return drive.decided(Routed)[0]


def test_the_best_candidate_is_chosen() -> None:
    """The best LLM without the deny is not the one with it; the decision tells both apart."""
    free, denied = Drive(SETTINGS).run([query(0)]), Drive(SETTINGS)
    best = first(free).llm
    assert best is not None
    denied.run([query(0, asks=Asks(deny=(best,)))])
    assert first(denied).llm not in (None, best)
    assert first(denied).excluded == {best: "denied"}
    assert first(denied).asks == Asks(deny=(best,))
    assert first(free).asks is None, "what excludes nobody is not recorded"


@pytest.mark.parametrize("policy", ["priced", "port"])
def test_a_query_without_a_candidate_is_deferred(policy: str) -> None:
    """The deferral says of each LLM why it is no candidate, and names no best one."""
    settings = config(
        unknown_model="ignore", policy=policy, features=dict.fromkeys(("large", "medium", "small"), ("json",))
    )
    drive = Drive(settings).run([query(number, asks=Asks(features=("tools",))) for number in range(3)])
    excluded: dict[str, Exclusion] = dict.fromkeys(("large", "medium", "small"), "tools")
    assert {one.reason for one in drive.deferred} == {"no_candidate"}
    assert drive.deferred[0].remedy == Remedy("change_request", excluded=excluded)
    assert drive.deferred[0].best_llm is None
    assert "large: it has no tools" in drive.deferred[0].text
    assert not drive.dispatches


def test_port_chooses_the_best_candidate() -> None:
    """A policy that takes no second choice chooses among candidates only, and draws nobody else."""
    settings = config(unknown_model="ignore", policy="port", horizon_queries=20)
    queries = [query(number, asks=Asks(allow=("small",))) for number in range(20)]
    drive = Drive(settings).run(queries)
    assert {dispatch.llm for dispatch in drive.dispatches} == {"small"}


def test_a_failed_wish_goes_to_nobody_else() -> None:
    """When every candidate has failed, the query is deferred as failed. It goes to no LLM that it does not want."""
    again = query(0, asks=Asks(wish=("small",)))
    drive = Drive(config(unknown_model="ignore", max_attempts=5)).run(
        [again, failure(0, "0-0-1", "small", retry=again)]
    )
    assert [one.llm for one in drive.dispatches] == ["small"]
    assert [one.reason for one in drive.deferred] == ["failed"]


def test_an_unknown_model_is_refused_where_the_settings_say_so() -> None:
    """The query is a dead letter, its place is applied, and the next query is decided as if it had not come."""
    asks = Asks(wish=("large", "gpt-9"))
    drive = Drive(config(unknown_model="refuse")).run([query(0, asks=asks, tags={"a": "b"}), query(1)])
    assert [one.rejection for one in drive.decided(Rejected)] == [Rejection("unknown_model", detail="gpt-9")]
    assert [one.offset for one in drive.refused] == [0]
    assert drive.router.view.offsets.queries == 1
    assert [one.offset for one in drive.decided(Routed)] == [1]
    assert drive.router.view.account_row().tags == {}


def test_an_unknown_model_is_ignored_and_remarked() -> None:
    """By default the query goes where it would go without a wish."""
    free, wishing = Drive(SETTINGS).run([query(0)]), Drive(SETTINGS)
    wishing.run([query(0, asks=Asks(wish=("gpt-9",)))])
    assert first(wishing).llm == first(free).llm
    assert first(wishing).remarks == ("unknown_model",)


def test_an_excluded_llm_does_not_compete_for_its_budget() -> None:
    """Prices are solved on what candidates can earn: queries that nobody may answer make no budget scarce."""
    queries = [query(number, asks=Asks(allow=())) for number in range(60)]
    drive = Drive(config(unknown_model="ignore", budget_micros=dict.fromkeys(("large", "medium", "small"), 100)))
    drive.run(queries)
    assert set(drive.router.view.prices) == {0.0}


TAGS = {"team": "search", "env": "prod"}


def test_tags_are_carried_and_summed() -> None:
    """Decision and dispatch have the tags; each tag has its queries and its spent money, also after a crash."""
    drive = Drive(SETTINGS).run([query(0, tags=TAGS), query(1, tags={"team": "search"}), query(2), CRASH])
    assert first(drive).tags == TAGS
    assert drive.dispatches[0].tags == TAGS
    sent = {dispatch.id: dispatch.llm for dispatch in drive.dispatches}
    answers: list[Any] = [completion(n, id_, llm) for n, (id_, llm) in enumerate(sent.items())]
    # One more answer to the first, which costs once more.
    drive.run([*answers, CRASH, completion(len(answers), "0-0-1", sent["0-0-1"])])
    assert drive.router.view.account_row().tags == {
        "team=search": TagTotal(2, 300),
        "env=prod": TagTotal(1, 200),
    }


def test_tags_beyond_the_limit_share_a_total() -> None:
    """The row stays small, however many tags there are; nothing is left out of the sums."""
    drive = Drive(SETTINGS)
    drive.run([query(number, tags={"user": str(number), "all": ""}) for number in range(MOST_TAGS + 9)])
    totals = drive.router.view.account_row().tags
    assert len(totals) == MOST_TAGS + 1
    assert totals["all="].queries == MOST_TAGS + 9
    assert totals[OTHERS].queries == 10
