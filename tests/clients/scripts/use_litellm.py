"""litellm, as a proxy for OpenAI's API and for Hugging Face's, and instructor on openai 2."""

import copy
import json
from typing import Literal

import instructor
import litellm
import openai
from checks import QUESTION, SIZE, WEATHER, refusal, run
from pydantic import BaseModel

USER = [{"role": "user", "content": QUESTION}]
NAMED = {"type": "function", "function": {"name": "weather"}}
litellm.suppress_debug_info = True


def tool():
    """A new one each time: litellm takes parts of it away."""
    parameters = copy.deepcopy(WEATHER)
    return {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": parameters}}


class Weather(BaseModel):
    """The weather in a city."""

    unit: Literal["C", "F"]
    rain: bool


def routes(url):
    """How litellm is told of the server."""
    yield {"model": "openai/tgi", "api_base": f"{url}/v1", "api_key": "-"}
    yield {"model": "huggingface/tgi", "api_base": url, "api_key": "-"}
    yield {"model": "hosted_vllm/tgi", "api_base": f"{url}/v1", "api_key": "-"}


def check_completion(url):
    for route in routes(url):
        answer = litellm.completion(messages=USER, max_tokens=5, temperature=0, **route)
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens == 5
        assert answer.choices[0].finish_reason == "length"
        chunks = litellm.completion(messages=USER, max_tokens=5, temperature=0, stream=True, **route)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == answer.choices[0].message.content


def check_tools(url):
    for route in routes(url):
        answer = litellm.completion(messages=USER, max_tokens=100, tools=[tool()], tool_choice=NAMED, seed=1, **route)
        [call] = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls"
        assert set(json.loads(call.function.arguments)) == {"unit", "rain"}


def check_response_format(url):
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER, "strict": True}}
    for route in routes(url):
        answer = litellm.completion(messages=USER, max_tokens=60, response_format=form, seed=1, **route)
        assert set(json.loads(answer.choices[0].message.content)) == {"unit", "rain"}


def check_text_completion(url):
    answer = litellm.text_completion(
        model="text-completion-openai/tgi", prompt="A river is", max_tokens=5, api_base=f"{url}/v1", api_key="-"
    )
    assert answer.choices[0].text


def check_embedding(url):
    openai_like = litellm.embedding(
        model="openai/e", input=["A river", "A hill"], api_base=f"{url}/v1", api_key="-", encoding_format="float"
    )
    assert [len(item["embedding"]) for item in openai_like.data] == [SIZE, SIZE]
    hugging = litellm.embedding(
        model="huggingface/e",
        input=["A river", "A hill"],
        input_type="feature-extraction",  # else litellm asks the hub what kind of model it is
        api_base=url,
        api_key="-",
    )
    assert [item["embedding"] for item in hugging.data] == [item["embedding"] for item in openai_like.data]


def check_errors(url):
    for route in routes(url):

        def ask(route=route):
            litellm.completion(messages=USER, top_p=2.0, num_retries=0, **route)

        assert "`top_p` must be > 0.0 and < 1.0" in refusal(ask, openai.APIError)


async def check_asyncio(url):
    for route in routes(url):
        answer = await litellm.acompletion(messages=USER, max_tokens=4, **route)
        assert answer.usage.completion_tokens <= 4


def check_responses(url):
    route = {"model": "openai/tgi", "api_base": f"{url}/v1", "api_key": "-"}
    answer = litellm.responses(input="What is a river?", max_output_tokens=16, temperature=0, **route)
    assert answer.usage.output_tokens == 16  # the least that litellm asks for


def check_instructor(url):
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
        client = instructor.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0), mode=mode)
        found = client.chat.completions.create(
            model="tgi", messages=USER, response_model=Weather, max_tokens=100, max_retries=1, seed=1
        )
        assert isinstance(found, Weather), mode
    partial = client.chat.completions.create_partial(
        model="tgi", messages=USER, response_model=Weather, max_tokens=100, seed=1
    )
    *_, last = partial
    assert last.unit in ("C", "F")


run(globals())
