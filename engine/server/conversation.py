"""A conversation and what a model answers to it: the part that every chat-like API shares.

A route turns its body into a `Conversation`; `render` makes the prompt; a `Reply` runs it and reads tool calls
and reasoning out of the text, as it comes (`steps`) or at once (`whole`).
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from engine.errors import InvalidRequest
from engine.server.dialogue import Event, Reading, Style, style_of
from engine.server.errors import ToolError
from engine.server.generation import Generation, Prepared, Stopwatch, check_generates, merge, prepare, run_all
from engine.server.grammar import check_grammar
from engine.server.openai import finish_reason
from engine.server.schema.tgi import GenerateParameters
from engine.server.service import Service
from engine.text.output import Piece
from engine.text.reasoning import Reasoning, is_open
from engine.text.tools import CallArguments, CallStarted, Text, Tool
from engine.text.tools.forced import answer_grammar, calls_grammar, markers_of
from engine.text.tools.prompt import descriptions, fit_messages
from engine.types import Grammar

__all__ = [
    "Call",
    "CallArguments",
    "CallStarted",
    "Choice",
    "Conversation",
    "Event",
    "NamedTool",
    "Reasoning",
    "Reply",
    "Step",
    "Text",
    "Tool",
    "ToolChoice",
    "render",
]


@dataclass(frozen=True)
class NamedTool:
    """The choice of one tool, which the answer must call."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`messages` are what transformers' templates read: role, content (text, or a list of parts), tool_calls
    (id, type, function: {name, arguments: dict}), tool_call_id, name, reasoning_content.
    """

    messages: Sequence[dict[str, Any]]
    parameters: GenerateParameters
    n: int = 1
    logprobs: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    tool_prompt: str | None = None
    grammar: Grammar | None = None  # what the text of the answer must match
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    continue_final_message: bool | None = None  # None = where the last message is the assistant's
    add_generation_prompt: bool | None = None  # None = unless the final message is continued

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def one_call(self) -> bool:
        return not self.parallel_tool_calls or isinstance(self.tool_choice, NamedTool)

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the answer may call. Raises ToolError where the choice is not among them."""
        if self.tool_choice == "none":
            return ()
        if isinstance(self.tool_choice, NamedTool):
            named = tuple(tool for tool in self.tools if tool.name == self.tool_choice.name)
            if not named:
                raise ToolError(f"Tool with name {self.tool_choice.name} not found")
            return named[:1]
        if self.tool_choice == "required" and not self.tools:
            raise ToolError('`tool_choice` is "required", but there are no `tools`')
        return self.tools

    @property
    def continues(self) -> bool:
        """Whether the answer goes on with the last message."""
        if self.continue_final_message is not None or self.add_generation_prompt:
            return bool(self.continue_final_message)
        last = self.messages[-1] if self.messages else {}
        return last.get("role") == "assistant" and bool(last.get("content")) and not last.get("tool_calls")


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: str  # JSON


@dataclass(slots=True, kw_only=True)
class Step:
    """What one token added to one of the choices; the last step of a choice has a finish reason.

    There are no events where its text is held back, for the rest of a character, a stop sequence or a call.
    """

    choice: int
    events: list[Event]
    pieces: list[Piece]  # one; none where the engine ended the answer without a token
    finish_reason: str | None  # stop, length or tool_calls; on a strict server also TGI's stop_sequence


@dataclass(frozen=True, kw_only=True)
class Choice:
    text: str | None  # None where there are only calls or thoughts
    reasoning: str | None
    calls: list[Call]
    finish_reason: str
    pieces: list[Piece]


async def render(here: Service, conversation: Conversation) -> str:
    """The prompt. Raises TemplateError, ToolError or InvalidRequest: a refusal, before anything is streamed."""
    check_generates(here)
    tools = conversation.offered
    if here.strict and conversation.tools and conversation.grammar is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    try:
        prompt = await here.in_executor(_render, here, conversation, tools)
        grammar = _grammar(here, conversation, prompt)
    except RecursionError:
        raise InvalidRequest("`messages` or `tools` are nested too deep") from None
    if grammar is not None:
        await check_grammar(here, grammar)
    return prompt


def _render(here: Service, conversation: Conversation, tools: Sequence[Tool]) -> str:
    style = style_of(here, bool(tools))
    arguments = dict(conversation.template_arguments)
    continues = conversation.continues
    if continues and conversation.add_generation_prompt:
        raise InvalidRequest("`continue_final_message` and `add_generation_prompt` exclude each other")
    return here.tokenizer.render_chat(
        fit_messages(conversation.messages, tools, style.template, conversation.tool_prompt),
        tools=descriptions(tools) if tools else None,
        documents=arguments.pop("documents", None),
        add_generation_prompt=conversation.add_generation_prompt is not False,
        continue_final_message=continues,
        template_kwargs=arguments,
    )


def _grammar(here: Service, conversation: Conversation, prompt: str) -> Grammar | None:
    """What the whole answer must match, thoughts and calls included."""
    tools = conversation.offered
    text = None if conversation.must_call else conversation.grammar
    if text is None and not conversation.must_call:
        return None
    style = style_of(here, bool(tools))
    if tools and text is not None and style.bare:
        raise ToolError(
            "Grammar and tools are mutually exclusive with this model, which does not mark its calls; set "
            '`tool_choice` to "none" or "required"'
        )
    calls, marker = None, markers_of(style.special)
    if tools:
        calls = calls_grammar(style.calls, style.template, tools, not (conversation.one_call or here.strict), marker)
    return answer_grammar(calls, text, style.tags, _thinks(style, conversation, prompt), marker)


