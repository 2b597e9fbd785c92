"""Chat templates: messages become the one prompt string that a model was trained on.

A template is a Jinja program that comes with the model, so it runs in jinja2's immutable sandbox and within
limits: a deadline, checked at every turn of a loop, every call and every piece of output; a cap on the
output, on what `*` and `+` may build, and on `range` (100,000, the sandbox's own). A single long built-in
operation (a filter over one huge value) is not interrupted, and memory is not counted: a template that a
request brings along must not be rendered here.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import InvalidRequest, TemplateError, TokenizerError

TEMPLATE_LIMIT = 256 << 10  # characters of a template
OUTPUT_LIMIT = 16 << 20  # characters of a rendered prompt
SECONDS = 5.0  # for one rendering
ERROR_LIMIT = 256  # characters of a message that may repeat a caller's text

# The variables that every template gets; template_kwargs cannot replace them.
VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")

# Marks the end of the final message. The space tells whether the template strips the content.
END_MARK = "END-OF-THE-FINAL-MESSAGE "

# Two texts that no template holds, to find out how it reads a content.
PROBE = ("PROBE-ONE", "PROBE-TWO")

_deadline: ContextVar[float] = ContextVar("_deadline")


class _LimitError(Exception):
    """A template ran into one of this module's limits."""


def _check_time() -> None:
    if monotonic() > _deadline.get():
        raise _LimitError(f"rendering took longer than {SECONDS:g} seconds")


def _timed(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _check_time()
        yield item


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said, for training; here its body is all that counts."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**"})

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_time()
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and max(abs(left), abs(right)) > 1000:
            raise _LimitError(f"{left} ** {right} is too large")
        if operator != "**" and _size(left, right, operator) > OUTPUT_LIMIT:
            raise _LimitError(f"a value grew beyond {OUTPUT_LIMIT} items")
        return super().call_binop(context, operator, left, right)


def _size(left: Any, right: Any, operator: str) -> int:
    """How long `left + right` or `left * right` is; 0 for numbers."""
    sized = [value for value in (left, right) if isinstance(value, str | list | tuple)]
    if operator == "+":
        return sum(map(len, sized))
    counts = [value for value in (left, right) if isinstance(value, int)]
    return len(sized[0]) * counts[0] if sized and counts else 0


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it: jinja2's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.filters["_timed"] = _timed
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def read_templates(directory: Path | None, config: Mapping[str, Any]) -> dict[str, str]:
    """The named templates of a model, in transformers' order; a single one is called `default`.

    `chat_template.jinja` (and `additional_chat_templates/*.jinja`), else `chat_template.json`, else what
    `config`, the content of `tokenizer_config.json`, holds. Raises TokenizerError on files that cannot be read.
    """
    templates: dict[str, str] = {}
    if directory is not None:
        files = [directory / "chat_template.jinja", *sorted(directory.glob("additional_chat_templates/*.jinja"))]
        names = ["default", *(file.stem for file in files[1:])]
        templates = {name: _read(file) for name, file in zip(names, files, strict=True) if file.is_file()}
        legacy = directory / "chat_template.json"
        if not templates and legacy.is_file():
            try:
                config = json.loads(_read(legacy))
            except (ValueError, RecursionError) as error:
                raise TokenizerError(f"{legacy} is not valid JSON ({error}); download the model again") from None
    return templates or _templates_in(config)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > 4 * TEMPLATE_LIMIT:
            raise TokenizerError(f"{file} is larger than {4 * TEMPLATE_LIMIT} bytes; it is not a chat template")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot read {file}: {error}; download the model again") from None


def _templates_in(config: Any) -> dict[str, str]:
    value = config.get("chat_template") if isinstance(config, Mapping) else config
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        named = value if isinstance(value, Mapping) else {item["name"]: item["template"] for item in value}
    except (TypeError, KeyError):
        named = {}
    if not named or not all(isinstance(text, str) for pair in named.items() for text in pair):
        raise TokenizerError("`chat_template` must be a string or a list of {name, template}; correct the file")
    return dict(named)


