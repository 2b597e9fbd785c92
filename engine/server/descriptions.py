"""What the OpenAPI document says about the fields of requests: their meaning, and the ranges `limits.py` checks.

The ranges stand here and not in the structs, because msgspec would refuse with messages of its own where
clients know TGI's. A test sends values from both sides of every limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.config import ServerOptions
from engine.server.limits import MAX_STOP_LENGTH

ABOUT = """TGI's API, OpenAI's and Anthropic's on one port. Unknown fields are ignored, and null means absent.

Where the server has keys, send one as `Authorization: Bearer KEY` or as `x-api-key: KEY`."""

STRICT = """

This server runs with `--tgi-compat strict`: where TGI does otherwise than is described here, it does as TGI."""

# In the order of the page.
TAGS = {
    "Text generation": "TGI's own routes, and those of platforms that call them.",
    "OpenAI": "For clients of OpenAI.",
    "Anthropic": "For clients of Anthropic.",
    "Embeddings": "Vectors for texts.",
    "Platforms": "The routes that cloud platforms call.",
    "Server": "What the server says about itself.",
}

EXAMPLES: dict[str, Any] = {
    "/": {"inputs": "A river is", "parameters": {"max_new_tokens": 8}, "stream": False},
    "/v1": {"inputs": "A river is", "parameters": {"max_new_tokens": 8}},
    "/generate": {
        "inputs": "A river is",
        "parameters": {"max_new_tokens": 8, "do_sample": True, "temperature": 0.7, "seed": 7, "details": True},
    },
    "/generate_stream": {"inputs": "A river is", "parameters": {"max_new_tokens": 8, "details": True}},
    "/tokenize": {"inputs": "A river is"},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "What is a river?"}],
        "max_tokens": 32,
        "temperature": 0,
        "stream": False,
    },
    "/v1/completions": {"prompt": "A river is", "max_tokens": 8, "temperature": 0},
    "/v1/embeddings": {"model": "tgi", "input": ["A river is", "A hill is"]},
    "/embed": {"inputs": ["A river is", "A hill is"]},
    "/embeddings": {"input": ["A river is", "A hill is"]},
    "/v1/responses": {"input": "What is a river?", "max_output_tokens": 32, "temperature": 0},
    "/v1/messages": {
        "model": "tgi",
        "max_tokens": 32,
        "messages": [{"role": "user", "content": "What is a river?"}],
    },
    "/v1/messages/count_tokens": {"model": "tgi", "messages": [{"role": "user", "content": "What is a river?"}]},
    "/chat_tokenize": {"messages": [{"role": "user", "content": "What is a river?"}]},
    "/invocations": {"inputs": "A river is", "parameters": {"max_new_tokens": 8}},
    "/vertex": {"instances": [{"inputs": "A river is", "parameters": {"max_new_tokens": 8}}]},
}


@dataclass(frozen=True)
class Keywords:
    """A field's description, and for each JSON type it may have the schema keywords that bound it."""

    description: str
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _number(description: str, **limits: float) -> Keywords:
    return Keywords(description, {"number": limits})


def _integer(description: str, **limits: int) -> Keywords:
    return Keywords(description, {"integer": limits})


def field_keywords(options: ServerOptions) -> dict[str, Keywords]:
    """By field name, or `Struct.field` where one struct differs."""
    return {
        **_sampling(options),
        **_native(options),
        **_openai(options),
        **_responses(options),
        **_messages(options),
        **_embeddings(options),
    }


