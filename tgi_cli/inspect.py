"""`tgi inspect`: what a model is, what it needs, and whether this version can run it.

Reads headers, not weights; only `--perplexity` runs the model.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import ConfigError
from tgi_cli import ui
from tgi_cli.models import find_model
from tgi_cli.options import BY_KEY

if TYPE_CHECKING:
    from engine.models.spec import ModelSpec

# Flags of `tgi serve` that change what a model predicts.
PRECISION_FLAGS = tuple(
    replace(BY_KEY[key], group="Options", env=None)
    for key in ("dtype", "quantize", "kv_cache_dtype", "runtime", "threads")
)
FLOAT32 = 4  # bytes; what the reference runtime holds weights and KV cache in


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The shape of a model; None where its files do not tell."""

    context: int | None
    layers: int | None
    hidden_size: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    tied: bool | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `--json` prints, the sizes among it. Bytes in memory are for one full context, in float32."""

    model: str
    path: str
    architecture: str | None
    parameters: int | None
    dtype: str | None  # of the stored tensors
    quantization: str | None
    sizes: Sizes
    tokenizer: int | None  # how many tokens it has
    chat_template: bool
    weight_bytes: int | None  # on disk
    kv_bytes_per_token: int | None
    memory_bytes: int | None
    pooling: str | None  # how an encoder makes vectors; None for a model that generates
    problem: str | None  # why this version cannot run it

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        sizes: dict[str, Any] = fields.pop("sizes")
        return fields | sizes | {"runnable": self.problem is None}


def inspect(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Hub id or directory; unset: the built-in model.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="TEXT", help="Branch, tag or commit of a hub model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    perplexity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Run the model on a text file, or the texts of a .jsonl file, and score them."
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens that --perplexity scores together; unset: the context.")
    ] = None,
    **given: object,
) -> None:
    """Show what a model is and what it needs.

    Its architecture, size, types and context, and the memory it takes. Works for models that this version cannot run,
    too, and says why. With --perplexity also how well it predicts a text, at the precision that --dtype, --quantize
    and --kv-cache-dtype choose: two figures for the same text tell what a precision costs.
    """
    name, path = find_model(model, revision)
    precision = {
        flag.key: flag.parse(value, f"--{flag.name}")
        for flag in PRECISION_FLAGS
        if (value := given.pop(flag.key)) is not None
    }
    named = [*precision, *(["window"] if window is not None else [])]
    if perplexity is None and named:
        raise ConfigError(f"--{named[0].replace('_', '-')} says how --perplexity FILE runs the model; give that too")
    report = examine(name, path)
    quality = None if perplexity is None else _quality(path, perplexity, window, precision)
    if as_json:
        print(json.dumps(report.as_json() | ({"perplexity": asdict(quality)} if quality else {}), indent=2))
    else:
        ui.rows(_table(report))
    if quality is not None and not as_json:
        print(f"perplexity {quality.value:.4f} over {quality.tokens:,} tokens ({quality.precision})")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The perplexity of a text, and what computed it."""

    value: float
    tokens: int
    windows: int
    precision: str


def _quality(path: Path, file: Path, window: int | None, precision: Mapping[str, Any]) -> Quality:
    from engine.llm import LLM
    from engine.perplexity import perplexity, read_documents

    documents = read_documents(file)
    with LLM(path, **precision) as llm, ui.progress("scoring") as show:
        found = perplexity(llm, documents, window, show)
        words = [f"{llm.info.runtime} runtime", f"weights {precision.get('quantize') or llm.info.dtype}"]
    if "kv_cache_dtype" in precision:
        words.append(f"KV cache {precision['kv_cache_dtype']}")
    return Quality(value=found.value, tokens=found.tokens, windows=found.windows, precision=", ".join(words))


def examine(name: str, path: Path) -> Report:
    """Look at the files of the model in `path`. Raises ModelNotFound and ModelUnsupported on a bad config.json."""
    from engine.models.checkpoint import read_config

    config = read_config(path)
    stored, dtype, weights_problem = _weights(path)
    spec, spec_problem = _spec(path, config)
    tokens, has_template, tokenizer_problem = _tokenizer(path)
    count, kv = _needs(spec) if spec else (None, None)
    pooling, pooling_problem = _pooling(path, spec) if spec else (None, None)
    memory = count * FLOAT32 + kv * spec.max_context if spec and count is not None and kv is not None else None
    return Report(
        model=name,
        path=str(path),
        architecture=_architecture(config),
        parameters=count or (stored[0] if stored else None),
        dtype=dtype,
        quantization=_quantization(config),
        sizes=_sizes(spec) if spec else _guessed_sizes(config),
        tokenizer=tokens,
        chat_template=has_template,
        weight_bytes=stored[1] if stored else None,
        kv_bytes_per_token=kv,
        memory_bytes=memory,
        pooling=pooling,
        problem=weights_problem or spec_problem or pooling_problem or tokenizer_problem,
    )