class ChatTemplate:
    """The templates of one model. Safe to share between threads.

    `templates` by name: `tool_use`, where there is one, renders requests with tools, and `default` the
    others. `special_tokens` (`bos_token`, `eos_token`, ...) are variables of the template. Compiled at first
    use, so that a model with a broken template still completes plain prompts.
    """

    def __init__(self, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self.templates = dict(templates)
        self._special_tokens = dict(special_tokens)
        self._environment = _environment()
        self._compiled: dict[str, jinja2.Template] = {}
        self._reads: dict[str, tuple[bool, bool]] = {}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, which the model answers, or whose last one it continues.

        `continue_final_message` ends the prompt right after the last message's text, and overrides
        `add_generation_prompt`. A message whose content is a list of `{"type": "text", "text": ...}` is
        passed on as a list if the template reads lists, else as the texts joined; a template that reads
        only lists gets strings as lists. Which it reads is found by rendering a short message both ways.

        Raises TemplateError (with TGI's wording) where the template fails or exceeds a limit, InvalidRequest
        for messages no template can render.
        """
        kwargs = dict(template_kwargs or {})
        if taken := [name for name in VARIABLES if name in kwargs]:
            raise InvalidRequest(f"`chat_template_kwargs` cannot set `{taken[0]}`; use the request's own field")
        if not messages:
            raise InvalidRequest("`messages` cannot be empty; send at least one message")
        name = self._choose(tools is not None)
        template = self._compile(name)
        fitted = self._fit(name, template, messages)
        text = _mark_end(fitted[-1]) if continue_final_message else ""
        context = self._special_tokens | kwargs
        context |= {"messages": fitted, "tools": tools, "documents": documents}
        context["add_generation_prompt"] = add_generation_prompt and not continue_final_message
        prompt = _render(template, context)
        return _cut_at_mark(prompt, text) if continue_final_message else prompt

    def _choose(self, with_tools: bool) -> str:
        if with_tools and "tool_use" in self.templates:
            return "tool_use"
        if "default" not in self.templates:
            names = ", ".join(sorted(self.templates))
            raise TemplateError(f"Template error: template not found: the model has {names}, but none named `default`")
        return "default"

    def _compile(self, name: str) -> jinja2.Template:
        compiled = self._compiled.get(name)
        if compiled is None:
            source = self.templates[name]
            if len(source) > TEMPLATE_LIMIT:
                raise TemplateError(f"Template error: the template is longer than {TEMPLATE_LIMIT} characters")
            try:
                tree = self._environment.parse(source)
                for loop in tree.find_all(nodes.For):
                    loop.iter = nodes.Filter(loop.iter, "_timed", [], [], None, None, lineno=loop.lineno)
                compiled = self._environment.from_string(tree)
            except jinja2.TemplateSyntaxError as error:
                raise _template_error("syntax error", error.message, error.lineno) from None
            except Exception as error:
                raise _template_error("syntax error", error, 1) from None
            self._compiled[name] = compiled
        return compiled

    def _fit(self, name: str, template: jinja2.Template, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Copies of the messages whose contents have the form the template reads."""
        if name not in self._reads:
            as_parts = [{"type": "text", "text": word} for word in PROBE]
            self._reads[name] = self._shows(template, " ".join(PROBE)), self._shows(template, as_parts)
        reads_text, reads_parts = self._reads[name]
        fitted = []
        for message in messages:
            content = message.get("content")
            if isinstance(content, list | tuple):
                texts = [_text_of(part) for part in content]
                content = [dict(part) for part in content] if reads_parts else "".join(texts)
            elif isinstance(content, str) and reads_parts and not reads_text:
                content = [{"type": "text", "text": content}]
            fitted.append({**message, "content": content} if "content" in message else dict(message))
        return fitted

    def _shows(self, template: jinja2.Template, content: Any) -> bool:
        """Whether the template shows the texts of a content, and not how Python or JSON writes it."""
        context = self._special_tokens | dict.fromkeys(VARIABLES)
        context |= {"messages": [{"role": "user", "content": content}], "add_generation_prompt": False}
        try:
            prompt = _render(template, context)
        except TemplateError:
            return False
        return all(re.search(f"(?<!['\"]){word}", prompt) for word in PROBE)


def _text_of(part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequest(f"content of type `{kind}` is not supported; this model reads parts of type `text` only")


def _mark_end(message: dict[str, Any]) -> str:
    """Append END_MARK to the text of a message. Returns the text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + END_MARK
        return content
    if not content:
        raise InvalidRequest("the final message has no content to continue; set it or do not continue the message")
    text = str(content[-1]["text"])
    content[-1]["text"] = text + END_MARK
    return text


def _cut_at_mark(prompt: str, text: str) -> str:
    at = prompt.rfind(END_MARK.strip())
    if at < 0 or text.strip() not in prompt:
        raise TemplateError("Template error: the template does not show the final message, so it cannot be continued")
    kept = prompt[:at]
    return kept if prompt.startswith(END_MARK, at) else kept.rstrip()


def _render(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    token = _deadline.set(monotonic() + SECONDS)
    pieces = []
    size = 0
    try:
        for piece in template.generate(context):
            _check_time()
            pieces.append(piece)
            size += len(piece)
            if size > OUTPUT_LIMIT:
                raise _LimitError(f"the prompt is longer than {OUTPUT_LIMIT} characters")
    except _LimitError as error:
        raise TemplateError(f"Template error: {error}") from None
    except jinja2.UndefinedError as error:
        raise _template_error("undefined value", error, _line(error.__traceback__)) from None
    except jinja2.TemplateError as error:
        raise _template_error("syntax error", error, _line(error.__traceback__)) from None
    except Exception as error:  # a template can fail in any way Python can
        raise _template_error("invalid operation", error, _line(error.__traceback__)) from None
    finally:
        _deadline.reset(token)
    return "".join(pieces)


def _template_error(kind: str, reason: object, line: int) -> TemplateError:
    return TemplateError(f"Template error: {kind}: {str(reason)[:ERROR_LIMIT]} (in chat_template:{line})")


def _line(traceback: TracebackType | None) -> int:
    """The line of the template that failed: jinja2 puts it into the traceback."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
