"""Frozen settings: the only reader of the environment. Every value is checked at start, and passed on as a plain value."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from adapters_store import StoreUrl
from service.errors import InvalidSetting
from service.records import Activation, AdapterKind, BuildConfig, Level, Partition, UnitKind

BUNDLED_MODEL = Path(__file__).parent / "bundled" / "base_model"
_DEFAULTS = BuildConfig()
_DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"

# Of torch, oneDNN (once DNNL), MKL, FBGEMM, OpenBLAS, NumPy and cuBLAS. How many threads they take is not among them: a task
# of a build has one.
_CHOOSE_KERNELS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_CPU_ISA_HINTS",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "FBGEMM_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_VML_DEBUG_CPU_TYPE",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_LINEAR_FLATTEN_3D",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
    "TORCH_MKLDNN_MATMUL_MIN_SIZE",
)

# Variable of an earlier version -> the setting that took its place.
_FORMER = {"LETHE_READINGS_BYTES": "prefill_cache_bytes"}

# Settings that may also be the content of a file, which `LETHE_<NAME>_FILE` names.
SECRETS = ("secret", "retired_secrets", "database_url", "redis_url", "stream_url", "webhook_secret", "store_key")
_LARGEST_SECRET = 65_536  # bytes
_LEAST_KEY, _MOST_KEY = 24, 64  # bytes of a webhook's secret, as Standard Webhooks has it


class Settings(BaseSettings):
    """Read from `LETHE_*`; a variable of that prefix that names no setting is refused."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", frozen=True, extra="forbid")

    home: Path = Field(Path(".lethe"), description="Folder of the ledger, the store and the keys")
    database_url: str | None = Field(None, description="Ledger; default: SQLite in the home folder")
    redis_url: str | None = Field(None, description="Bell and courtesy lock; default: polling")
    store_url: str | None = Field(
        None,
        description="Store of adapters, memories and generations: file:///path or s3://bucket/prefix (extra s3; server and "
        "credentials by boto3's own variables); default: a folder in the home folder",
    )
    store_cache_bytes: int = Field(
        256 * 2**20, ge=0, description="Memory of each process for files read from a bucket; erased ones leave it, too"
    )
    store_copies: Literal["", "yes-copies-may-stay"] = Field(
        "",
        description="yes-copies-may-stay: take a bucket with Object Lock, replication or MFA for deletions, which may keep "
        "what is erased, or copies of it",
    )
    store_encryption: Literal["off", "per-artifact"] = Field(
        "off",
        description="per-artifact: encrypt each adapter, memory and generation with a key of its own, which a deletion "
        "destroys; for an empty store",
    )
    store_key: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="Key that wraps these keys, 64 hexadecimal digits; default: store.key in the home folder",
    )
    stream_url: str | None = Field(
        None,
        description="Redis that `lethe ingest --stream` reads, which must keep what it has; default: LETHE_REDIS_URL",
    )
    secret: str | None = Field(
        None, min_length=16, description="Key of all keyed hashes; default: a file in the home folder"
    )
    retired_secrets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Secrets from before a rotation, comma-separated: nothing else recognizes who was forgotten under them",
    )

    host: str = Field("127.0.0.1", description="Address that the server listens on")
    port: int = Field(8000, ge=0, le=65535, description="Port that the server listens on")
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?$",
        description="Prefix of the URL behind a proxy, e.g. /lethe, whether or not the proxy takes it off",
    )
    open: Literal["", "yes-anyone-may-erase"] = Field(
        "",
        description="yes-anyone-may-erase: listen beyond this machine although there is no API key, and serve whoever comes",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names under which the service may be called, comma-separated, *.example.org and * too; default: any, but "
        "only this machine's own while there is no API key",
    )
    oidc_jwks_url: str | None = Field(
        None,
        description="Where an identity provider publishes its keys (JWKS): its access tokens are taken beside API keys",
    )
    oidc_issuer: str | None = Field(None, description="Who must have issued a token (`iss`); with LETHE_OIDC_JWKS_URL")
    oidc_audience: str | None = Field(None, description="For whom a token must be (`aud`); with LETHE_OIDC_JWKS_URL")
    oidc_scopes_claim: str = Field(
        "scope", min_length=1, description="The claim that holds scopes of Lethe: a list, or a text with blanks between"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses of proxies whose X-Forwarded-For is believed, comma-separated"
    )
    requests_per_minute: int = Field(60_000, ge=1, description="Requests of each API key, or address without one")
    tokens_per_minute: int = Field(12_000_000, ge=1, description="Tokens scored a minute for each key or address")
    deletions_per_minute: int = Field(
        16, ge=1, description="Deletions of each key or address; for many at once there is `lethe forget`"
    )
    catalog_only: bool = Field(
        False,
        description="Rank items of the catalog alone; a key with the scope `titles` may name other titles all the same",
    )
    max_request_tokens: int = Field(16_384, ge=1, description="Tokens that one request may have scored; beyond: 413")
    max_head_bytes: int = Field(32_768, ge=1024, description="Largest request head: request line and headers")
    max_connections: int = Field(1_000, ge=1, description="Open connections; the idle ones make room for new ones")
    max_connections_per_address: int = Field(500, ge=1, description="Open connections of one address")
    audit_days: float = Field(400, gt=0, description="Days for which the audit trail keeps an entry")
    impressions_days: float = Field(
        0,
        ge=0,
        description="Days for which it is held what known people were shown, for `lethe quality`; 0: it is not held at all",
    )
    max_body_bytes: int = Field(262_144, ge=1024, description="Largest request body, also after gzip is unpacked")
    max_batch_bytes: int = Field(
        4 * 2**20,
        ge=1024,
        description="Largest body of many rows (events, items, deletions), also after gzip is unpacked",
    )
    liked_above: float = Field(3.0, description="A rating of an event above this counts as liked")
    liked_events: Annotated[tuple[str, ...], NoDecode] = Field(
        ("like", "play", "purchase", "save", "share"),
        description="Kinds of events that say that the item is liked, comma-separated",
    )
    disliked_events: Annotated[tuple[str, ...], NoDecode] = Field(
        ("dislike", "return", "skip"), description="Kinds of events that say that it is not"
    )
    ignored_events: Annotated[tuple[str, ...], NoDecode] = Field(
        ("click", "impression", "view"), description="Kinds of events that are taken for neither, and not held"
    )
    request_timeout: float = Field(10.0, gt=0, description="Seconds until a request is answered 503")
    max_batch_tokens: int = Field(2048, ge=1, description="Tokens of contexts and questions scored in one batch")
    max_queued_tokens: int = Field(1_048_576, ge=1, description="Tokens that may wait before 429")
    context_cache_bytes: int = Field(
        256 * 2**20, ge=0, description="Memory for contexts that were read; every deletion empties it"
    )
    prefill_cache_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="Memory of a worker for contexts that builds read, twice as much during a build; a deletion wipes "
        "those of its person",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG | INFO | WARNING | ERROR"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Of servers and workers: json | text | auto (text on a terminal, JSON elsewhere)"
    )

    model: str = Field(str(BUNDLED_MODEL), description="Frozen model: a folder or a Hugging Face hub id")
    model_revision: str | None = Field(None, description="Commit of the hub id")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Of the frozen model: auto (bfloat16 on a GPU that has it, else float32) | float32 | bfloat16 | float16",
    )
    device: str = Field(
        "auto",
        pattern=_DEVICE,
        description="What serves: auto (the first GPU that torch sees, else cpu) | cpu | cuda:N",
    )
    train_device: str = Field(
        "auto",
        pattern=_DEVICE,
        description="What builds: auto (a GPU of the same kind that does not serve, else what serves) | cpu | cuda:N",
    )
    train_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of a GPU's memory (and, under MPS, of its processors) that builds may take where it also serves",
    )
    adapter_bytes: int = Field(
        0, ge=0, description="Memory of a GPU for adapters; the others wait in the host's memory. 0: all are resident"
    )
    threads: int = Field(
        0, ge=0, description="CPU threads for scoring; 0: all cores but one, which the event loop and builds want"
    )
    build_processes: int = Field(0, ge=0, description="Processes that build; 0: all cores, or 1 on a GPU")
    forget_deadline: float = Field(86_400, gt=0, description="Seconds after which an owed deletion is overdue")
    due_days: float = Field(
        30, gt=0, description="Days after which a deletion is due, told as `due_at`; Art. 12(3) of the GDPR: a month"
    )
    webhook_url: str | None = Field(
        None, description="Told when a deletion is masked, completed or has failed: request id, state and times"
    )
    webhook_secret: str | None = Field(
        None,
        description="Key of the notifications' signatures: whsec_ and base64 of 24 to 64 random bytes (Standard Webhooks)",
    )
    webhook_allow_private: bool = Field(
        False,
        description="Let LETHE_WEBHOOK_URL be http://, and name an address that is private, loopback or link-local",
    )
    remember_days: float = Field(
        30,
        ge=0,
        description="Days for which a deletion that found nothing keeps out rows older than itself, which may be under way",
    )
    build_every: float = Field(
        0.0, ge=0, description="Seconds after which a worker lets count what has arrived, by a full build; 0: never"
    )
    build_after_interactions: int = Field(
        0, ge=0, description="Rows that have arrived after which it does; 0: never, only `lethe build` does"
    )
    retry_seconds: float = Field(5.0, gt=0, description="First pause after a failed deletion; doubles up to 5 minutes")

    max_shard_size: int = Field(_DEFAULTS.max_shard_size, ge=1, description="t: training samples per shard, at most")
    partition: Partition = Field(
        "tree", description="tree (public, strict) | algorithm1 (the paper's, recorded) | random"
    )
    unit: UnitKind = Field("user", description="What a shard never splits: user | sample")
    tree_depth: int = Field(_DEFAULTS.tree_depth, ge=0, le=8, description="Semantic levels of the public tree")
    activation: Activation = Field(
        "question", description="Tokens that meet the adapters: question (the target's) | prompt (all)"
    )
    level: Level = Field("ND", description="How adapters blend: ND (eq. 6) | D (eq. 5)")
    samples_per_user: int = Field(_DEFAULTS.samples_per_user, ge=1, description="Newest windows kept of each user")
    negatives: int = Field(
        _DEFAULTS.negatives,
        ge=0,
        description="Items not met that train and validate as disliked, for each like; 0: none, the papers' setting",
    )
    history_length: int = Field(_DEFAULTS.history_length, ge=1, le=50, description="Past items in a prompt")
    validation_percent: float = Field(
        _DEFAULTS.validation_percent, ge=0, le=90, description="Users held out for routing, in percent"
    )
    adapter: AdapterKind = Field(
        _DEFAULTS.adapter, description="Kind of every adapter: lora | rslora | dora | vera | ia3 (which has no rank)"
    )
    lora_rank: int = Field(_DEFAULTS.lora_rank, ge=1, le=512, description="r of every adapter")
    lora_alpha: int = Field(
        _DEFAULTS.lora_alpha, ge=1, description="lora and dora are scaled by alpha / r, rslora by alpha / √r"
    )
    lora_targets: Annotated[tuple[str, ...], NoDecode] = Field(
        _DEFAULTS.lora_targets,
        min_length=1,
        description="Linear layers that adapters are on, comma-separated; embed_tokens: the tokens of items, too",
    )
    adapt_from_layer: int = Field(
        _DEFAULTS.adapt_from_layer,
        ge=0,
        description="First layer with adapters, from 0; higher: a person is forgotten faster, each adapter can learn less",
    )
    epochs: int = Field(_DEFAULTS.epochs, ge=1, description="Passes over a shard's samples")
    learning_rate: float = Field(_DEFAULTS.learning_rate, gt=0, lt=1, description="Peak rate of AdamW")
    batch_size: int = Field(_DEFAULTS.batch_size, ge=1, description="Samples per training step")
    seed: int = Field(_DEFAULTS.seed, ge=0, lt=2**31, description="Of splits, hashes and training; public")
    top_n: int = Field(_DEFAULTS.top_n, ge=1, description="n: validation neighbors that decide the weights")
    tau: float = Field(_DEFAULTS.tau, ge=0, description="Sharpness of the weights; 0: all equal")
    top_m: int = Field(_DEFAULTS.top_m, ge=1, description="m: adapters that answer a request, at most")

    memory_shard_size: int = Field(
        _DEFAULTS.memory_shard_size, ge=1, description="Interactions per memory, at most; a deletion masks one memory"
    )
    min_people: int = Field(
        _DEFAULTS.min_people, ge=1, description="Distinct people behind a pair of items, or it counts for nothing"
    )

    @field_validator(
        "lora_targets",
        "retired_secrets",
        "liked_events",
        "disliked_events",
        "ignored_events",
        "allowed_hosts",
        "trusted_proxies",
        mode="before",
    )
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("store_url")
    @classmethod
    def _of_a_folder_or_a_bucket(cls, value: str | None) -> str | None:
        if value is not None:
            StoreUrl.parse(value)
        return value

    @field_validator("root_path")
    @classmethod
    def _without_final_slash(cls, value: str) -> str:
        return value.removesuffix("/")

    @model_validator(mode="after")
    def _an_event_has_one_meaning(self) -> Settings:
        kinds = [kind.casefold() for kind in (*self.liked_events, *self.disliked_events, *self.ignored_events)]
        if len(set(kinds)) < len(kinds):
            raise ValueError("a kind of event stands in two of liked_events, disliked_events and ignored_events")
        return self

    @model_validator(mode="after")
    def _tokens_are_checked_whole(self) -> Settings:
        given = [self.oidc_jwks_url, self.oidc_issuer, self.oidc_audience]
        if any(given) and not all(given):
            raise ValueError(
                "oidc_jwks_url, oidc_issuer and oidc_audience belong together: a token of another issuer, or for another "
                "service, must not open this one"
            )
        url = urlsplit(self.oidc_jwks_url or "")
        if self.oidc_jwks_url and url.scheme != "https" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("oidc_jwks_url must begin with https://, or whoever is in between could sign tokens")
        return self

    @model_validator(mode="after")
    def _notifications_are_signed_and_go_to_one_place(self) -> Settings:
        if (self.webhook_url is None) != (self.webhook_secret is None):
            raise ValueError("webhook_url and webhook_secret belong together: whoever is told must know by whom")
        if self.webhook_url is not None:
            self.webhook_key()
            url = urlsplit(self.webhook_url)
            if url.scheme not in ("http", "https") or not url.hostname or url.username or url.fragment:
                raise ValueError("webhook_url must be https://, with a host, without a user, a password and a fragment")
            if url.scheme == "http" and not self.webhook_allow_private:
                raise ValueError("webhook_url must begin with https://, unless webhook_allow_private is set")
        return self

    @model_validator(mode="after")
    def _a_user_fits_into_a_shard(self) -> Settings:
        most = self.samples_per_user * (1 + self.negatives)
        if self.unit == "user" and most > self.max_shard_size:
            named = "samples_per_user * (1 + negatives)" if self.negatives else "samples_per_user"
            raise ValueError(
                f"{named} ({most}) exceeds max_shard_size ({self.max_shard_size}): "
                "one person would not fit into a shard; lower the first or raise the second"
            )
        return self

    def build_config(self) -> BuildConfig:
        """The part that decides a generation."""
        return BuildConfig(**{name: getattr(self, name) for name in BuildConfig.__dataclass_fields__})

    def ledger_at(self) -> str | Path:
        """The URL that was given, or the SQLite file in the home folder: a path, so that no character of it means anything."""
        return self.database_url or self.home.absolute() / "ledger.sqlite"

    def due_seconds(self) -> float:
        """From the acceptance of a deletion until it is due."""
        return 86_400.0 * self.due_days

    def webhook_key(self) -> bytes:
        """What notifications are signed with. Raises ValueError if `webhook_secret` is none."""
        prefix, _, encoded = (self.webhook_secret or "").partition("_")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if prefix != "whsec" or not _LEAST_KEY <= len(key) <= _MOST_KEY:
            raise ValueError(
                f"webhook_secret must be whsec_ and then base64 of {_LEAST_KEY} to {_MOST_KEY} random bytes; "
                "`openssl rand -base64 32` makes such"
            )
        return key

    def environment(self) -> dict[str, str]:
        """The variables that make a child process read these same settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        plain = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}
        inherited = {name: value for name, value in os.environ.items() if name not in _FORMER}
        # A secret that came from a file is read from there again, rather than shown to whoever looks at the environment.
        in_files = _files_of(os.environ)
        stated = {f"LETHE_{name.upper()}": value for name, value in plain.items() if name not in in_files}
        return {**inherited, **stated}

    def scoring_threads(self) -> int:
        return self.threads or max(1, self.cores() - 1)

    def cores(self) -> int:
        """Processors that this process may use; where the system does not say (outside Linux), all that there are."""
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1


def withhold_store_key() -> None:
    """Take the key that wraps a store's keys out of what processes inherit that are begun from now on."""
    for variable in ("LETHE_STORE_KEY", _file_variable("store_key")):
        os.environ.pop(variable, None)


