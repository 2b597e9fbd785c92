"""Answers from an engine in this process."""

from collections.abc import AsyncGenerator, Sequence

from engine.answer import Answer
from engine.errors import ConfigError
from engine.llm import LLM
from tgi_cli.reply import Message, Reply
from tgi_cli.sampling import Sampling

COMPLETION_TOKENS = 128  # TGI's tools ask for about as many
CHAT_TOKENS = 1024
ROOM = 256  # tokens a chat keeps free for the next answer, or a quarter of a small context


class LocalReply(Reply):
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer
        self.seed = answer.seed if answer.request.params.temperature > 0 else None
        self.prompt_tokens = answer.prompt_tokens

    async def _run(self) -> AsyncGenerator[str, None]:
        answer = self._answer
        try:
            async for pieces in answer.steps():
                for piece in pieces:
                    self.add_token(piece.id, piece.text, piece.logprob, piece.special)
                self.num_tokens = answer.num_tokens
                self.finish_reason = answer.finish_reason and answer.finish_reason.value
                yield answer.text[len(self.text) :]
        finally:
            await answer.aclose()


class LocalBackend:
    """An `LLM` behind the `Backend` protocol."""

    def __init__(self, name: str, llm: LLM, *, logprobs: bool = False) -> None:
        self.name = name
        self.llm = llm
        self._logprobs = logprobs

    async def start(self) -> None:
        await self.llm.start()

    async def aclose(self) -> None:
        await self.llm.aclose()

    def complete(self, prompt: str, sampling: Sampling) -> Reply:
        return self._reply(self.llm.tokenizer.encode(prompt), sampling, COMPLETION_TOKENS, keep_stop=True)

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        return self._reply(self._encode(messages), sampling, CHAT_TOKENS, keep_stop=False)

    def fits(self, messages: Sequence[Message], sampling: Sampling) -> bool:
        context = self.llm.info.max_total_tokens
        room = sampling.max_new_tokens or min(ROOM, context // 4)
        return len(self._encode(messages)) + room <= context

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        # The template writes the special tokens itself.
        return self.llm.tokenizer.encode(self.llm.tokenizer.render_chat(messages), add_special_tokens=False)

    def _reply(self, prompt: list[int], sampling: Sampling, most: int, *, keep_stop: bool) -> Reply:
        context = self.llm.info.max_total_tokens
        room = context - len(prompt)
        if 0 < room < (sampling.max_new_tokens or 0):
            raise ConfigError(
                f"--max-new-tokens {sampling.max_new_tokens}: a prompt of {len(prompt)} tokens leaves {room} of the "
                f"model's context of {context}"
            )
        limit = sampling.max_new_tokens or max(1, min(most, room))
        params = sampling.params(limit, logprobs=self._logprobs)
        return LocalReply(self.llm.stream(prompt, params, stop=sampling.stop, keep_stop=keep_stop))
