"""Sentences for people, made from codes when they are shown. Nothing reads, compares or hashes them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from worker.contract.codes import DeferReason, Exclusion, FitCode, Lack, Reason, Remedy, RemedyCode, Resource, Untold
from worker.contract.completions import Remark

UNITS: dict[Resource, str] = {
    "usd": "micro-dollars",
    "tokens": "tokens",
    "requests": "requests",
    "open": "open dispatches",
}

REASONS = {
    "empty": "the record has no value",
    "too_large": "the value has {detail} bytes; the limit is {limit}",
    "unknown_field": "there is no field {detail!r}",
    "headers": "the key and headers have {detail} bytes; the limit is {limit}",
    "header_name": "the name of a header is not UTF-8",
    "no_text": "the query has no embedding, no text, and no body with a text of a user (an image or a sound alone has "
    "none)",
    "empty_text": "the text has nothing that can be embedded",
    "no_embedding": "the index was built on supplied embeddings: send an embedding",
    "embedding_zero": "every number of the embedding is zero",
    "embedding_nan": "the embedding has a number that is not finite in float32",
    "embedding_ambiguous": "the embedding has {detail} bytes: {limit} numbers of float16 or half as many of float32; "
    "say which in embedding_dtype, or in the setting index.embedding_dtype",
    "embedding_byte_order": "the embedding has a length that no model makes: its bytes are big-endian; send "
    "little-endian",
    "embedding_of_another_model": "the embedding was made by {detail}, but the index was built with another embedder",
    "utf16": "the value is UTF-16: send UTF-8",
    "compressed": "the value is compressed (gzip, zstd or another): set compression in the Kafka producer instead",
    "array": "the value is an array: send one object per record",
    "quoted_json": "the value is a JSON string that holds JSON: send the object itself",
    "confluent_frame": "the value is a Confluent frame without JSON or MessagePack (Avro or Protobuf?): send JSON "
    "or MessagePack",
    "half_surrogate": "the JSON has half a surrogate pair, which is not a character: a text was cut in the middle",
    "connect_envelope": "the value is a Kafka Connect envelope: set value.converter.schemas.enable=false",
    "deadline_in_seconds": "deadline_ms is {detail}, a time in 1970: it is in milliseconds, not seconds",
    "beside_request": "{detail} stands beside a request's own fields: put the request under `body`, or send {detail} "
    "as a header `tollgate-...`",
    "batch_url": "the batch line's url {detail!r} is not one of /v1/chat/completions, /v1/completions, /v1/responses "
    "and /v1/messages, or its body is not a request of that API",
    "embeddings": "the request asks for embeddings, and LLMs answer none: send it to the server of embeddings itself",
    "header_value": "the value of the header {detail} cannot be read",
    "unknown_header": "there is no header {detail!r}: see the headers that begin with tollgate-",
    "unknown_model": "the request's model {detail!r} is no LLM of the settings, and routing.unknown_model is refuse",
    "tags": "the tags cannot be used ({detail}): send at most 16 names with values, of at most 64 characters each",
    "partition": "the dispatch is of partition {detail}: send its completion to that partition",
    "dispatch_id": "dispatch_id is missing, or it is not <partition>-<offset>-<attempt>",
    "unknown_budget": "there is no budget {detail!r}",
    "budget_exists": "there is a budget {detail!r} already: remove it first, or set its amount",
    "another_resource": "the budget counts {detail}: name that resource",
    "too_many_budgets": "there are {limit} budgets, and no more can be added: remove one first",
    "unpublishable": "the topic {detail} does not take what follows from this record (Kafka's answer {limit})",
    "number": "{detail} has an integer of more than 64 bits, which MessagePack cannot hold",
    "unknown_llm": "an inference worker says that {detail} is unavailable, which is no LLM of the settings",
    "unmatched": "the lane knows no dispatch of this id: it was never made, or it closed long ago",
}
DIMENSION = (
    "the embedding has a length of {length}, but the index has {dimension} numbers: send a list of {dimension} "
    "numbers, {half} bytes (float16) or {single} bytes (float32)"
)
FORMATS = {"msgpack": "MessagePack", "json": "JSON"}
REMARKS: dict[Remark, str] = {
    "cost_not_a_number": "the cost is not a number; the usage is priced, or the whole reservation is booked",
    "cost_negative": "the cost is negative; the usage is priced, or the whole reservation is booked",
    "cost_in_dollars": "cost_micros is below 1: send dollars as cost_usd; the usage or the reservation is booked",
    "cost_above_limit": "the cost is above limits.max_cost_usd; the usage is priced, or the limit is booked",
    "no_price_list": "there is usage but no price: set llms.<name>.price_list, or its input and output prices",
    "unpriced_input_audio": "audio went in, but the price list has no input_audio_usd_per_mtok",
    "unpriced_output_audio": "audio came out, but the price list has no output_audio_usd_per_mtok",
    "unpriced_tool_calls": "the provider's tools were called, but the price list has no tool_usd_per_1000",
    "unpriced_service_tier": "the call had a service tier that the price list has no price for",
    "usage_absent": "there is neither a cost nor usage; the whole reservation is booked",
    "usage_no_counts": "the usage has no counts of tokens under a known name; the whole reservation is booked",
    "usage_not_a_count": "a count of the usage is not a whole number of tokens; the whole reservation is booked",
    "usage_partial": "the usage has input or output tokens but not both; the whole reservation is booked",
    "usage_zero": "the usage says that nothing was used; the whole reservation is booked unless the LLM is free",
    "llm_spelled_otherwise": "the completion names another LLM than its dispatch; the LLM of the dispatch is charged",
    "partition": "origin_partition is missing or wrong; the partition of the dispatch's id is taken",
    "status": "the status is neither ok nor error; it was understood by other words",
    "quality": "the quality is not a number between 0 and 1; it is left out",
    "unknown_field": "the completion has fields that Tollgate does not know; they are left out",
    "second_answer": "another dispatch of the query was answered first: both answers cost money",
    "loading": "the LLM's server is still loading its model",
    "limit_reached": "the limit of output tokens was reached before there was an answer",
    "kept_connection": "the provider closed a kept connection when the next request came",
    "worker_lost": "the inference worker of the call was gone before it could say how the call ended",
    "worker_stopped": "the inference worker stopped, or gave its partition away, while the call was open",
    "deadline": "the deadline left no time for a call: send later deadlines, or lower llms.<name>.timeout_seconds",
}
DEFERRALS: dict[DeferReason, str] = {
    "priced_out": "no LLM is worth its price",
    "exhausted": "no LLM that is worth its price has enough budget",
    "expired": "the deadline has passed",
    "duplicate": "a dispatch of the same query id is open",
    "failed": "every attempt failed, or the query has left its topic",
    "unanswered": "no LLM has answered in time, and no other LLM can be asked",
    "unavailable": "every LLM that is worth its price is taken out, because its calls fail or nobody answers",
    "filtered": "the provider's content filter refused the request or its answer",
    "no_candidate": "no LLM is a candidate for the query",
}
REMEDIES: dict[RemedyCode, str] = {
    "lower_prices": "raise the budgets or send fewer queries: prices fall",
    "later_deadline": "send it with a later deadline_ms",
    "close_dispatch": "complete the open dispatch of this query id, or wait until it expires",
    "send_again": "send it again",
    "allow_next_llm": 'change the request, or set routing.after_content_filter = "next_llm"',
}
EXCLUSIONS: dict[Exclusion, str] = {
    "denied": "the query denies it",
    "not_allowed": "the query does not allow it",
    "not_wished": "the request names another model",
    "dialect": "it does not take the request's format",
    "context": "the request is longer than its context_tokens",
    "tools": "it has no tools",
    "vision": "it sees no images",
    "json": "it gives no JSON",
}
FITS: dict[FitCode, str] = {
    "no_prices": "no prices were solved for yet",
    "no_estimates": "there are no estimates to solve on",
    "solved": "the solver reached its tolerance",
    "iterations": "the solver used all its iterations",
    "line_search": "the solver found no lower objective in this direction",
    "not_finite": "the solution has prices that are not finite",
    "not_lower": "the solution has a higher objective than the old prices",
    "fixed": "the prices are fixed",
    "not_recorded": "no solution is recorded here",
}

UNTOLD: dict[Untold, str] = {
    "no_overlap": "for more than 5 % of the rows, the log hardly ever asked the LLM that the policy chooses: what it "
    "would have answered is not known",
    "few_answers": "fewer than 30 rows were answered by the LLM that the policy chooses",
    "uneven_weights": "few rows stand for most of the others: they tell as much as fewer than 50 answers",
}


def reason(why: Reason) -> str:
    """Why a record is a dead letter."""
    match why.code:
        case "format" if why.detail in FORMATS:
            return f"the value is not valid {FORMATS[why.detail]}"
        case "format":
            return f"the first byte is {why.detail}: the value is neither a MessagePack map nor a JSON object"
        case "type":
            return f"{why.detail or 'the value'} has another type than the schema says, or is out of its range"
        case "nesting":
            place = why.detail or "the value"
            return f"{place} is nested too deeply" + ("" if why.limit is None else f"; the limit is {why.limit} levels")
        case "embedding_dimension":
            dimension = why.limit or 0
            return DIMENSION.format(length=why.detail, dimension=dimension, half=2 * dimension, single=4 * dimension)
        case code:
            return REASONS[code].format(detail=why.detail, limit=why.limit)


def deferral(reason: DeferReason, what: Remedy) -> str:
    """Why a query is not served now, and what would change that."""
    return f"{DEFERRALS[reason]}; {remedy(what)}"


def remedy(what: Remedy) -> str:
    """What would let a deferred query be served."""
    if what.code == "raise_budget":
        return f"raise a budget: {', '.join(_lacks(*each) for each in what.lacking.items())}"
    if what.code == "change_request":
        why = [f"{llm}: {EXCLUSIONS[code]}" for llm, code in what.excluded.items()]
        return f"change the request, or what it allows ({'; '.join(why)})"
    return REMEDIES[what.code]


def _lacks(llm: str, lacking: Sequence[Lack]) -> str:
    """What one LLM lacks. A budget of the same name is its own."""
    own = len(lacking) == 1 and lacking[0].budget == llm
    told = [f"{one.amount} {UNITS[one.resource]}" + ("" if own else f" of {one.budget}") for one in lacking]
    return f"{llm} lacks {' and '.join(told)}"


def untold(code: Untold) -> str:
    """Why an evaluation of a log tells no figure of a policy."""
    return UNTOLD[code]


def fit(code: FitCode) -> str:
    """How the solver of prices ended, or why it found nothing."""
    return FITS[code]
