"""Every flag of `tgi serve`: TGI's launcher flags, then ours. One entry says all there is to know about a flag.

`fills` names the field of `engine.config` a flag sets (`scheduler.max_batch_size`), and that field holds its default.
`no_effect` says why setting a flag changes nothing; `unavailable` why it is refused, which is for flags that would
change the answers. TGI's flags read TGI's environment variables (MAX_BATCH_SIZE of --max-batch-size); those that are
ours read TGI_ and the name, because names such as THREADS belong to nobody.
"""

from dataclasses import MISSING, fields, replace
from functools import partial

from engine.config import CacheOptions, ModelOptions, SchedulerOptions, ServerOptions, SpecOptions
from tgi_cli.flags import Flag

SECTIONS = {
    "model": ModelOptions,
    "cache": CacheOptions,
    "scheduler": SchedulerOptions,
    "spec": SpecOptions,
    "server": ServerOptions,
}

Count = partial(Flag, kind=int, at_least=1)
Port = partial(Flag, kind=int, at_least=0, at_most=65535)
Switch = partial(Flag, kind=bool)

ONE_DEVICE = "the model runs on one device, in one engine process"
NO_GPU = "no runtime of this version uses a GPU"
NO_WATERMARK = "answers are not watermarked yet"
NO_REPORTS = "nothing is ever reported"
NO_TUNNEL = "there is no ngrok tunnel; put a reverse proxy in front"

METHODS = ("int8", "int4", "eetq", "fp8", "bitsandbytes-nf4", "bitsandbytes-fp4", "compressed-tensors")
IN_CONFIG = "the model's config.json decides; set rope_scaling there"

MODEL = (
    Flag("model-id", "Hub id or local directory; the same as MODEL"),
    Flag("revision", "Branch, tag or commit of a hub model", fills="server.revision"),
    Flag(
        "dtype",
        "What the weights are rounded to; unset: as stored. Computing is in float32",
        choices=("float32", "bfloat16", "float16"),
        fills="model.dtype",
    ),
    Flag(
        "quantize",
        "How to quantize the weights at start; int8 and int4 are ours, the others as those libraries do",
        metavar="METHOD",
        choices=METHODS,
        fills="model.quantize",
    ),
    Flag(
        "tokenizer-config-path",
        "A tokenizer_config.json to read the chat template from",
        metavar="FILE",
        fills="server.tokenizer_config_path",
    ),
    Flag("huggingface-hub-cache", "Directory of the hub cache", metavar="DIR"),
    Flag("lora-adapters", "Adapters to load", many=True, unavailable="this version loads no adapters"),
    Flag("weights-cache-override", "Directory of the weights", unavailable="name that directory as the model instead"),
    Flag("rope-scaling", "Rotary scaling to use", choices=("linear", "dynamic"), unavailable=IN_CONFIG),
    Flag("rope-factor", "Factor of --rope-scaling", kind=float, above=0, unavailable=IN_CONFIG),
    Switch("trust-remote-code", "Run code from the model repository", no_effect="such code is never run, nor needed"),
)

LIMITS = (
    Count(
        "max-concurrent-requests",
        "Requests in the server at once; more are turned away with 429",
        fills="server.max_concurrent_requests",
    ),
    Flag(
        "max-total-tokens",
        "Prompt and answer of one request, in tokens; unset: what the model allows",
        kind=int,
        at_least=2,
        fills="scheduler.max_total_tokens",
    ),
    Count(
        "max-input-tokens",
        "Prompt of one request, in tokens; unset: one less than the total",
        fills="server.max_input_tokens",
    ),
    Count("max-input-length", "TGI's older name of --max-input-tokens", fills="server.max_input_tokens"),
    Count("max-best-of", "Largest best_of", fills="server.max_best_of"),
    Count("max-stop-sequences", "Stop sequences of one request", at_least=0, fills="server.max_stop_sequences"),
    Count("max-top-n-tokens", "Largest top_n_tokens", at_least=0, fills="server.max_top_n_tokens"),
    Count("max-client-batch-size", "Prompts in one request", fills="server.max_client_batch_size"),
    Count("payload-limit", "Largest request body, in bytes", fills="server.payload_limit"),
    Switch(
        "enable-prefill-logprobs",
        "Allow logprobs of prompt tokens; only asked with --tgi-compat strict",
        fills="server.enable_prefill_logprobs",
    ),
    Switch("disable-grammar-support", "Refuse grammars", fills="server.disable_grammar_support"),
    Count("max-image-fetch-size", "Largest image, in bytes", at_least=0, no_effect="no images are read or fetched"),
    Count("validation-workers", "Threads that tokenize prompts", fills="server.validation_workers"),
)

