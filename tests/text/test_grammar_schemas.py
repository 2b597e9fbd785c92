"""Whatever a schema says and a model likes, a finished text is JSON that the schema validates."""

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

import pytest
from grammar_text import compiler, write
from json_schemas import SchemaGenerator
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from engine.types import Grammar

SAMPLE, ALL = 100, 2000
LAYOUT = re.compile(r'"(?:[^"\\]|\\.)*"')


def number(text: str) -> Decimal | float:
    """As exact as can be: what is not a bound must not become one by rounding."""
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of very many digits
        return float(text)


def check(schema: dict[str, Any], text: str) -> None:
    """Also: at most one space between tokens, and no line breaks."""
    between = LAYOUT.sub('""', text)
    assert not re.search(r"  |[\n\r\t]", between), text
    value = json.loads(text, parse_float=number)
    try:
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(value)
    except ValidationError as error:
        pytest.fail(f"{json.dumps(schema)} does not validate {text}: {error.message}")


def finished(first: int, count: int) -> int:
    """Write one text for each of so many schemas; return how many came to an end."""
    complete = 0
    for seed in range(first, first + count):
        schema = SchemaGenerator(seed).schema()
        Draft202012Validator.check_schema(schema)
        text = write(compiler().compile(Grammar("json", json.dumps(schema))), seed)
        if text is not None:
            complete += 1
            check(schema, text)
    return complete


def test_finished_texts_validate() -> None:
    assert finished(0, SAMPLE) > 0.95 * SAMPLE


@pytest.mark.slow
def test_finished_texts_of_very_many_schemas_validate() -> None:
    assert finished(SAMPLE, ALL) > 0.95 * ALL
