"""All settings of Tollgate, as one frozen object: flag > environment > tollgate.toml > default.

Environment variables are named TOLLGATE_<SECTION>__<NAME>, as in TOLLGATE_KAFKA__BOOTSTRAP_SERVERS (`environment`).
Secrets come from the environment or from a file named by a `*_file` setting, never from tollgate.toml itself.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import structs
from pydantic import (
    AfterValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from typing_extensions import override

from worker.contract import addresses, environment
from worker.contract.budget_settings import BudgetSettings, uncovered
from worker.contract.codec import Format
from worker.contract.codes import Dialect, Feature
from worker.contract.errors import FixSetting
from worker.contract.messages import MAX_WINDOW_QUERIES, UnknownModel
from worker.contract.mistakes import refuse_secrets, told
from worker.contract.price_lists import UnknownPriceList, named_price_list
from worker.contract.section import Dollars, Section
from worker.contract.token_costs import PriceList, Tier
from worker.contract.topic_names import TopicNames
from worker.contract.usage import MICROS_PER_USD

MAX_JSON_QUERY_BYTES = 10_000_000
Positive = Annotated[int, Field(ge=1, le=10**9)]


class KafkaSettings(Section):
    """[kafka]: where the broker is and how the lanes' group is called."""

    bootstrap_servers: Annotated[str, AfterValidator(addresses.checked)] = "127.0.0.1:9092"
    group: str = Field(default="tollgate", pattern=r"^[A-Za-z0-9._-]+$", max_length=100)
    instance_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$", max_length=200)
    topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=100)
    partitions: int = Field(default=4, ge=1, le=1024)
    replication_factor: int = Field(default=1, ge=1, le=10)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    ssl_ca_file: FilePath | None = None
    ssl_certificate_file: FilePath | None = None
    ssl_key_file: FilePath | None = None
    ssl_verify: bool = True
    dispatch_format: Format = "msgpack"
    session_timeout_ms: int = Field(default=10_000, ge=1_000, le=300_000)
    transaction_timeout_ms: int = Field(default=20_000, ge=5_000, le=900_000)

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> KafkaSettings:
        if self.ssl_key_file is not None and self.ssl_certificate_file is None:
            raise ValueError("ssl_key_file needs the ssl_certificate_file that it belongs to")
        return self

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> KafkaSettings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.password()):
            raise ValueError(
                "security_protocol SASL_* needs sasl_username and a password, from the environment "
                "(TOLLGATE_KAFKA__SASL_PASSWORD) or sasl_password_file"
            )
        return self

    def password(self) -> str | None:
        """The SASL password, from the environment or its file."""
        if self.sasl_password is not None:
            return self.sasl_password.get_secret_value()
        if self.sasl_password_file is None:
            return None
        try:
            return self.sasl_password_file.read_text("utf-8").strip()
        except OSError as error:
            raise ValueError(f"sasl_password_file cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError("sasl_password_file cannot be read: it is no UTF-8 text") from error


class IndexSettings(Section):
    """[index]: the history that queries are compared with. `history` is the table that `tollgate index ensure` builds
    it from. `embedding_dtype` is how the bytes of embeddings are read where a query does not say it itself."""

    directory: Path = Path("index")
    history: Path | None = None
    embedding_dtype: Literal["float16", "float32"] | None = None
    search_threads: int = Field(default=1, ge=1, le=64)


class RoutingSettings(Section):
    """[routing]: how prices are found and how long money is held.

    `horizon_queries` is how many queries the budgets are to last for, over all partitions; 0 is unknown, and then, as
    when the horizon is used up, `horizon_floor_queries` (per partition) are taken to be still to come. `unknown_model`
    is what is done with a request that names a model that is no LLM of the settings.
    """

    policy: Literal["priced", "port"] = "priced"
    horizon_queries: int = Field(default=0, ge=0, le=10**15)
    horizon_floor_queries: Positive = 1_000
    resolve_every_queries: Positive = 250
    window_queries: int = Field(default=1_000, ge=1, le=MAX_WINDOW_QUERIES)
    forecast: bool = True
    observe_share: float = Field(default=0.025, gt=0, le=1)
    exploration_share: float = Field(default=0.0, ge=0, le=0.5)
    max_attempts: int = Field(default=2, ge=1, le=100)
    reservation_seconds: int = Field(default=1_800, ge=1, le=30 * 86_400)
    unanswered_seconds: float | None = Field(default=None, gt=0, le=30 * 86_400)
    probe_seconds: int = Field(default=10, ge=1, le=86_400)
    after_content_filter: Literal["defer", "next_llm"] = "defer"
    checkpoint_every: Positive = 1_000
    seed: int = Field(default=0, ge=0, lt=2**63)
    unknown_model: UnknownModel = "ignore"


class LimitSettings(Section):
    """[limits]: what is accepted from outside. What was not too large to read is whole as a dead letter, to be sent
    again."""

    # As MessagePack, JSON grows to 2.25 times its size at most; brokers take no request above 100 MB.
    max_query_bytes: int = Field(default=1_000_000, ge=1_000, le=40_000_000)
    max_header_bytes: int = Field(default=49_152, ge=1_000, le=1_000_000)
    max_completion_bytes: int = Field(default=100_000, ge=1_000, le=50_000_000)
    max_dead_letter_bytes: int = Field(default=1_000_000, ge=1_000, le=50_000_000)
    max_nesting: int = Field(default=64, ge=1, le=500)
    max_cost_usd: Dollars = Decimal(1_000)

    @model_validator(mode="after")
    def _dead_letters_are_whole(self) -> LimitSettings:
        for name in ("max_query_bytes", "max_completion_bytes"):
            if getattr(self, name) > self.max_dead_letter_bytes:
                raise ValueError(
                    f"max_dead_letter_bytes, {self.max_dead_letter_bytes}, is below {name}, {getattr(self, name)}, and "
                    "would cut dead letters that could be sent again; raise it too"
                )
        return self

    @property
    def max_cost_micros(self) -> int:
        """The most that one completion may cost."""
        return int(self.max_cost_usd * MICROS_PER_USD)


class WebSettings(Section):
    """[web]: /healthz, /readyz and /metrics. Port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = Field(default=6066, ge=0, le=65_535)


class InferenceSettings(Section):
    """[inference]: what `tollgate infer` holds and publishes.

    `max_open_bytes` limits the dispatches and answers that one process holds. An answer above `max_answer_bytes` is not
    published; its completion is. A query may name a topic that takes its answer too (header `reply-topic`) if the whole
    name matches `reply_topics`.
    """

    max_open_bytes: int = Field(default=256_000_000, ge=1_000_000, le=10**12)
    max_answer_bytes: int = Field(default=1_000_000, ge=10_000, le=50_000_000)
    answer_retention_hours: int = Field(default=168, ge=1, le=100_000)
    reply_topics: str | None = None

    @field_validator("reply_topics")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class LogSettings(Section):
    """[log]: structured events on standard error."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class TierSettings(Section):
    """[[llms."<name>".tiers]]: prices of a call whose input has more than `above_input_tokens` tokens."""

    above_input_tokens: int = Field(ge=1, le=10**9)
    input_usd_per_mtok: Dollars | None = None
    output_usd_per_mtok: Dollars | None = None
    cached_input_usd_per_mtok: Dollars | None = None
    cache_write_usd_per_mtok: Dollars | None = None
    cache_write_1h_usd_per_mtok: Dollars | None = None


class LlmSettings(Section):
    """[llms."<name>"]: one LLM's prices, and how `tollgate infer` calls it. Without `base_url` it does not call it.

    `budget_usd` is the short form of a budget over this LLM alone, in US dollars.

    `features` and `context_tokens` are what the LLM can do; an LLM without them can do all, for all that is known.
    `model` is the provider's name of the LLM; without it, the name in the settings. `dialects` are the request formats
    that the LLM takes, a plain text goes out in the first. `system` is the system message of plain texts.
    `timeout_seconds` is for a whole call. `answers_as` are names under which the provider answers for this model.
    `honours_idempotency_key`: the provider does not work twice for one Idempotency-Key, so a call that broke is
    repeated. `server_error_cost` is what a failure with status 500 or 502 is taken to have cost.

    `price_list` names a list of the package genai-prices, for example openai/gpt-4o. Prices that are set here replace
    those of the named list, or are the whole list where none is named.

    `like` names an LLM of the index. Until the index knows this LLM, it is estimated as that one.
    """

    budget_usd: Dollars | None = None
    features: tuple[Feature, ...] | None = None
    context_tokens: Positive | None = None
    model: str | None = Field(default=None, min_length=1, max_length=256)
    base_url: str | None = Field(default=None, pattern=r"^https?://[^\s/?#]+\S*$")
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    timeout_seconds: float = Field(default=120, gt=0, le=86_400)
    max_open: int = Field(default=100, ge=1, le=10_000)
    proxy: str | None = Field(default=None, pattern=r"^https?://\S+$")
    dialects: tuple[Dialect, ...] = Field(default=("chat",), min_length=1)
    system: str | None = None
    answers_as: tuple[str, ...] = ()
    honours_idempotency_key: bool = False
    server_error_cost: Literal["unknown", "zero"] = "unknown"
    price_list: str | None = Field(default=None, max_length=200)
    input_usd_per_mtok: Dollars | None = None
    output_usd_per_mtok: Dollars | None = None
    cached_input_usd_per_mtok: Dollars | None = None
    cache_write_usd_per_mtok: Dollars | None = None
    cache_write_1h_usd_per_mtok: Dollars | None = None
    input_audio_usd_per_mtok: Dollars | None = None
    output_audio_usd_per_mtok: Dollars | None = None
    tool_usd_per_1000: Dollars | None = None
    request_usd_per_1000: Dollars | None = None
    batch_factor: Decimal | None = Field(default=None, ge=0, le=1)
    tiers: tuple[TierSettings, ...] = ()
    margin: float | None = Field(default=None, ge=1, le=100)
    like: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _prices_are_whole(self) -> LlmSettings:
        if self.price_list is None and None in (self.input_usd_per_mtok, self.output_usd_per_mtok) and self._own:
            raise ValueError("a price list needs both input_usd_per_mtok and output_usd_per_mtok, or a price_list")
        return self

    @property
    def spoken(self) -> tuple[Dialect, ...] | None:
        """The request formats that the LLM takes; None where they are not known, because another inference worker than
        `tollgate infer` calls it."""
        return self.dialects if self.base_url is not None or "dialects" in self.model_fields_set else None

    @property
    def _own(self) -> dict[str, Any]:
        names = [name for name in PriceList.__struct_fields__ if name != "tiers"]
        own: dict[str, Any] = {name: price for name in names if (price := getattr(self, name)) is not None}
        if self.tiers:
            own["tiers"] = tuple(Tier(**tier.model_dump()) for tier in self.tiers)
        return own

    def prices(self, at: datetime) -> PriceList | None:
        """The price list in force at a time; None where no price is configured. Raises UnknownPriceList."""
        if self.price_list is not None:
            return structs.replace(named_price_list(self.price_list, at), **self._own)
        return PriceList(**self._own) if self._own else None


class Settings(BaseSettings):
    """Everything. `load_settings` makes one; nothing else reads the environment."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    kafka: KafkaSettings = KafkaSettings()
    index: IndexSettings = IndexSettings()
    routing: RoutingSettings = RoutingSettings()
    limits: LimitSettings = LimitSettings()
    web: WebSettings = WebSettings()
    inference: InferenceSettings = InferenceSettings()
    log: LogSettings = LogSettings()
    llms: dict[str, LlmSettings] = {}
    budgets: dict[str, BudgetSettings] = {}

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file."""
        file = TomlConfigSettingsSource(settings_cls)
        variables = environment.nested(os.environ, cls.model_fields, file())
        return init_settings, InitSettingsSource(settings_cls, variables), file

    @field_validator("llms")
    @classmethod
    def _llms_have_names(cls, llms: dict[str, LlmSettings]) -> dict[str, LlmSettings]:
        if not all(name.strip() for name in llms):
            raise ValueError("an LLM's name is empty")
        return llms

    @model_validator(mode="after")
    def _budgets_match(self) -> Settings:
        own = {llm for llm, settings in self.llms.items() if settings.budget_usd is not None}
        if problems := list(uncovered(self.budgets, tuple(self.llms), own)):
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _dispatches_fit(self) -> Settings:
        if self.kafka.dispatch_format == "json" and self.limits.max_query_bytes > MAX_JSON_QUERY_BYTES:
            raise ValueError(
                f'kafka.dispatch_format = "json" needs limits.max_query_bytes of at most {MAX_JSON_QUERY_BYTES}, not '
                f"{self.limits.max_query_bytes}: MessagePack grows to 8 times its size as JSON, and brokers take no "
                "request above 100 MB"
            )
        return self

    def price_lists(self, at: datetime) -> dict[str, PriceList]:
        """The price lists in force at a time, by LLM, of the LLMs that have prices. Raises FixSetting."""
        lists: dict[str, PriceList] = {}
        for llm, settings in self.llms.items():
            try:
                prices = settings.prices(at)
            except UnknownPriceList as error:
                raise FixSetting(f"llms.{llm}.price_list: {error}") from None
            if prices is not None:
                lists[llm] = prices
        return lists

    @property
    def topics(self) -> TopicNames:
        """The names of all topics."""
        return TopicNames(self.kafka.topic_prefix)


def load_settings(path: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Settings from flags (nested dicts), the environment and the file at `path`. Raises FixSetting."""
    if path is not None:
        refuse_secrets(path)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        settings = FromFile(**(flags or {}))
    except ValidationError as error:
        raise FixSetting("\n".join(map(told, error.errors()))) from None
    settings.topics.check(settings.llms)
    return settings