def kernel_variables(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those that are set and say which kernels the numeric libraries choose: not settings of ours, but bits depend on them."""
    return {name: value for name in _CHOOSE_KERNELS if (value := variables.get(name))}


@dataclass(frozen=True, slots=True)
class TelemetryVariables:
    """What OpenTelemetry's standard variables ask of a process: an exporter for each signal (otlp, console), or None."""

    traces: str | None
    metrics: str | None
    protocol: str


def telemetry_variables(variables: Mapping[str, str] | None = None) -> TelemetryVariables:
    """An exporter is asked for by its name, or by an endpoint for it. Else nothing is sent, whatever the SDK's default is."""
    given = os.environ if variables is None else variables
    disabled = given.get("OTEL_SDK_DISABLED", "").lower() == "true"

    def exporter(signal: str) -> str | None:
        endpoint = given.get("OTEL_EXPORTER_OTLP_ENDPOINT") or given.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        named = given.get(f"OTEL_{signal}_EXPORTER") or ("otlp" if endpoint else "none")
        return named if named in ("otlp", "console") and not disabled else None

    return TelemetryVariables(
        exporter("TRACES"), exporter("METRICS"), given.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )


def load_settings(**given: object) -> Settings:
    """Settings from the environment, overridden by what is given (None means: not given).

    Raises:
        InvalidSetting: names each wrong setting and what was expected; values are not repeated.
    """
    try:
        former = {name: os.environ[variable] for variable, name in _FORMER.items() if variable in os.environ}
        in_files = _files_of(os.environ)
        known = {f"LETHE_{name}".upper() for name in Settings.model_fields} | _FORMER.keys()
        known |= {_file_variable(name) for name in SECRETS}
        unknown = sorted(name for name in os.environ if name.upper().startswith("LETHE_") and name.upper() not in known)
        if unknown:
            raise InvalidSetting(f"unknown settings in the environment: {', '.join(unknown)}; see `lethe settings`")
        stated = {name: value for name, value in given.items() if value is not None}
        read = {name: _content(name, path) for name, path in in_files.items() if name not in stated}
        return Settings(**(former | read | stated))  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(
            f"{'LETHE_' + str(fault['loc'][0]).upper() + ': ' if fault['loc'] else ''}{fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise InvalidSetting(faults) from None


def _file_variable(name: str) -> str:
    return f"LETHE_{name.upper()}_FILE"


def _files_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Setting -> the file that holds it. Raises InvalidSetting where the environment holds it, too."""
    found = {name: variables[_file_variable(name)] for name in SECRETS if _file_variable(name) in variables}
    for name in found:
        if f"LETHE_{name.upper()}" in variables:
            raise InvalidSetting(f"both LETHE_{name.upper()} and {_file_variable(name)} are set; take one away")
    return found


def _content(name: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_SECRET + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{_file_variable(name)}: the file cannot be read ({type(error).__name__})") from None
    if not content or len(content) > _LARGEST_SECRET:
        raise InvalidSetting(f"{_file_variable(name)}: the file is empty, or too large for a secret")
    return content
