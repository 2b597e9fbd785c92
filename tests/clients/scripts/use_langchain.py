"""langchain-huggingface and langchain-openai: completions, chats, tools, structured output and embeddings."""

import asyncio

from checks import QUESTION, SIZE, WEATHER, run
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint, HuggingFaceEndpointEmbeddings
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": WEATHER}}
SCHEMA = {"title": "weather", "description": "Of a city", **WEATHER}


def endpoint(url, **settings):
    return HuggingFaceEndpoint(endpoint_url=url, task="text-generation", max_new_tokens=6, **settings)


def check_endpoint(url):
    text = endpoint(url, seed=1).invoke("A river is")
    assert text
    assert not text.startswith("A river is")
    assert "".join(endpoint(url, seed=1).stream("A river is")) == text
    assert len(endpoint(url).batch(["A river is", "A hill is"])) == 2


def check_endpoint_sends_stop_sequences(url):
    whole = endpoint(url, do_sample=False, temperature=None, top_p=None, typical_p=None)
    text = whole.invoke("A river is", stop=[" "])
    assert " " not in text.lstrip(" ")


async def check_endpoint_from_asyncio(url):
    texts = await asyncio.gather(
        endpoint(url, seed=1).ainvoke("A river is"), endpoint(url, seed=1).ainvoke("A river is")
    )
    assert texts[0] == texts[1]
    assert "".join([piece async for piece in endpoint(url, seed=1).astream("A river is")]) == texts[0]


def hugging_chat(url, **settings):
    return ChatHuggingFace(llm=endpoint(url), model_id="built-in", max_tokens=60, **settings)


def check_chat_of_huggingface(url):
    answer = hugging_chat(url, seed=1).invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)])
    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.response_metadata["token_usage"]["completion_tokens"] > 0
    assert "".join(chunk.content for chunk in hugging_chat(url, seed=1).stream(QUESTION))


def check_tools_of_huggingface(url):
    chat = hugging_chat(url, seed=1).bind_tools([TOOL], tool_choice="weather")
    answer = chat.invoke(QUESTION)
    [call] = answer.tool_calls
    assert call["name"] == "weather"
    assert set(call["args"]) == {"unit", "rain"}
    result = ToolMessage("rain", tool_call_id=call["id"])
    assert hugging_chat(url).invoke([HumanMessage(QUESTION), answer, result]).content is not None


def check_structured_output_of_huggingface(url):
    for method in ("function_calling", "json_schema"):
        found = hugging_chat(url, seed=1).with_structured_output(SCHEMA, method=method).invoke(QUESTION)
        assert set(found) == {"unit", "rain"}, method


def check_embeddings_of_huggingface(url):
    embeddings = HuggingFaceEndpointEmbeddings(model="any/model", huggingfacehub_api_token="-")
    embeddings.client = InferenceClient(base_url=url)  # it takes names of the hub only
    embeddings.async_client = AsyncInferenceClient(base_url=url)
    texts = [f"River {number}" for number in range(40)]
    vectors = embeddings.embed_documents(texts)
    assert [len(vector) for vector in vectors] == [SIZE] * 40
    assert embeddings.embed_query(texts[3]) == vectors[3]
    assert asyncio.run(embeddings.aembed_query(texts[3])) == vectors[3]


def openai_chat(url, **settings):
    return ChatOpenAI(base_url=f"{url}/v1", api_key="-", model="tgi", max_tokens=60, max_retries=0, **settings)


def check_chat_of_openai(url):
    chat = openai_chat(url, temperature=0.5, seed=1, logprobs=True, top_logprobs=2)
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)])
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["logprobs"]["content"]
    chunks = list(openai_chat(url, temperature=0, stream_usage=True).stream(QUESTION))
    whole = openai_chat(url, temperature=0).invoke(QUESTION)
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def check_tools_of_openai(url):
    chat = openai_chat(url, seed=1).bind_tools([TOOL], tool_choice="weather")
    answer = chat.invoke(QUESTION)
    [call] = answer.tool_calls
    assert set(call["args"]) == {"unit", "rain"}
    gathered = None
    for chunk in chat.stream(QUESTION):
        gathered = chunk if gathered is None else gathered + chunk
    assert gathered.tool_calls[0]["args"] == call["args"]
    after = [HumanMessage(QUESTION), answer, ToolMessage("rain", tool_call_id=call["id"])]
    assert openai_chat(url).invoke(after).content is not None


def check_structured_output_of_openai(url):
    for method in ("function_calling", "json_schema"):
        found = openai_chat(url, seed=1).with_structured_output(SCHEMA, method=method).invoke(QUESTION)
        assert set(found) == {"unit", "rain"}, method


async def check_chat_of_openai_from_asyncio(url):
    answers = await openai_chat(url, seed=1).abatch([QUESTION, QUESTION])
    assert answers[0].content == answers[1].content


def check_responses(url):
    answer = openai_chat(url, temperature=0, use_responses_api=True).invoke(QUESTION)
    assert answer.text
    found = (
        openai_chat(url, use_responses_api=True).with_structured_output(SCHEMA, method="json_schema").invoke(QUESTION)
    )
    assert set(found) == {"unit", "rain"}


def check_completions(url):
    model = OpenAI(base_url=f"{url}/v1", api_key="-", model="tgi", max_tokens=6, temperature=0, max_retries=0)
    text = model.invoke("A river is")
    assert "".join(model.stream("A river is")) == text
    assert len(model.batch(["A river is", "A hill is"])) == 2


def check_embeddings_of_openai(url):
    """Without the check of lengths, for which it would load OpenAI's own tokenizer."""
    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="-", model="e", check_embedding_ctx_length=False, max_retries=0
    )
    texts = [f"River {number}" for number in range(40)]
    vectors = embeddings.embed_documents(texts)
    assert [len(vector) for vector in vectors] == [SIZE] * 40
    assert embeddings.embed_query(texts[3]) == vectors[3]


run(globals())
