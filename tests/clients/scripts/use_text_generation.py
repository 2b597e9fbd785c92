"""text-generation 0.7.0, TGI's own client: every method, with the fields it sends and the types it reads.

Not its streamed chat, which TGI 3 fails too: it wants a tool call in every chunk and cannot read `[DONE]`.
"""

import asyncio
import json

from checks import QUESTION, WEATHER, refusal, run
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import Grammar, GrammarType, Message, Tool

USER = [Message(role="user", content=QUESTION)]
TOOL = Tool(type="function", function={"name": "weather", "description": "Of a city", "parameters": WEATHER})


def check_generate(url):
    answer = Client(url).generate(
        "A river is",
        do_sample=True,
        max_new_tokens=6,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        return_full_text=True,
        seed=3,
        stop_sequences=["zebra"],
        temperature=0.8,
        top_k=40,
        top_p=0.9,
        typical_p=0.9,
        truncate=100,
        decoder_input_details=True,
        top_n_tokens=2,
    )
    assert answer.generated_text.startswith("A river is")
    details = answer.details
    assert details.seed == 3
    assert details.generated_tokens == len(details.tokens)
    assert [token.text for token in details.prefill] == ["A", " river", " is"]
    assert details.prefill[0].logprob is None
    assert details.prefill[1].logprob < 0
    assert all(len(top) == 2 for top in details.top_tokens)


def check_best_of(url):
    answer = Client(url).generate("A river is", do_sample=True, best_of=2, max_new_tokens=4)
    assert len(answer.details.best_of_sequences) == 1
    assert answer.details.best_of_sequences[0].finish_reason in ("length", "eos_token")


def check_generate_stream(url):
    whole = Client(url).generate("A river is", max_new_tokens=6)
    events = list(Client(url).generate_stream("A river is", max_new_tokens=6, top_n_tokens=1))
    assert [event.token.id for event in events] == [token.id for token in whole.details.tokens]
    assert [event.generated_text for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].generated_text == whole.generated_text
    assert events[-1].details.finish_reason == "length"


def check_grammar(url):
    grammar = Grammar(type=GrammarType.Json, value=WEATHER)
    answer = Client(url).generate("Rain?", grammar=grammar, max_new_tokens=60)
    assert set(json.loads(answer.generated_text)) == {"unit", "rain"}
    grammar = Grammar(type=GrammarType.Regex, value="yes|no")
    events = list(Client(url).generate_stream("Rain?", grammar=grammar, max_new_tokens=9))
    assert events[-1].generated_text in ("yes", "no")


def check_refusals(url):
    client = Client(url)
    said = refusal(lambda: client.generate("A river is", max_new_tokens=10_000), ValidationError)
    assert "`max_new_tokens`" in said
    assert refusal(lambda: list(client.generate_stream("A river is", max_new_tokens=10_000)), ValidationError) == said


def check_chat(url):
    answer = Client(url).chat(
        USER,
        max_tokens=4,
        temperature=0.7,
        top_p=0.9,
        seed=1,
        logprobs=True,
        top_logprobs=2,
        frequency_penalty=0.1,
        n=1,
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage["completion_tokens"] <= 4


def check_chat_with_tools(url):
    answer = Client(url).chat(USER, max_tokens=100, seed=1, tools=[TOOL], tool_choice="weather")
    [call] = answer.choices[0].message.tool_calls
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"unit", "rain"}


async def check_asyncio(url):
    client = AsyncClient(url)
    answer = await client.generate("A river is", max_new_tokens=4)
    events = [event async for event in client.generate_stream("A river is", max_new_tokens=4)]
    assert events[-1].generated_text == answer.generated_text
    chat = await client.chat(USER, max_tokens=4)
    assert chat.usage["completion_tokens"] <= 4


def check_refusals_from_asyncio(url):
    for ask in (
        lambda: asyncio.run(AsyncClient(url).generate("A river is", max_new_tokens=10_000)),
        lambda: asyncio.run(AsyncClient(url).generate("A river is", top_n_tokens=99)),
    ):
        assert "Input validation error" in refusal(ask, ValidationError)


run(globals())