def _sampling(options: ServerOptions) -> dict[str, Keywords]:
    """What every family of routes has."""
    below_one = {"exclusiveMaximum": 1.0} if options.strict else {"maximum": 1.0}
    stop = {"minLength": 1, "maxLength": MAX_STOP_LENGTH}
    several = {"maxItems": options.max_stop_sequences, "items": {"type": "string", **stop}}
    return {
        "temperature": _number("Above 1 flattens the distribution, below 1 sharpens it.", exclusiveMinimum=0.0),
        "repetition_penalty": _number("Above 1: less of what the text has already; 1 is off.", exclusiveMinimum=0.0),
        "frequency_penalty": _number("Lowers tokens by how often the answer has them.", minimum=-2.0, maximum=2.0),
        "presence_penalty": _number("Lowers tokens that the answer has.", minimum=-2.0, maximum=2.0),
        "top_k": _integer("Draw only from so many of the likeliest tokens.", minimum=1),
        "top_p": _number(
            "Draw only from the likeliest tokens that have this probability together.",
            exclusiveMinimum=0.0,
            **below_one,
        ),
        "typical_p": _number(
            "Draw only from the most typical tokens that have this probability together.",
            exclusiveMinimum=0.0,
            **below_one,
        ),
        "min_p": _number(
            "Draw only tokens at least this probable, as a part of the likeliest's probability.",
            minimum=0.0,
            maximum=1.0,
        ),
        "seed": _integer(
            "The same seed gives the same answer; one is drawn where none is given.", minimum=0, maximum=2**64 - 1
        ),
        "stop": Keywords("The answer ends at the first of these texts.", {"string": stop, "array": several}),
        "logit_bias": Keywords(
            "What is added to the logits of tokens, by token id.",
            {
                "object": {
                    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
                    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                }
            },
        ),
        "ignore_eos": Keywords("Go on past the model's own end."),
        "timings": Keywords("Tell at a stream's end how many seconds the request waited and ran."),
    }


def _native(options: ServerOptions) -> dict[str, Keywords]:
    top = options.max_top_n_tokens
    return {
        "instances": Keywords("Each a body of `POST /generate` or of chat."),
        "GenerateBody.inputs": Keywords("The prompt.", {"string": {"minLength": 1}}),
        "GenerateBody.parameters": Keywords("Without them tokens are drawn; with an empty object they are not."),
        "GenerateBody.stream": Keywords("Answer with events; read on `POST /`, `/v1` and `/invocations` only."),
        "best_of": _integer(
            "Draw so many answers and give the most probable.", minimum=0, maximum=max(1, options.max_best_of)
        ),
        "do_sample": Keywords("Draw tokens rather than take the likeliest; a sampling parameter implies it."),
        "max_new_tokens": _integer("The longest answer, in tokens; without it all that fits.", minimum=1),
        "return_full_text": Keywords("Give the prompt before the answer; `POST /` does unless this is false."),
        "truncate": _integer("Keep only so many of the prompt's last tokens.", minimum=1),
        "watermark": Keywords("Not supported: true is refused."),
        "details": Keywords("Give the finish reason, the seed, and the tokens with their log probabilities."),
        "decoder_input_details": Keywords("Give the prompt's tokens with their log probabilities; not in streams."),
        "top_n_tokens": _integer("Give so many of the likeliest tokens at each place.", minimum=0, maximum=top),
        "GenerateParameters.frequency_penalty": _number(
            "Lowers tokens by how often prompt and answer have them, relative to their length.",
            minimum=-2.0,
            maximum=2.0,
        ),
        "grammar": Keywords('What the answer must match: `{"type": "json", "regex" or "lark", "value": ...}`.'),
        "adapter_id": Keywords("Not supported: there are no adapters, and any name is refused."),
    }