BATCHING = (
    Count(
        "max-batch-prefill-tokens",
        "Tokens computed in one step; longer prompts are split",
        fills="scheduler.max_batch_prefill_tokens",
    ),
    Count(
        "max-batch-total-tokens",
        "Tokens held in the KV cache; unset: what the memory allows",
        fills="scheduler.max_batch_total_tokens",
    ),
    Count("max-batch-size", "Requests computed together", fills="scheduler.max_batch_size"),
    Flag(
        "waiting-served-ratio",
        "Let new prompts in when waiting >= ratio x running; unset: at once",
        kind=float,
        above=0,
        fills="scheduler.waiting_served_ratio",
    ),
    Count(
        "max-waiting-tokens",
        "Steps after which a waiting prompt is let in anyway",
        at_least=0,
        fills="scheduler.max_waiting_tokens",
    ),
    Count(
        "speculate",
        "Draft tokens a step, guessed from repetition in the text; greedy answers stay the same",
        at_least=0,
        at_most=64,
        fills="spec.num_draft",
    ),
    Flag(
        "kv-cache-dtype",
        "Type of the KV cache; unset: bfloat16, or float32 with that --dtype",
        choices=("float32", "bfloat16", "int8"),
        fills="model.kv_cache_dtype",
    ),
)

SERVER = (
    Flag("hostname", "Address to listen on; 0.0.0.0 is every one", env="TGI_HOSTNAME", fills="server.hostname"),
    Port("port", "Port to listen on", short="p", fills="server.port"),
    Flag(
        "api-key",
        "Key that requests must bring, or several with spaces between; safer in the environment or a file",
        metavar="KEY",
        secret=True,
    ),
    Flag(
        "cors-allow-origin",
        "Origin that a browser may call from; repeatable",
        metavar="ORIGIN",
        many=True,
        fills="server.cors_allow_origin",
    ),
    Count(
        "graceful-termination-timeout",
        "Seconds that running requests get at shutdown",
        short="g",
        at_least=0,
        fills="server.graceful_termination_timeout",
    ),
    Switch("json-output", "Log in JSON"),
    Flag(
        "otlp-endpoint",
        "Where to send traces, over gRPC; needs the extra otel",
        metavar="URL",
        fills="server.otlp_endpoint",
    ),
    Flag("otlp-service-name", "Service name in traces", fills="server.otlp_service_name"),
    Flag(
        "usage-stats",
        "Report usage",
        choices=("on", "no-stack", "off"),
        no_effect=NO_REPORTS,
        as_it_is=("off",),
    ),
    Switch("disable-usage-stats", "Older name of --usage-stats off", no_effect=NO_REPORTS, as_it_is=(True,)),
    Switch("disable-crash-reports", "Older name of --usage-stats no-stack", no_effect=NO_REPORTS, as_it_is=(True,)),
    Port("prometheus-port", "Port of the metrics", no_effect="/metrics is on the server's own port"),
    Switch("ngrok", "Open an ngrok tunnel", no_effect=NO_TUNNEL),
    Flag("ngrok-authtoken", "Token for ngrok", secret=True, no_effect=NO_TUNNEL),
    Flag("ngrok-edge", "Edge for ngrok", no_effect=NO_TUNNEL),
)

HARDWARE = (
    Flag(
        "sharded",
        "Split the model over devices",
        choices=("true", "false"),
        no_effect=ONE_DEVICE,
        as_it_is=("false",),
    ),
    Count("num-shard", "Devices to split over", no_effect=ONE_DEVICE, as_it_is=(1,)),
    Flag("shard-uds-path", "Socket path of the shards", no_effect=ONE_DEVICE),
    Flag("master-addr", "Address of the first shard", no_effect=ONE_DEVICE),
    Port("master-port", "Port of the first shard", no_effect=ONE_DEVICE),
    Flag("cuda-graphs", "Batch sizes to record CUDA graphs for", many=True, no_effect=NO_GPU, as_it_is=(("0",), ())),
    Flag("cuda-memory-fraction", "Share of the GPU memory", kind=float, above=0, at_most=1, no_effect=NO_GPU),
    Switch("disable-custom-kernels", "Use no kernels of our own", no_effect=NO_GPU, as_it_is=(False,)),
    Flag("watermark-gamma", "Watermark: share of green tokens", kind=float, no_effect=NO_WATERMARK),
    Flag("watermark-delta", "Watermark: what a green token gains", kind=float, no_effect=NO_WATERMARK),
)

