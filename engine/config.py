"""What an engine is told when it starts. `tgi_cli.options` fills these from flags, environment and files."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    path: str  # a local directory; `engine.hub` turns a model id into one
    dtype: str | None = None  # float32, bfloat16 or float16; None = what the runtime does best
    quantize: str | None = None  # how linear layers are quantized at load, such as int8; None = not at all
    kv_cache_dtype: str | None = None  # float32, bfloat16 or int8; None = bfloat16, or float32 with that dtype
    runtime: str = "auto"  # a name of engine.runtimes, or auto
    threads: int | None = None  # None = the physical cores this process may use


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    block_size: int = 16
    num_blocks: int | None = None  # with the reserved one; None = from max_batch_total_tokens or the memory at hand
    prefix_caching: bool = True


@dataclass(frozen=True, kw_only=True)
class SchedulerOptions:
    """The knobs of admission. The names and meanings are TGI's."""

    max_batch_prefill_tokens: int = 4096  # tokens computed in one step
    max_batch_total_tokens: int | None = None  # tokens held in the KV cache
    max_batch_size: int = 128  # requests running at once
    max_total_tokens: int | None = None  # prompt and answer of one request; None = what the model allows
    max_waiting_requests: int | None = None  # None = unbounded
    waiting_served_ratio: float | None = None  # None = admit at once
    max_waiting_tokens: int | None = None  # steps after which a waiting prompt is admitted anyway
    policy: str = "fcfs"  # fcfs, priority or fair


@dataclass(frozen=True, kw_only=True)
class SpecOptions:
    num_draft: int = 0  # draft tokens a step; 0 = off
    method: str = "ngram"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    model: ModelOptions
    cache: CacheOptions = field(default_factory=CacheOptions)
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    spec: SpecOptions = field(default_factory=SpecOptions)
    json_logs: bool = False  # of an engine in a process of its own


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What the HTTP process is told. Limits are TGI's, with TGI's defaults."""

    model_id: str  # as the user named it; what /info and /v1/models show
    revision: str | None = None
    hostname: str = "127.0.0.1"
    port: int = 3000
    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_input_tokens: int | None = None  # None = max_total_tokens - 1
    max_client_batch_size: int = 4
    validation_workers: int = 2
    payload_limit: int = 2_000_000
    enable_prefill_logprobs: bool = (
        False  # only asked with tgi_compat "strict"; else scores of the prompt are always there
    )
    max_n: int = 8  # answers to one prompt on OpenAI's routes
    disable_grammar_support: bool = False
    logprobs: str = "raw"  # of the model's own distribution, or "processed": after penalties and filters, as TGI's
    tgi_compat: str = "default"  # or "strict": TGI's behaviour also where ours is better, see engine/server/strict.py
    tool_call_parser: str = "auto"  # llama3, mistral, hermes, json or none; auto = what the chat template shows
    reasoning_parser: str = "auto"  # think or none; auto = what the chat template shows
    embedding_model_id: str | None = None  # an encoder that answers embedding requests beside the model
    max_embedding_batch_size: int = 2048  # texts in one such request; OpenAI's limit
    public_info: bool = False  # /info and the model list answer without a key, as TGI's do
    otlp_endpoint: str | None = None
    otlp_service_name: str = "text-generation-inference.router"
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_allow_origin: tuple[str, ...] = ()
    tokenizer_config_path: str | None = None
    graceful_termination_timeout: int = 90

    @property
    def strict(self) -> bool:
        return self.tgi_compat == "strict"