def _openai(options: ServerOptions) -> dict[str, Keywords]:
    top = options.max_top_n_tokens
    zero_or_more = _number("0 takes the likeliest token, and above 0 tokens are drawn.", minimum=0.0)
    return {
        "model": Keywords("Any name is taken, and given back."),
        "max_tokens": _integer("The longest answer, in tokens; without it all that fits.", minimum=1),
        "max_completion_tokens": _integer("The newer name of `max_tokens`.", minimum=1),
        **{
            f"{name}.temperature": zero_or_more
            for name in ("ChatBody", "CompletionBody", "ResponsesBody", "MessagesBody")
        },
        "n": _integer("How many answers.", minimum=1, maximum=options.max_n),
        "stream": Keywords("Answer with server-sent events."),
        "include_usage": Keywords("End the stream with a chunk that has the usage."),
        "continuous_usage_stats": Keywords("Give the usage so far in every chunk."),
        "CompletionBody.model": Keywords("Any name is taken."),
        "suffix": Keywords("Not supported: any text is refused."),
        "echo": Keywords("Give the prompt before the answer."),
        "prompt": Keywords("A text or a list of token ids, or a list of such."),
        "ChatBody.logprobs": Keywords("Give the log probability of each token."),
        "CompletionBody.logprobs": _integer(
            "Give the log probabilities, with so many alternatives.", minimum=0, maximum=top
        ),
        "CompletionBody.best_of": _integer("Draw so many answers and give the best `n` of them.", minimum=1),
        "top_logprobs": _integer(
            "How many alternatives each token comes with; needs `logprobs`.", minimum=0, maximum=top
        ),
        "messages": Keywords("The conversation, oldest message first. A last one of the assistant is continued."),
        "role": Keywords("`system`, `user`, `assistant` or `tool`."),
        "tools": Keywords("Functions the model may call."),
        "tool_choice": Keywords("`auto`, `none`, `required`, or the function that must be called."),
        "tool_prompt": Keywords("Text that introduces the tools, where the model's template has no place for them."),
        "parallel_tool_calls": Keywords("Whether one answer may call several functions."),
        "response_format": Keywords("What the answer must match, in OpenAI's form or TGI's."),
        "chat_template_kwargs": Keywords("Further variables for the chat template."),
        "continue_final_message": Keywords("Whether the last message is continued rather than answered."),
        "add_generation_prompt": Keywords("Whether the template opens a new message of the assistant."),
        "stream_options": Keywords("What a stream says of its usage."),
        "Message.content": Keywords("A text, or a list of parts; null beside `tool_calls`."),
        "Message.name": Keywords("Who speaks, or which function answered."),
        "Message.tool_calls": Keywords("The calls of an earlier answer."),
        "Message.tool_call_id": Keywords("Which call this is the result of."),
        "Message.reasoning_content": Keywords("What the model thought before an earlier answer."),
        "Message.refusal": Keywords("The refusal of an earlier answer."),
        "ContentPart.refusal": Keywords("The text of a refusal."),
        "GivenCall.id": Keywords("The call's id, which its result names."),
        "GivenCall.type": Keywords("`function`."),
        "GivenCall.function": Keywords("What was called."),
        "GivenFunction.name": Keywords("The function's name."),
        "GivenFunction.arguments": Keywords("The arguments, as JSON text or as an object."),
        "ToolDefinition.type": Keywords("`function`."),
        "ToolDefinition.function": Keywords("The function."),
        "FunctionDefinition.name": Keywords("The function's name."),
        "FunctionDefinition.description": Keywords("What the function does, for the model."),
        "FunctionDefinition.parameters": Keywords("A JSON schema of the arguments."),
        "FunctionDefinition.arguments": Keywords("TGI's other name for `parameters`."),
        "FunctionDefinition.strict": Keywords("Whether the arguments must match the schema."),
        "reasoning_effort": Keywords("A variable of the chat templates that know it."),
        "documents": Keywords("A variable of the chat templates that know it."),
        "ContentPart.type": Keywords("`text`; other kinds are refused."),
        "ContentPart.text": Keywords("The text."),
    }


def _responses(options: ServerOptions) -> dict[str, Keywords]:
    none_of_it = "Not supported: anything but null is refused."
    return {
        "ResponsesBody.input": Keywords("A text, or the items of the conversation so far."),
        "ResponsesBody.instructions": Keywords("A system message before the input."),
        "max_output_tokens": _integer("The longest answer, in tokens; without it all that fits.", minimum=1),
        "ResponsesBody.text": Keywords("What the answer's text must match."),
        "ResponsesBody.include": Keywords("`message.output_text.logprobs` adds log probabilities."),
        "ResponsesBody.metadata": Keywords("Given back as it is."),
        "ResponsesBody.user": Keywords("Given back as it is."),
        "ResponsesBody.store": Keywords("Nothing is stored, which the answer says."),
        "ResponsesBody.truncation": Keywords("Only `disabled`: nothing is cut off."),
        "ResponsesBody.background": Keywords("Not supported: true is refused."),
        "ResponsesBody.previous_response_id": Keywords(none_of_it),
        "ResponsesBody.conversation": Keywords(none_of_it),
        "ResponsesBody.prompt": Keywords(none_of_it),
        "TextOptions.format": Keywords("OpenAI's `text`, `json_object` or `json_schema`."),
        "ResponsesTool.type": Keywords("`function`; OpenAI's own tools are refused."),
        "ResponsesTool.name": Keywords("The function's name."),
        "ResponsesTool.description": Keywords("What the function does, for the model."),
        "ResponsesTool.parameters": Keywords("A JSON schema of the arguments."),
        "ResponsesTool.strict": Keywords("Whether the arguments must match the schema."),
        "ResponsesItem.type": Keywords("`message`, `function_call`, `function_call_output` or `reasoning`."),
        "ResponsesItem.id": Keywords("The item's id; not read."),
        "ResponsesItem.content": Keywords("A message's text, or its parts."),
        "ResponsesItem.call_id": Keywords("Which call this is, or is the output of."),
        "ResponsesItem.name": Keywords("The function that was called."),
        "ResponsesItem.arguments": Keywords("The call's arguments, as JSON text."),
        "ResponsesItem.output": Keywords("What the function returned."),
        "ResponsesItem.summary": Keywords("A summary of the reasoning."),
        "ResponsesPart.type": Keywords("`input_text`, `output_text`, `reasoning_text` or `refusal`."),
        "ResponsesPart.text": Keywords("The text."),
        "ResponsesPart.refusal": Keywords("The text of a refusal."),
    }