def _spec(path: Path, config: Mapping[str, Any]) -> tuple["ModelSpec | None", str | None]:
    """The model as the runtimes see it, and what keeps them from running it."""
    from engine.errors import StartError
    from engine.models.registry import family
    from engine.weights.load import load

    spec = None
    try:
        module = family(config)
        spec = module.spec(config, None)
        load(spec, module, path)
    except StartError as error:
        return spec, str(error)
    return spec, None


def _pooling(path: Path, spec: "ModelSpec") -> tuple[str | None, str | None]:
    """How an encoder makes vectors, and what keeps a model from making them."""
    from engine.errors import StartError
    from engine.models.pooling import find_pooling

    try:
        found = find_pooling(path, spec)
    except StartError as error:
        return None, str(error)
    return None if spec.causal else found.mode, None


def _weights(path: Path) -> tuple[tuple[int, int] | None, str | None, str | None]:
    """(numbers stored, their bytes), their types, and what is wrong with the files."""
    from engine.errors import StartError
    from engine.weights.files import read_checkpoint

    try:
        tensors = read_checkpoint(path).values()
    except StartError as error:
        return None, None, str(error)
    by_type: dict[str, int] = {}
    for tensor in tensors:
        by_type[tensor.dtype.name] = by_type.get(tensor.dtype.name, 0) + tensor.nbytes
    types = ", ".join(sorted(by_type, key=lambda name: -by_type[name]))
    return (sum(tensor.size for tensor in tensors), sum(by_type.values())), types or None, None


def _tokenizer(path: Path) -> tuple[int | None, bool, str | None]:
    """Its size, whether it has a chat template, and what is wrong with it."""
    from engine.errors import TokenizerError
    from engine.text.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(path)
    except TokenizerError as error:
        return None, False, str(error)
    return tokenizer.vocab_size, tokenizer.chat is not None, None


def _needs(spec: "ModelSpec") -> tuple[int, int]:
    """Parameters, and bytes of KV cache for one token; an encoder keeps nothing."""
    from engine.models.spec import parameters

    count = sum(math.prod(shape) for shape in parameters(spec).values())
    kept = spec.num_layers if spec.causal else 0
    return count, 2 * kept * spec.num_kv_heads * spec.head_dim * FLOAT32


def _sizes(spec: "ModelSpec") -> Sizes:
    return Sizes(
        context=spec.max_context,
        layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocabulary=spec.vocab_size,
        tied=spec.tied,
    )


def _guessed_sizes(config: Mapping[str, Any]) -> Sizes:
    """The sizes of a model that no family here describes, by the names most configurations use."""
    inner = config.get("text_config")
    fields = {**config, **(inner if isinstance(inner, dict) else {})}

    def number(*names: str) -> int | None:
        return next((fields[name] for name in names if type(fields.get(name)) is int), None)

    tied = fields.get("tie_word_embeddings")
    return Sizes(
        context=number("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"),
        layers=number("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden_size=number("hidden_size", "n_embd", "d_model"),
        heads=number("num_attention_heads", "n_head", "n_heads"),
        kv_heads=number("num_key_value_heads", "num_kv_heads"),
        head_dim=number("head_dim"),
        vocabulary=number("vocab_size"),
        tied=tied if isinstance(tied, bool) else None,
    )


def _architecture(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return ", ".join(map(str, names)) if isinstance(names, list) and names else None


def _quantization(config: Mapping[str, Any]) -> str | None:
    """The method and the bits, as far as the configuration names them."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, dict):
        return None
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
    return str(found.get("quant_method", "unknown")) + (f", {bits} bits" if bits else "")


def _table(report: Report) -> list[tuple[str, str]]:
    sizes = report.sizes
    heads = f"{sizes.layers} layers, {sizes.heads} heads" if sizes.layers and sizes.heads else "unknown"
    if sizes.kv_heads and sizes.heads:
        heads += f" over {sizes.kv_heads} of keys and values"
    head = {True: "tied to the embedding", False: "of its own", None: "unknown"}[sizes.tied]
    kept = f"{ui.size(report.kv_bytes_per_token)} a token" if report.kv_bytes_per_token else "unknown"
    if report.pooling is not None:
        head, kept = f"none: it makes vectors, pooling by {report.pooling}", "none"
    tokenizer = f"{report.tokenizer:,} tokens" if report.tokenizer else "none that can be read"
    return [
        ("model", report.model),
        ("path", report.path),
        ("architecture", report.architecture or "unknown"),
        ("parameters", ui.thousands(report.parameters) if report.parameters else "unknown"),
        ("stored as", report.dtype or "unknown"),
        ("quantization", report.quantization or "none"),
        ("context", f"{sizes.context:,} tokens" if sizes.context else "unknown"),
        ("attention", heads),
        ("hidden size", f"{sizes.hidden_size:,}" if sizes.hidden_size else "unknown"),
        ("head", head),
        ("tokenizer", tokenizer),
        ("chat template", "yes" if report.chat_template else "no"),
        ("on disk", ui.size(report.weight_bytes) if report.weight_bytes else "unknown"),
        ("KV cache", kept),
        ("memory", f"{ui.size(report.memory_bytes)} with one full context" if report.memory_bytes else "unknown"),
        ("runs here", f"no: {report.problem}" if report.problem else "yes"),
    ]
