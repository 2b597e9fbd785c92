"""Chat templates: equal to transformers' rendering, TGI's words for errors, contents in the form a template reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_corpus import CHATML, CONTINUED, CONVERSATIONS, DOCUMENTS, HELLO, PARTS_ONLY, SPECIAL, TALK, TEMPLATES, TOOLS

from engine.errors import InvalidRequest, TemplateError, TokenizerError
from engine.text.chat import ChatTemplate, read_templates

CONTINUABLE = sorted(set(TEMPLATES) - {"smollm3"})


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, SPECIAL)


@pytest.fixture(scope="module")
def reference() -> Callable[..., str]:
    """transformers' `apply_chat_template` of a source."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({token: i for i, token in enumerate(SPECIAL.values())}))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)

    def render(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
        text: str = theirs.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
        return text

    return render


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_equals_transformers(name: str, conversation: str, reference: Callable[..., str]) -> None:
    ours, messages = template(TEMPLATES[name]), CONVERSATIONS[conversation]
    for options in (
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": TOOLS, "documents": DOCUMENTS},
    ):
        try:
            expected = reference(TEMPLATES[name], messages, **options)
        except Exception:
            with pytest.raises(TemplateError, match=r"^Template error: "):
                ours.render(messages, **options)
        else:
            assert ours.render(messages, **options) == expected


def test_most_of_the_corpus_renders(reference: Callable[..., str]) -> None:
    """The comparison above is not one of errors."""
    rendered = 0
    for source in TEMPLATES.values():
        for messages in CONVERSATIONS.values():
            try:
                rendered += bool(template(source).render(messages))
            except TemplateError:
                continue
    assert rendered >= 38


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("name", ["qwen3", "smollm3", "granite"])
def test_variables_of_a_request_equal_transformers(name: str, enabled: bool, reference: Callable[..., str]) -> None:
    kwargs = {"enable_thinking": enabled, "controls": {"length": "short"}}
    expected = reference(TEMPLATES[name], TALK, add_generation_prompt=True, **kwargs)
    assert template(TEMPLATES[name]).render(TALK, template_kwargs=kwargs) == expected


@pytest.mark.parametrize("ending", ["", " ", "\n", " the end", "END-OF"])
@pytest.mark.parametrize("name", CONTINUABLE)
def test_continuing_the_final_message_equals_transformers(
    name: str, ending: str, reference: Callable[..., str]
) -> None:
    messages = [*CONTINUED[:-1], {"role": "assistant", "content": "The answer" + ending}]
    expected = reference(TEMPLATES[name], messages, continue_final_message=True)
    assert template(TEMPLATES[name]).render(messages, continue_final_message=True) == expected
    assert messages[-1]["content"] == "The answer" + ending  # the caller's messages are as they were


def test_a_final_message_that_cannot_be_continued() -> None:
    with pytest.raises(TemplateError, match="does not show the final message"):
        template("{{ messages[0].content }}").render(CONTINUED, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="no content to continue"):
        template(CHATML).render([{"role": "assistant", "content": None}], continue_final_message=True)


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral_v1", "gemma", "phi3", "qwen3", "granite", "smollm3"])
def test_parts_are_joined_for_a_template_that_reads_strings(name: str) -> None:
    ours = template(TEMPLATES[name])
    assert ours.render(parts("one ", "two")) == ours.render([{"role": "user", "content": "one two"}])


def test_parts_stay_parts_for_a_template_that_reads_them(reference: Callable[..., str]) -> None:
    for source in (TEMPLATES["gemma3"], PARTS_ONLY):
        messages = parts("one ", "two")
        expected = reference(source, messages, add_generation_prompt=True)
        assert template(source).render(messages) == expected
    assert template(PARTS_ONLY).render(HELLO) == template(PARTS_ONLY).render(parts(HELLO[0]["content"]))
    continued = template(TEMPLATES["gemma3"]).render(parts("one", "two "), continue_final_message=True)
    assert continued.endswith("onetwo")


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, "text", None])
def test_parts_that_are_not_text_are_refused(part: Any) -> None:
    with pytest.raises(InvalidRequest, match="content of type"):
        template(CHATML).render([{"role": "user", "content": [part]}])


def test_tools_choose_their_own_template() -> None:
    ours = ChatTemplate({"default": "plain", "tool_use": "{{ tools | tojson }}"}, {})
    assert ours.render(HELLO) == "plain"
    assert json.loads(ours.render(HELLO, tools=TOOLS)) == TOOLS
    with pytest.raises(TemplateError, match="template not found: the model has rag, but none named `default`"):
        ChatTemplate({"rag": "x"}, {}).render(HELLO)


def test_errors_have_the_words_of_tgi() -> None:
    with pytest.raises(TemplateError, match=r"^Template error: syntax error: Only this! \(in chat_template:2\)$"):
        template("a\n{{ raise_exception('Only this!') }}").render(HELLO)
    with pytest.raises(
        TemplateError, match=r"^Template error: syntax error: .*unknown tag 'nope'.* \(in chat_template:3\)$"
    ):
        template("a\nb\n{% nope %}").render(HELLO)
    with pytest.raises(
        TemplateError, match=r"^Template error: undefined value: 'x' is undefined \(in chat_template:1\)$"
    ):
        template("{{ x.y }}").render(HELLO)
    with pytest.raises(TemplateError, match=r"^Template error: invalid operation: .* \(in chat_template:1\)$"):
        template("{{ 1 + 'a' }}").render(HELLO)
    with pytest.raises(InvalidRequest, match="`messages` cannot be empty"):
        template(CHATML).render([])
    for name in ("messages", "tools", "documents", "add_generation_prompt"):
        with pytest.raises(InvalidRequest, match=f"cannot set `{name}`"):
            template(CHATML).render(HELLO, template_kwargs={name: []})


def test_templates_are_read_in_the_order_of_transformers(tmp_path: Path) -> None:
    config = {"chat_template": [{"name": "default", "template": "config"}, {"name": "tool_use", "template": "tools"}]}
    assert read_templates(tmp_path, {}) == {}
    assert read_templates(tmp_path, {"chat_template": "one"}) == {"default": "one"}
    assert read_templates(tmp_path, config) == {"default": "config", "tool_use": "tools"}
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert read_templates(tmp_path, config) == {"default": "json"}
    (tmp_path / "chat_template.jinja").write_text("jinja é", encoding="utf-8")
    assert read_templates(tmp_path, config) == {"default": "jinja é"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert read_templates(tmp_path, config) == {"default": "jinja é", "rag": "rag"}


def test_template_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"chat_template\.json is not valid JSON"):
        read_templates(tmp_path, {})
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"cannot read .*chat_template\.jinja"):
        read_templates(tmp_path, {})
    (tmp_path / "chat_template.jinja").write_bytes(b"x" * (2 << 20))
    with pytest.raises(TokenizerError, match="larger than"):
        read_templates(tmp_path, {})
