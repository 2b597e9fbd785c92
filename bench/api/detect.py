"""`detect`: which server answers at a URL, what it speaks and what it offers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench.api.reading import message
from bench.api.target import PATHS, Kind, Target
from bench.client.address import Address
from bench.types import Api, BenchError, UsageError

if TYPE_CHECKING:
    import httpx

APIS = ("auto", "tgi", "openai", "completions", "chat")

MOCK_ROUTER = "tgi-bench-mock"  # as our own mock server introduces itself

_ROUTES = {"/v1": None, "/generate": Api.TGI, **{path: api for api, path in PATHS.items()}}
_UNKNOWN_ROUTE = (404, 405, 501)


def detect(
    url: str, *, api: str = "auto", model: str | None = None, key: str | None = None, timeout: float = 10.0
) -> Target:
    """Ask a server who it is.

    `api` is auto (what tells most about tokens), tgi, openai (completions where there are any, otherwise chat),
    completions or chat. The URL may have a path before the routes, or name a route itself, which then decides the
    API under auto. Raises UsageError for a URL or an API that mean nothing, BenchError when nothing answers, the key
    is refused, or the model or the API is not there.
    """
    import httpx

    if api not in APIS:
        raise UsageError(f"--api must be one of {', '.join(APIS)}. Given: {api!r}")
    address = Address.parse(url)
    base_path, route_api = _split_path(url)
    if api == "auto" and route_api is not None:
        api = route_api.value
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = f"{address}{base_path}"
    with httpx.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False) as client:
        probe = _Probe(client, base, keyed=bool(key))
        server = _identify(probe)
        name = _model(server, model, base)
        chosen = _api(probe, server, api, name)
        return Target(
            url=base,
            address=address,
            base_path=base_path,
            api=chosen,
            model=name,
            kind=server.kind,
            headers=headers,
            info=server.info,
            max_context=server.max_context,
            can_ignore_eos=server.kind not in ("tgi", "openai"),
            can_token_ids=chosen is Api.COMPLETIONS and server.kind not in ("tgi", "openai"),
            tokenize_path=_tokenize_path(probe, server.kind, base_path, name),
        )


def _split_path(url: str) -> tuple[str, Api | None]:
    """The path before the routes, and the API of the route where the URL names one. Raises UsageError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.query or parts.fragment or parts.username is not None:
        raise UsageError(f"{url!r} is not the address of a server: leave out what follows ? or #, and give --key")
    path = parts.path.rstrip("/")
    for route in sorted(_ROUTES, key=len, reverse=True):
        if path.endswith(route):
            return path.removesuffix(route), _ROUTES[route]
    return path, None


class _Probe:
    """Small questions to the server, with failures in plain words."""

    def __init__(self, client: "httpx.Client", base: str, *, keyed: bool) -> None:
        self.client = client
        self.base = base
        self.keyed = keyed

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> "httpx.Response":
        """Raises BenchError where nothing answers, or where the answer is that the key is wrong."""
        return self._checked(path, self._send(method, path, body))

    def begin(self, path: str, body: Mapping[str, Any]) -> "httpx.Response":
        """As `ask` with POST, but of a stream that begins well no more is read."""
        return self._checked(path, self._send("POST", path, body, begin=True))

    def _checked(self, path: str, response: "httpx.Response") -> "httpx.Response":
        if response.status_code in (401, 403):
            tried = "refuses the key given with --key" if self.keyed else "wants a key: give it with --key"
            raise BenchError(f"{self.base} {tried} (HTTP {response.status_code} for {path})")
        return response

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, *, begin: bool = False) -> "httpx.Response":
        import httpx

        try:
            with self.client.stream(method, path, json=body) as response:
                if not begin or response.status_code != 200:
                    response.read()
                return response
        except httpx.TimeoutException:
            raise BenchError(
                f"{self.base} did not answer {method} {path} in time: is the server up, and not stuck?"
            ) from None
        except httpx.HTTPError as error:
            raise BenchError(
                f"cannot reach {self.base}: {str(error) or type(error).__name__}. "
                "Is the server running, and are scheme, host and port right?"
            ) from None

    def page(self, path: str, *, secret: bool = True) -> tuple[dict[str, Any], "httpx.Response"]:
        """A JSON object, {} where there is none at this path, or where it is `secret` and the key another one."""
        response = self._send("GET", path, None) if secret else self.ask("GET", path)
        if response.status_code != 200:
            return {}, response
        try:
            answer = response.json()
        except ValueError:
            return {}, response
        return answer if isinstance(answer, dict) else {}, response


@dataclass
class _Server:
    kind: Kind = "openai"
    models: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    max_context: int | None = None


def _identify(probe: _Probe) -> _Server:
    """From the pages that only one kind of server has."""
    info, response = probe.page("/info")
    if "model_id" in info and "max_total_tokens" in info:
        # TGI gives its answers no ids, and an image names its commit.
        ours = "x-request-id" in response.headers and info.get("sha") is None
        kind: Kind = "mock" if info.get("router") == MOCK_ROUTER else "ours" if ours else "tgi"
        models = [str(info["model_id"])]
        return _Server(kind, models, info, _whole_number(info["max_total_tokens"]))
    listed, _ = probe.page("/v1/models", secret=False)
    server = _listed(listed)
    if server.kind == "openai":
        server.kind = _from_other_pages(probe)
    page, context = _DETAILS.get(server.kind, ("", ()))
    if page:
        details, _ = probe.page(page)
        server.info |= {page.strip("/"): details} if details else {}
        found: Any = details
        for step in context:
            found = found.get(step) if isinstance(found, dict) else None
        server.max_context = server.max_context or _whole_number(found)
    return server


