"""Text on both sides of a model: prompts to token ids, token ids to text that can be streamed.

`tokenizer` encodes and decodes, `chat` renders messages with the model's template, `detokenize` turns a
growing list of ids into pieces, `stop` finds stop strings across pieces, and `output` puts the last two
together for the server and the offline `LLM`.
"""