OURS = (
    Flag(
        "embedding-model-id",
        "Encoder to answer embedding requests with, beside the model",
        metavar="MODEL",
        fills="server.embedding_model_id",
    ),
    Count(
        "max-embedding-batch-size",
        "Texts in one embedding request",
        fills="server.max_embedding_batch_size",
    ),
    Flag(
        "tgi-compat",
        "strict: TGI's behaviour also where ours is better",
        choices=("default", "strict"),
        env="TGI_COMPAT",
        fills="server.tgi_compat",
    ),
    Flag(
        "logprobs",
        "Log probabilities of the model itself, or after penalties and filters, as TGI's",
        choices=("raw", "processed"),
        fills="server.logprobs",
    ),
    Flag(
        "tool-call-parser",
        "How the model writes tool calls; auto: as its chat template shows",
        choices=("auto", "llama3", "mistral", "hermes", "json", "none"),
        fills="server.tool_call_parser",
    ),
    Flag(
        "reasoning-parser",
        "How the model marks its reasoning; auto: as its chat template shows",
        choices=("auto", "think", "none"),
        fills="server.reasoning_parser",
    ),
    Count("max-n", "Answers to one prompt on OpenAI's routes (n)", fills="server.max_n"),
    Switch(
        "public-info",
        "Answer without a key where TGI does: /info, the model list, the documentation",
        fills="server.public_info",
    ),
    Flag("config", "TOML file of flags, such as max_batch_size = 32", metavar="FILE"),
    Flag("preset", "Flags that belong together, from configs/serve", choices=("latency", "throughput")),
    Flag("runtime", "What computes the model", metavar="NAME", fills="model.runtime"),
    Count("threads", "Threads to compute with; unset: the cores at hand", at_most=1024, fills="model.threads"),
    Count("block-size", "Tokens in one block of the KV cache", at_most=1024, fills="cache.block_size"),
    Count("num-blocks", "Blocks of the KV cache; unset: from the tokens it holds", fills="cache.num_blocks"),
    Switch(
        "prefix-caching",
        "Keep the KV cache of prompts for others that begin alike",
        negative=True,
        env="PREFIX_CACHING",
        fills="cache.prefix_caching",
    ),
    Flag("policy", "Who runs next", choices=("fcfs", "priority", "fair"), fills="scheduler.policy"),
    Count(
        "max-waiting-requests",
        "Requests that may wait inside the engine; unset: no limit",
        at_least=0,
        fills="scheduler.max_waiting_requests",
    ),
    Flag("api-key-file", "File of keys that requests may bring, one a line", metavar="FILE"),
    Switch("inline", "Run the engine inside the server's process"),
)


def default_of(fills: str) -> str | None:
    """The default of the `engine.config` field a flag fills, in words; None where unset is the default."""
    section, name = fills.split(".")
    default = next(item.default for item in fields(SECTIONS[section]) if item.name == name)
    if default is MISSING or default is None or default is False or default == ():
        return None
    return "on" if default is True else str(default)


def _complete(flag: Flag, group: str, prefix: str) -> Flag:
    """Fill in what the table leaves out: the heading, the environment variable and the default."""
    return replace(
        flag,
        group=group,
        env=flag.env or prefix + flag.key.upper(),
        default=flag.default or (default_of(flag.fills) if flag.fills else None),
        help=flag.help + (" (no effect)" if flag.no_effect else " (not available yet)" if flag.unavailable else ""),
    )


FLAGS: tuple[Flag, ...] = tuple(
    _complete(flag, group, prefix)
    for group, flags, prefix in (
        ("Model", MODEL, ""),
        ("Limits of a request", LIMITS, ""),
        ("Batching", BATCHING, ""),
        ("Server", SERVER, ""),
        ("Beyond TGI", OURS, "TGI_"),
        ("Hardware and extras", HARDWARE, ""),
    )
    for flag in flags
)
BY_KEY = {flag.key: flag for flag in FLAGS}