def _embeddings(options: ServerOptions) -> dict[str, Keywords]:
    texts = {"string": {"minLength": 1}, "array": {"minItems": 1}}
    return {
        "EmbedBody.inputs": Keywords("A text or a list of token ids, or a list of such.", texts),
        "EmbedBody.parameters": Keywords("The options again, where older releases of huggingface_hub send them."),
        "EmbeddingBody.input": Keywords("A text or a list of token ids, or a list of such.", texts),
        "encoding_format": Keywords("`float`, or `base64` for the bytes of float32 numbers, little endian."),
        "dimensions": _integer("Give only so many of a vector's first numbers.", minimum=1),
        "normalize": Keywords("Bring vectors to length 1, as happens unless this is false."),
        "EmbeddingBody.truncate": Keywords("Cut texts to the length the model was made for."),
        "EmbedBody.truncate": Keywords("Cut texts to the length the model was made for."),
        "EmbedOptions.truncate": Keywords("Cut texts to the length the model was made for."),
        "truncation_direction": Keywords("The side that is cut off: `right`, or `left`."),
        "prompt_name": Keywords("Which of the model's prompts to put before each text."),
        "user": Keywords("Not read."),
    }


def _messages(options: ServerOptions) -> dict[str, Keywords]:
    stop = {"minLength": 1, "maxLength": MAX_STOP_LENGTH}
    return {
        "system": Keywords("The system prompt: a text, or a list of parts."),
        **{
            f"{name}.tool_choice": Keywords("Whether the answer calls tools, and which.")
            for name in ("MessagesBody", "CountTokensBody")
        },
        "thinking": Keywords("Whether the model thinks before it answers."),
        "output_config": Keywords("What the answer must match."),
        "stop_sequences": Keywords(
            "The answer ends at the first of these texts.",
            {"array": {"maxItems": options.max_stop_sequences, "items": {"type": "string", **stop}}},
        ),
        "MessagesBody.top_k": _integer("Draw only from so many of the likeliest tokens; 0 is off.", minimum=0),
        "OutputConfig.format": Keywords('`{"type": "json_schema", "schema": ...}`.'),
        "ThinkingOptions.type": Keywords("`enabled`, `adaptive` or `disabled`."),
        "MessagesToolChoice.type": Keywords("`auto`, `any`, `tool` or `none`."),
        "MessagesToolChoice.name": Keywords("With `tool` the function that must be called."),
        "MessagesToolChoice.disable_parallel_tool_use": Keywords("Whether one answer may call one function only."),
        "MessagesTool.name": Keywords("The function's name."),
        "MessagesTool.type": Keywords("`custom`; Anthropic's own tools are refused."),
        "MessagesTool.description": Keywords("What the function does, for the model."),
        "MessagesTool.input_schema": Keywords("A JSON schema of the arguments."),
        "MessagesTool.strict": Keywords("Whether the arguments must match the schema."),
        "MessagesTurn.content": Keywords("A text, or a list of blocks."),
        "MessagesPart.type": Keywords("`text`; other kinds are refused."),
        "MessagesPart.text": Keywords("The text."),
        "MessagesBlock.type": Keywords("`text`, `thinking`, `tool_use` or `tool_result`."),
        "MessagesBlock.text": Keywords("The text of a `text` block."),
        "MessagesBlock.thinking": Keywords("The text of a `thinking` block."),
        "MessagesBlock.id": Keywords("The id of a `tool_use` block."),
        "MessagesBlock.name": Keywords("The function of a `tool_use` block."),
        "MessagesBlock.input": Keywords("The arguments of a `tool_use` block."),
        "MessagesBlock.tool_use_id": Keywords("Which call a `tool_result` block answers."),
        "MessagesBlock.content": Keywords("What the function of a `tool_result` block returned."),
    }
