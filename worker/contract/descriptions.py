"""A sentence for each field of each message: the descriptions in schemas/.

A name means the same in every message. Where one message says more, an entry `<Message>.<field>` stands beside the
name. `described` adds the unit, which the end of the name tells.
"""

from __future__ import annotations

MONEY = "Micro-dollars: 1,000,000 are 1 US dollar."
MOMENT = "Milliseconds since 1970-01-01 00:00 UTC."
DURATIONS = ("reservation_ms", "retry_after_ms", "latency_ms")
BYTES = "Bytes in MessagePack, base64 in JSON."

FIELDS = {
    "accounts": "The money of each LLM in this partition, by the LLM's name.",
    "at_ms": "When the lane took up what this record follows from.",
    "attempt": "The number of the attempt to serve the query; the first is 1.",
    "Deferred.attempt": "The number of the attempt that found no LLM; 1 if the query was never dispatched.",
    "basis": "Where the cost came from.",
    "best_llm": "The best LLM at the prices of that moment; null if there was none.",
    "best_score": "The score of `best_llm`: its quality minus the price of its cost.",
    "body": "An OpenAI chat-completions request. It is passed on unchanged. Its last user message is the text.",
    "budget_micros": "The budget of this partition.",
    "Configuration.budget_micros": "The budget of each LLM in this partition, by the LLM's name.",
    "checkpoint_every": "The number of transactions between two checkpoints.",
    "clock_ms": "The lane's clock.",
    "completions": "The last applied offset of `completions`; -1 before the first.",
    "config": "The settings from here on.",
    "cost": "Whether the cost is known, zero (the provider refused before it worked) or unknown (as reserved).",
    "cost_micros": "The estimated cost of an answer, one number for each LLM.",
    "Completion.cost_micros": "What the answer cost. Without it, the cost is computed from `usage`.",
    "Dispatch.cost_micros": "The estimated cost of the answer.",
    "WindowBlock.cost_micros": f"The estimated costs, little-endian int64 [rows, LLMs]. {BYTES}",
    "deadline_ms": "When the dispatch expires.",
    "Query.deadline_ms": "When an answer becomes worth nothing. It is not seconds, and not a duration.",
    "decisions": "The number of decision records that were ever written in this partition.",
    "digest": f"A hash over the dispatch ids of the transaction and `head`. {BYTES}",
    "dispatch_id": "The id of the dispatch, `<partition>-<offset>-<attempt>`.",
    "Completion.dispatch_id": "The `id` of the dispatch that is answered.",
    "dispatches": "The number of dispatches that were ever made in this partition.",
    "embedding": "The query's embedding: little-endian float16 or float32 bytes of the index's dimension (base64 in "
    "JSON), or a list of numbers. It is left out of dispatches.",
    "error": "What went wrong, in words.",
    "error_class": "Why there is no answer. The router acts by it.",
    "fit": "How the prices were found.",
    "gap": "The share of the dual objective that the certificate leaves open.",
    "head": f"The hash of the last decision record. {BYTES}",
    "horizon_floor_queries": "The number of queries still expected, if the horizon is unknown or used up.",
    "horizon_queries": "The number of queries that the budgets must last for; 0 if it is unknown.",
    "id": "The id of the query. Without it, the query is called `<partition>-<offset>`. Use it as the record's key.",
    "Dispatch.id": "The id of the dispatch, `<partition>-<offset>-<attempt>`. A completion names it.",
    "index": "The hash of the index.",
    "input_tokens": "The number of tokens of the whole prompt. Without it, the number is estimated from the text.",
    "iterations": "The number of steps of the solver.",
    "kind": "The kind of the decision.",
    "llm": "The name of the LLM, as the settings have it.",
    "Routed.llm": "The name of the chosen LLM; null if the query was deferred.",
    "llms": "The names of the LLMs. Lists of other records run over them in this order.",
    "margins": "For each LLM: the factor from an estimated cost to the reserved money.",
    "max_attempts": "The largest number of dispatches of one query.",
    "max_output_tokens": "The largest number of tokens of the answer.",
    "message": "What the solver said.",
    "model": "The model that answered, as the provider names it.",
    "objective": "The value of the dual objective.",
    "observe_share": "The share of the horizon that is routed at random first (policy `port`).",
    "offset": "The offset of the query in `queries`.",
    "Rejected.offset": "The offset of the record in its topic.",
    "Closed.offset": "The offset of the completion in `completions`; null if the reservation expired.",
    "Ignored.offset": "The offset of the completion in `completions`.",
    "offsets": "The last applied offset of each input.",
    "origin": "Where the query stands in `queries`.",
    "origin_partition": "The `origin.partition` of the dispatch. The completion must be produced to this partition.",
    "outcome": "How the reservation closed.",
    "overrun_micros": "What was spent or reserved beyond the budget.",
    "Closed.overrun_micros": "What was charged beyond the reservation.",
    "parameters": "Parameters for the inference worker. They are passed on unchanged.",
    "part": "The number of this part of the checkpoint; the first is 0.",
    "partition": "The partition.",
    "parts": "The number of parts of the checkpoint.",
    "policy": "The policy that chooses LLMs.",
    "prev": f"The hash of the decision record before this one. {BYTES}",
    "price": "The price of the LLM's budget: quality for one micro-dollar.",
    "prices": "The price of each LLM's budget: quality for one micro-dollar.",
    "quality": "The estimated quality of an answer, one number in 0..1 for each LLM.",
    "Completion.quality": "How good the answer was, in 0..1, if the inference worker judges it.",
    "Dispatch.quality": "The estimated quality of the answer, in 0..1.",
    "Closed.quality": "How good the answer was, in 0..1, as the completion says.",
    "WindowBlock.quality": f"The estimated qualities, little-endian float32 [rows, LLMs]. {BYTES}",
    "queries": "The last applied offset of `queries`; -1 before the first.",
    "query": "The query as it came, without its embedding.",
    "Deferred.query": "The query as it came, so that it can be sent again; null if it has left its topic.",
    "query_deadline_ms": "The deadline that the query brought.",
    "query_id": "The id of the query; `<partition>-<offset>` if it brought none.",
    "reason": "Why, in words.",
    "Deferred.reason": "Why the query was not served.",
    "Routed.reason": "Why this LLM was chosen, or why the query was deferred.",
    "remarks": "Codes of what was odd about the call or the answer.",
    "remedy": "What would change it, in words.",
    "reservation_ms": "How long money is held for an unanswered dispatch. Milliseconds.",
    "reservations": "The open reservations.",
    "reserved_micros": "The money that is held for the dispatch.",
    "Account.reserved_micros": "The money that is held for open dispatches.",
    "Closed.reserved_micros": "The money that was held for the dispatch.",
    "resolve_every_queries": "The number of queries between two solutions of the prices.",
    "retry_after_ms": "How long the provider wants to be left alone. Milliseconds.",
    "row": "The state of the lane except for its reservations and its window.",
    "seed": "The seed of random choices (policy `port`).",
    "seen": "The number of queries that were priced for the first time.",
    "sequence": "The number of transactions.",
    "skipped": "The LLMs with a higher score that could not reserve enough money.",
    "spent_micros": "The money that was spent.",
    "status": "Whether the call gave an answer.",
    "Fit.status": "How the search for prices ended.",
    "text": "The text of the query.",
    "topic": "The topic of the record.",
    "tried": "The LLMs of the earlier attempts.",
    "usage": "The token counts as the provider returned them.",
    "window": "The estimates of recent queries, by block.",
    "window_from": "The window holds the estimates since `seen` was this number.",
    "window_queries": "Prices are solved on this many of the newest queries.",
}


def described(message: str, field: str) -> str:
    """The description of a field with its unit. Raises KeyError for a field that is not described."""
    text = FIELDS.get(f"{message}.{field}") or FIELDS[field]
    if field.endswith("_micros") and BYTES not in text:
        return f"{text} {MONEY}"
    if field.endswith("_ms") and field not in DURATIONS:
        return f"{text} {MOMENT}"
    return text