def _thinks(style: Style, conversation: Conversation, prompt: str) -> bool:
    """Whether the prompt ends in thoughts: those of the message it continues, or a tag that the template added."""
    if style.tags is None:
        return False
    if conversation.continues:
        content = conversation.messages[-1].get("content")
        return isinstance(content, str) and is_open(content, style.tags)
    return prompt.rstrip().endswith(style.tags[0])


class Reply:
    """The answer to a rendered conversation. Holds no permit: callers do, and count the request (`observed`).

    `start` checks the parameters and tokenizes the prompt; `steps` and `whole`, of which one may be used, once,
    do it where it was not done. All raise what `prepare` and `EngineClient.generate` do.
    """

    def __init__(self, here: Service, conversation: Conversation, prompt: str, watch: Stopwatch) -> None:
        self.prompt = prompt
        self.prompt_tokens = 0  # until it was started
        self.generations: list[Generation] = []
        self._here = here
        self._conversation = conversation
        self._watch = watch
        tools = conversation.offered
        self._tools = [tool.name for tool in tools]
        self._style = style_of(here, bool(tools))
        self._thinks = _thinks(self._style, conversation, prompt)

    @property
    def plain(self) -> bool:
        """Whether the answers are text alone, since neither calls nor thoughts are looked for."""
        return self._reading(eager=True).plain

    async def start(self) -> None:
        here, conversation = self._here, self._conversation
        prepared = await prepare(
            here,
            conversation.parameters,
            self.prompt,
            openai=True,
            logprobs=conversation.logprobs,
            add_special_tokens=False,
        )
        prepared = _with_grammar(prepared, _grammar(here, conversation, self.prompt))
        self._watch.validated(here.metrics)
        self.prompt_tokens = len(prepared.prompt)
        self.generations = [Generation(here, each, self._watch) for each in prepared.candidates(conversation.n)]

    async def steps(self, *, eager: bool = True) -> AsyncGenerator[Step, None]:
        """The answers as they come, each with one step for every token. `eager` is as in `ToolCallParser`.

        A call that the conversation asks for is always given out as far as it got, as OpenAI does.
        """
        if not self.generations:
            await self.start()
        readings = [self._reading(eager=eager) for _ in self.generations]
        async with aclosing(merge(self.generations)) as merged:
            async for step in merged:
                reading, pieces = readings[step.index], step.pieces
                for piece in pieces[:-1]:
                    yield Step(choice=step.index, events=reading.read(piece), pieces=[piece], finish_reason=None)
                events = reading.read(pieces[-1]) if pieces else []
                if step.finish_reason is None and not pieces:
                    continue
                if step.finish_reason is not None:
                    events += reading.finish()
                reason = self._reason(self.generations[step.index], reading) if step.finish_reason else None
                yield Step(choice=step.index, events=events, pieces=pieces[-1:], finish_reason=reason)

    async def whole(self) -> list[Choice]:
        if not self.generations:
            await self.start()
        await run_all(self.generations)
        return [self._choice(generation) for generation in self.generations]

    def _reading(self, eager: bool) -> Reading:
        return Reading(
            self._here,
            self._style,
            self._tools,
            thinks=self._thinks,
            eager=eager or self._conversation.must_call,
            one_call=self._conversation.one_call,
        )

    def _choice(self, generation: Generation) -> Choice:
        reading = self._reading(eager=False)
        if reading.plain:
            text, reasoning, calls = _joined([Text(generation.text)])
        else:
            events = [event for piece in generation.pieces for event in reading.read(piece)]
            text, reasoning, calls = _joined(events + reading.finish())
        return Choice(
            text=text if text or not (reasoning or calls) else None,
            reasoning=reasoning or None,
            calls=calls,
            finish_reason=self._reason(generation, reading),
            pieces=generation.pieces,
        )

    def _reason(self, generation: Generation, reading: Reading) -> str:
        reason = finish_reason(generation.finish_reason, self._here) or "stop"
        return "tool_calls" if reason != "length" and reading.has_called else reason


def _with_grammar(prepared: Prepared, grammar: Grammar | None) -> Prepared:
    if grammar is None:
        return prepared
    return replace(prepared, params=msgspec.structs.replace(prepared.params, grammar=grammar))


def _joined(events: Sequence[Event]) -> tuple[str, str, list[Call]]:
    """Text, reasoning and calls of a whole answer."""
    text, reasoning = [], []
    started: dict[int, CallStarted] = {}
    arguments: dict[int, list[str]] = {}
    for event in events:
        match event:
            case Text(part):
                text.append(part)
            case Reasoning(part):
                reasoning.append(part)
            case CallStarted(index):
                started[index], arguments[index] = event, []
            case CallArguments(index, part):
                arguments[index].append(part)
    calls = [Call(call.id, call.name, "".join(arguments[index])) for index, call in started.items()]
    return "".join(text), "".join(reasoning), calls
