"""A hostile chat template reaches nothing, and cannot keep a thread for long."""

import pytest
from chat_corpus import HELLO, SPECIAL

from engine.errors import TemplateError
from engine.text import chat
from engine.text.chat import ChatTemplate

# Ways out of Jinja that were published against model files or jinja2 itself.
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ '' | attr('__cla' ~ 'ss__') | attr('__mro__') }}",
    "{{ messages.__class__.__base__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__name__ }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': ''}) }}",
    "{{ ('{0.__class__}' | attr('format'))('') }}",
    "{{ [''] | map('format', '{0.__class__}') | list }}",
    "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "{{ ['{0.__class__.__init__}'] | map('format') | list }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ joiner.__init__.__globals__['os'] }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ range.__class__ }}",
    "{% for item in (1,).__iter__.__self__.__class__.__mro__ %}{{ item }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '/etc/passwd' %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{% macro m() %}{% endmacro %}{{ m.__call__.__func__.__globals__ }}",
    "{{ _deadline }}{{ _timed }}{{ __import__ }}",
]
REVEALING = (
    "class '",
    "<class",
    "built-in",
    "__main__",
    " at 0x",
    "root:",
    "uid=",
    "subprocess",
    "<function",
    "Traceback",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_the_sandbox_holds(source: str) -> None:
    messages = [dict(message) for message in HELLO]
    try:
        shown = ChatTemplate({"default": source}, SPECIAL).render(messages)
    except TemplateError as error:
        shown = str(error).replace("unsafe", "")
    assert messages == HELLO
    assert not any(word in shown for word in REVEALING), shown


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% set text = messages[0].content * 2000 %}{% for a in text %}{% for b in text %}{% endfor %}{% endfor %}",
    ],
)
def test_a_deadline_ends_a_rendering(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9))
    monkeypatch.setattr(chat, "monotonic", lambda: next(clock) / 1000)  # a clock that advances with each look
    with pytest.raises(TemplateError, match=r"^Template error: rendering took longer than 5 seconds$"):
        ChatTemplate({"default": source}, {}).render(HELLO)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ range(100001) | list }}", "Range too big"),
        ("{{ 'a' * 200000000 }}", "a value grew beyond"),
        ("{{ 200000000 * [0] }}", "a value grew beyond"),
        ("{{ 10 ** 100000000 }}", "is too large"),
        (
            "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}",
            "a value grew",
        ),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "the prompt is longer than"),
        ("x" * (chat.TEMPLATE_LIMIT + 1), "the template is longer than"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "Template error"),
        ("{% for i in range(3) %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
    ],
)
def test_limits(source: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        ChatTemplate({"default": source}, {}).render(HELLO)


def test_arithmetic_within_the_limits() -> None:
    source = "{{ 'ab' * 3 }} {{ 2 ** 10 }} {{ [1] + [2] }} {{ 'a' + 'b' }} {{ 3 * 4 + 1.5 }}"
    assert ChatTemplate({"default": source}, {}).render(HELLO) == "ababab 1024 [1, 2] ab 13.5"


def test_loops_keep_their_variables() -> None:
    source = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}/{{ loop.revindex }}{{ '!' if loop.last }}"
        "{{ loop.nextitem.role if loop.nextitem }}{% endfor %}{% for x in missing %}{% else %}none{% endfor %}"
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert ChatTemplate({"default": source}, {}).render(messages) == "1/2/2assistant2/2/1!none"


def test_error_messages_are_short() -> None:
    source = "{{ raise_exception(messages[0].content * 100000) }}"
    with pytest.raises(TemplateError) as caught:
        ChatTemplate({"default": source}, {}).render(HELLO)
    assert len(str(caught.value)) < 400
