"""The flags of `tgi serve`: all of TGI's are accepted, every source sets them, and the nearer source wins."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineOptions, ServerOptions
from engine.errors import ConfigError
from tgi_cli.flags import Flag
from tgi_cli.options import BY_KEY, FLAGS, SECTIONS
from tgi_cli.settings import Settings, preset_path, read_settings

# Written out from the launcher's documentation, not taken from the table under test: name, a good value, and what
# comes of it: a field, "no effect", "as it is" (what it asks for is the case), "refused", or "read" (by the command).
TGI_FLAGS = [
    ("model-id", "acme/tiny", "read"),
    ("revision", "v1", "server.revision"),
    ("validation-workers", "3", "server.validation_workers"),
    ("sharded", "true", "no effect"),
    ("num-shard", "2", "no effect"),
    ("quantize", "eetq", "model.quantize"),
    ("speculate", "2", "spec.num_draft"),
    ("dtype", "float16", "model.dtype"),
    ("kv-cache-dtype", "int8", "model.kv_cache_dtype"),
    ("trust-remote-code", None, "no effect"),
    ("max-concurrent-requests", "7", "server.max_concurrent_requests"),
    ("max-best-of", "3", "server.max_best_of"),
    ("max-stop-sequences", "5", "server.max_stop_sequences"),
    ("max-top-n-tokens", "6", "server.max_top_n_tokens"),
    ("max-input-tokens", "100", "server.max_input_tokens"),
    ("max-input-length", "100", "server.max_input_tokens"),
    ("max-total-tokens", "200", "scheduler.max_total_tokens"),
    ("waiting-served-ratio", "1.2", "scheduler.waiting_served_ratio"),
    ("max-batch-prefill-tokens", "1000", "scheduler.max_batch_prefill_tokens"),
    ("max-batch-total-tokens", "2000", "scheduler.max_batch_total_tokens"),
    ("max-waiting-tokens", "20", "scheduler.max_waiting_tokens"),
    ("max-batch-size", "9", "scheduler.max_batch_size"),
    ("cuda-graphs", "1,2,4", "no effect"),
    ("hostname", "0.0.0.0", "server.hostname"),
    ("port", "8080", "server.port"),
    ("prometheus-port", "9001", "no effect"),
    ("shard-uds-path", "/tmp/x", "no effect"),
    ("master-addr", "localhost", "no effect"),
    ("master-port", "29500", "no effect"),
    ("huggingface-hub-cache", "/data", "read"),
    ("weights-cache-override", "/data", "refused"),
    ("disable-custom-kernels", None, "no effect"),
    ("cuda-memory-fraction", "0.5", "no effect"),
    ("rope-scaling", "dynamic", "refused"),
    ("rope-factor", "2", "refused"),
    ("json-output", None, "read"),
    ("otlp-endpoint", "http://collector:4317", "server.otlp_endpoint"),
    ("otlp-service-name", "me", "server.otlp_service_name"),
    ("cors-allow-origin", "https://a.example", "server.cors_allow_origin"),
    ("api-key", "secret", "read"),
    ("watermark-gamma", "0.5", "no effect"),
    ("watermark-delta", "2.0", "no effect"),
    ("ngrok", None, "no effect"),
    ("ngrok-authtoken", "x", "no effect"),
    ("ngrok-edge", "x", "no effect"),
    ("tokenizer-config-path", __file__, "server.tokenizer_config_path"),
    ("disable-grammar-support", None, "server.disable_grammar_support"),
    ("max-client-batch-size", "8", "server.max_client_batch_size"),
    ("lora-adapters", "a,b", "refused"),
    ("usage-stats", "no-stack", "no effect"),
    ("disable-usage-stats", None, "as it is"),
    ("disable-crash-reports", None, "as it is"),
    ("payload-limit", "1000", "server.payload_limit"),
    ("enable-prefill-logprobs", None, "server.enable_prefill_logprobs"),
    ("graceful-termination-timeout", "30", "server.graceful_termination_timeout"),
    ("max-image-fetch-size", "100", "no effect"),
]
OURS = [
    ("embedding-model-id", "acme/encoder", "server.embedding_model_id"),
    ("max-embedding-batch-size", "5", "server.max_embedding_batch_size"),
    ("tgi-compat", "strict", "server.tgi_compat"),
    ("logprobs", "processed", "server.logprobs"),
    ("tool-call-parser", "hermes", "server.tool_call_parser"),
    ("reasoning-parser", "none", "server.reasoning_parser"),
    ("max-n", "3", "server.max_n"),
    ("public-info", None, "server.public_info"),
    ("runtime", "reference", "model.runtime"),
    ("threads", "2", "model.threads"),
    ("block-size", "32", "cache.block_size"),
    ("num-blocks", "64", "cache.num_blocks"),
    ("prefix-caching", None, "cache.prefix_caching"),
    ("policy", "fair", "scheduler.policy"),
    ("max-waiting-requests", "5", "scheduler.max_waiting_requests"),
    ("inline", None, "read"),
]
ENVIRONMENT = {"hostname": "TGI_HOSTNAME", "tgi-compat": "TGI_COMPAT", "prefix-caching": "PREFIX_CACHING"}


def variable(name: str) -> str:
    prefix = "TGI_" if name in [ours for ours, _, _ in OURS] else ""
    return ENVIRONMENT.get(name, prefix + name.replace("-", "_").upper())


def field(settings: Settings, effect: str) -> object:
    """The value of a field of `engine.config` after these settings."""
    engine, server = settings.engine_options(Path("m")), settings.server_options("m")
    section, name = effect.split(".")
    return getattr(server if section == "server" else getattr(engine, section), name)


def toml(name: str, value: object) -> str:
    key = name.replace("-", "_")
    if value is None:
        return f"{key} = true"
    return f"{key} = {value if BY_KEY[key].kind in (int, float) else json.dumps(value)}"


def by(source: str, name: str, value: str | None, tmp_path: Path) -> Settings:
    """Set one flag through one source."""
    key = name.replace("-", "_")
    if source == "flag":
        flag = BY_KEY[key]
        typed: object = True if value is None else [value] if flag.many else value
        return read_settings({key: typed}, {})
    if source == "environment":
        return read_settings({}, {variable(name): "true" if value is None else value})
    file = tmp_path / "settings.toml"
    file.write_text(toml(name, value))
    return read_settings({"config": str(file)}, {})


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
@pytest.mark.parametrize(("name", "value", "effect"), TGI_FLAGS + OURS, ids=lambda item: str(item)[:30])
def test_every_flag_is_set_by_every_source(
    source: str, name: str, value: str | None, effect: str, tmp_path: Path
) -> None:
    if effect == "refused":
        with pytest.raises(ConfigError, match="is not available"):
            by(source, name, value, tmp_path)
        return
    settings = by(source, name, value, tmp_path)
    setting = settings.made[name.replace("-", "_")]
    notices = [notice for notice in settings.notices() if f"--{name} " in notice and "no effect" in notice]
    assert len(notices) == (effect == "no effect")
    if "." in effect:
        assert field(settings, effect) == setting.value
        assert field(settings, effect) != field(read_settings({}, {}), effect) or name == "prefix-caching"


def test_the_table_holds_these_flags_and_no_others() -> None:
    listed = {name for name, _, _ in TGI_FLAGS + OURS} | {"config", "preset", "api-key-file"}
    assert {flag.name for flag in FLAGS} == listed


def test_every_setting_of_the_engine_has_a_flag() -> None:
    fields = {f"{name}.{item.name}" for name, kind in SECTIONS.items() for item in dataclasses.fields(kind)}
    filled = {flag.fills for flag in FLAGS if flag.fills}
    assert filled <= fields
    assert fields - filled == {"model.path", "server.model_id", "server.api_keys", "spec.method"}


def test_without_settings_all_is_default() -> None:
    settings = read_settings({}, {})
    assert settings.engine_options(Path("m")) == EngineOptions(model=SECTIONS["model"](path="m"))
    assert settings.server_options("m") == ServerOptions(model_id="m")
    assert (settings.server_options("m").hostname, settings.server_options("m").port) == ("127.0.0.1", 3000)


SOURCES = ("flag", "environment", "file", "preset")
LADDER = {  # a flag that a preset sets too, and the value each source gives it
    "max_batch_size": {"flag": 2, "environment": 3, "file": 4, "preset": 8},
    "prefix_caching": {"flag": False, "environment": False, "file": False, "preset": True},
}


@pytest.mark.parametrize("key", LADDER)
@pytest.mark.parametrize(
    "used", [used for count in range(5) for used in itertools.combinations(SOURCES, count)], ids="+".join
)
def test_the_nearer_source_wins(key: str, used: tuple[str, ...], tmp_path: Path) -> None:
    values = LADDER[key]
    typed: dict[str, object] = {}
    environ = {}
    file = tmp_path / "own.toml"
    if "flag" in used:
        typed[key] = values["flag"] if isinstance(values["flag"], bool) else str(values["flag"])
    if "environment" in used:
        environ[BY_KEY[key].env or ""] = str(values["environment"])
    file.write_text(f"{key} = {json.dumps(values['file'])}\n" if "file" in used else "")
    if "preset" in used:
        typed["preset"] = "latency"
    settings = read_settings({**typed, "config": str(file)}, environ)
    assert settings[key] == (values[used[0]] if used else None)


def test_the_preset_may_be_named_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('preset = "throughput"\nport = 1234\n')
    settings = read_settings({}, {"TGI_CONFIG": str(file)})
    assert settings["max_batch_size"] == 256
    assert settings["port"] == 1234


@pytest.mark.parametrize("name", ["latency", "throughput"])
def test_presets_are_complete_settings(name: str) -> None:
    settings = read_settings({"preset": name}, {})
    assert len(settings.made) > 4
    assert settings.engine_options(Path("m")).scheduler.max_batch_size == {"latency": 8, "throughput": 256}[name]
    assert not list(settings.notices())
    assert preset_path(name).read_text().startswith(f"# tgi serve --preset {name}")


def test_an_installed_package_brings_its_presets_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "tgi_cli" / "presets" / "serve" / "latency.toml"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("port = 1\n")
    monkeypatch.setattr("tgi_cli.settings.__file__", str(tmp_path / "tgi_cli" / "settings.py"))
    assert preset_path("latency") == packaged
    assert read_settings({"preset": "latency"}, {})["port"] == 1


BAD = [
    ("port", "70000", "at most 65535"),
    ("port", "-1", "at least 0"),
    ("port", "abc", "whole number"),
    ("port", "1.5", "whole number"),
    ("waiting-served-ratio", "0", "above 0"),
    ("waiting-served-ratio", "-1", "above 0"),
    ("waiting-served-ratio", "nan", "above 0"),
    ("waiting-served-ratio", "inf", "above 0"),
    ("max-batch-size", "0", "at least 1"),
    ("max-batch-prefill-tokens", "0", "at least 1"),
    ("validation-workers", "0", "at least 1"),
    ("dtype", "int7", "float32, bfloat16, float16"),
    ("quantize", "gptq", "one of: int8, int4, eetq"),
    ("kv-cache-dtype", "fp8_e5m2", "float32, bfloat16, int8"),
    ("json-output", "maybe", "true or false"),
    ("usage-stats", "sometimes", "on, no-stack, off"),
    ("sharded", "2", "true, false"),
    ("tgi-compat", "yes", "default, strict"),
    ("logprobs", "cooked", "raw, processed"),
    ("max-n", "0", "at least 1"),
]


@pytest.mark.parametrize("source", ["flag", "environment"])
@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_a_bad_value_names_its_source_and_what_is_allowed(
    source: str, name: str, value: str, allowed: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        by(source, name, value, tmp_path)
    message = str(caught.value)
    assert (f"--{name}" if source == "flag" else f"environment {variable(name)}") in message
    assert repr(value) in message
    assert allowed in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_sise = 3", "did you mean 'max_batch_size'"),
        ("max-batch-size = 3", "did you mean 'max_batch_size'"),
        ("zzz = 3", "unknown key 'zzz'"),
        ("port = true", "true must be a whole number"),
        ('port = "x"', "'x' must be a whole number"),
        ("port = [1]", "[1] must be a whole number"),
        ("json_output = 1", "1 must be true or false"),
        ("waiting_served_ratio = 0", "above 0"),
        ("[server]\nport = 1", "unknown key 'server'"),
        ("port = ", "not TOML"),
        ('config = "other.toml"', "unknown key 'config'"),
    ],
)
def test_a_bad_file_names_the_file_and_the_key(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings({"config": str(file)}, {})
    assert str(file) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: cannot read .*gone.toml: No such file"):
        read_settings({"config": str(tmp_path / "gone.toml")}, {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_settings({"config": str(tmp_path / "binary.toml")}, {})


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"max_input_tokens": "5", "max_input_length": "5"}, "say the same thing"),
        ({"max_input_tokens": "200", "max_total_tokens": "200"}, "200 must be below the 200"),
        ({"max_input_length": "201", "max_total_tokens": "200"}, "201 must be below the 200"),
        ({"max_total_tokens": "200", "max_batch_total_tokens": "199"}, "200 must be at most the 199"),
        ({"max_batch_prefill_tokens": "200", "max_batch_total_tokens": "199"}, "200 must be at most the 199"),
        ({"num_blocks": "9", "max_batch_total_tokens": "199"}, "keep one"),
        ({"tokenizer_config_path": "/no/such.json"}, "cannot read /no/such.json"),
        ({"hostname": "no.such.host.invalid"}, "no name that resolves"),
        ({"hostname": ""}, "no name that resolves"),
        ({"hostname": "999.1.1.1"}, "no name that resolves"),
        ({"api_key_file": "/no/such"}, "cannot read /no/such"),
    ],
)
def test_settings_that_cannot_be(typed: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(typed, {}).server_options("m")
    assert words in str(caught.value)
    assert f"--{next(iter(typed)).replace('_', '-')}" in str(caught.value)


def test_the_containers_own_hostname_is_not_an_address() -> None:
    settings = read_settings({}, {"HOSTNAME": "pod-7f9c"})
    assert settings.server_options("m").hostname == "127.0.0.1"


def test_an_empty_variable_is_an_unset_one() -> None:
    assert read_settings({}, {"PORT": "", "QUANTIZE": ""}).made == {}


def test_a_switch_can_be_turned_off_again() -> None:
    assert read_settings({"prefix_caching": False}, {})["prefix_caching"] is False
    assert read_settings({}, {"PREFIX_CACHING": "0"})["prefix_caching"] is False


@given(st.integers())
def test_integers_are_read_as_written(number: int) -> None:
    flag = Flag("n", "", kind=int, at_least=-1000, at_most=1000)
    if -1000 <= number <= 1000:
        assert flag.parse(str(number), "here") == number == flag.parse(number, "here")
    else:
        for value in (str(number), number):
            with pytest.raises(
                ConfigError, match=r"^here: .* must be a whole number of at least -1000 and at most 1000$"
            ):
                flag.parse(value, "here")


def refusal(flag: Flag, value: object) -> str | None:
    """What the flag says about a value it does not take; any other exception is a failure of the test."""
    try:
        flag.parse(value, "here")
    except ConfigError as error:
        return str(error)
    return None


@given(st.text())
def test_no_text_makes_a_flag_fail_otherwise(text: str) -> None:
    for kind in (str, int, float, bool):
        assert (refusal(Flag("n", "", kind=kind), text) or "here: ").startswith("here: ")
    assert (refusal(Flag("n", "", many=True), text) or "here: ").startswith("here: ")


TOML_VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(),
    st.lists(st.integers() | st.text()),
    st.dictionaries(st.text(), st.text()),
)


@given(TOML_VALUES)
def test_no_toml_value_makes_a_flag_fail_otherwise(value: object) -> None:
    for flag in FLAGS:
        assert (refusal(flag, value) or "here: ").startswith("here: ")
