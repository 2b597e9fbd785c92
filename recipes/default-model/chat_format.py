"""The special tokens and the chat format (ChatML) shared by the tokenizer, the training text and the evaluation."""

from typing import Any

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
END_OF_TEXT, IM_START, IM_END, PAD = range(4)  # their ids
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GENERATION_PROMPT = "<|im_start|>assistant\n"

Entry = dict[str, Any]  # a line of a corpus file: `source`, and `text` or `messages`


def render(messages: list[dict[str, str]]) -> str:
    """The same text as `CHAT_TEMPLATE`."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def text_of(entry: Entry) -> str:
    return render(entry["messages"]) if "messages" in entry else entry["text"]