# Where each kind says more of itself, and the context length in it.
_DETAILS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "vllm": ("/version", ()),
    "sglang": ("/get_server_info", ("context_length",)),
    "llama.cpp": ("/props", ("default_generation_settings", "n_ctx")),
}
_OWNERS: dict[str, Kind] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "llama.cpp": "llama.cpp"}


def _listed(page: Mapping[str, Any]) -> _Server:
    """What a list of models tells: names, who serves them, and at vLLM and SGLang how long a context may be."""
    server = _Server(info={"models": page} if page else {})
    data = page.get("data")
    for entry in data if isinstance(data, list) else []:
        if not isinstance(entry, dict) or "id" not in entry:
            continue
        server.models.append(str(entry["id"]))
        server.kind = _OWNERS.get(str(entry.get("owned_by", "")).lower(), server.kind)
        server.max_context = server.max_context or _whole_number(entry.get("max_model_len"))
    return server


def _from_other_pages(probe: _Probe) -> Kind:
    if "default_generation_settings" in probe.page("/props")[0]:
        return "llama.cpp"
    if "version" in probe.page("/version")[0]:
        return "vllm"
    if probe.page("/get_server_info")[0]:
        return "sglang"
    return "openai"


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _model(server: _Server, wanted: str | None, base: str) -> str:
    """The name to send. TGI's family takes any name, but a wrong one is a mistake there as well."""
    if wanted is None:
        return server.models[0] if server.models else "default"
    known = set(server.models)
    if server.kind in ("tgi", "ours"):
        known |= {"tgi", *(PurePath(name).name for name in server.models)}
    if known and wanted not in known:
        raise BenchError(f"{base} has no model {wanted!r}; it has {', '.join(server.models)}")
    return wanted


def _api(probe: _Probe, server: _Server, wanted: str, model: str) -> Api:
    """Raises BenchError where the server has none of the APIs wanted."""
    native = server.kind in ("tgi", "ours", "mock")
    if wanted == "tgi" or (wanted == "auto" and native):
        if not native and not _has_tgi(probe):
            raise BenchError(f"{probe.base} has no {PATHS[Api.TGI]}: it is not a TGI server. Try --api openai")
        return Api.TGI
    if wanted == "chat":
        return Api.CHAT
    if wanted == "completions" or _has_completions(probe, server.kind, model):
        return Api.COMPLETIONS
    if not server.models and not _has_chat(probe):
        if wanted == "auto" and _has_tgi(probe):
            return Api.TGI
        raise BenchError(
            f"{probe.base} answers, but has neither {', '.join(PATHS.values())} nor /v1/models: "
            "is this the address of the model server?"
        )
    return Api.CHAT


def _has_completions(probe: _Probe, kind: Kind, model: str) -> bool:
    """Known for most servers. Others are asked for one token, since some refuse every other question."""
    if kind in ("tgi", "ours", "vllm", "sglang", "llama.cpp"):
        return True
    path = PATHS[Api.COMPLETIONS]
    if probe.ask("GET", path).status_code == 405:
        return True
    response = probe.begin(path, {"model": model, "prompt": "Hi", "max_tokens": 1, "stream": True})
    if response.status_code == 404 and "model" in response.text.lower():
        raise BenchError(f"{probe.base} does not serve the model {model!r}: {_words(response)}")
    return response.status_code not in _UNKNOWN_ROUTE


def _has_chat(probe: _Probe) -> bool:
    return probe.ask("POST", PATHS[Api.CHAT], {}).status_code not in _UNKNOWN_ROUTE


def _has_tgi(probe: _Probe) -> bool:
    """Asked for one token: servers with no more than this route know neither GET nor `/info`."""
    body = {"inputs": "Hi", "parameters": {"max_new_tokens": 1}}
    return probe.begin(PATHS[Api.TGI], body).status_code not in _UNKNOWN_ROUTE


def _words(response: "httpx.Response") -> str:
    try:
        return message(response.json())
    except ValueError:
        return response.text[:200]


def tokenize_body(kind: Kind, model: str, text: str) -> dict[str, Any]:
    """What `POST /tokenize` wants, so that special tokens are counted as they are in a completion."""
    if kind in ("vllm", "sglang"):
        return {"model": model, "prompt": text, "add_special_tokens": True}
    if kind == "llama.cpp":
        return {"content": text, "add_special": True, "parse_special": True}
    return {"inputs": text}


def _tokenize_path(probe: _Probe, kind: Kind, base_path: str, model: str) -> str | None:
    """Also finds out whether the key is right: TGI shows everything but its own routes to everyone."""
    if kind == "openai":
        return None
    response = probe.ask("POST", "/tokenize", tokenize_body(kind, model, "a"))
    return f"{base_path}/tokenize" if response.status_code == 200 else None
