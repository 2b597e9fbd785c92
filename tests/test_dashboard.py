"""The Grafana dashboard asks only for what a server exports."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fake_engine import INFO

from engine.metrics import Metrics
from engine.types import EngineStats

DASHBOARD = json.loads((Path(__file__).parents[1] / "configs" / "deploy" / "grafana.json").read_text())
SAMPLE = re.compile(r"^(tgi_\w+)(?:\{(.*)\})? ", re.MULTILINE)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])


def exported() -> dict[str, set[str]]:
    """Every sample name, with the names of its labels."""
    page = Metrics(INFO, max_input_tokens=63).exposition(EngineStats())
    found: dict[str, set[str]] = {}
    for name, labels in SAMPLE.findall(page):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


def test_every_name_is_exported() -> None:
    asked = {name for expression in expressions() for name in re.findall(r"\btgi_\w+", expression)}
    variables = json.dumps(DASHBOARD["templating"])
    asked |= set(re.findall(r"\btgi_\w+", variables))
    assert len(asked) > 25
    assert asked - exported().keys() == set()


def test_every_label_is_one_of_the_metric() -> None:
    known = exported()
    for expression in expressions():
        [names, grouped] = [
            re.findall(r"\b(tgi_\w+)\{([^}]*)\}", expression),
            re.findall(r"sum by \((\w+)\)", expression),
        ]
        for name, selector in names:
            # Prometheus adds the instance; the rest must be ours.
            assert set(re.findall(r"(\w+)=", selector)) - {"instance"} <= known[name], expression
            assert set(grouped) <= known[name], expression


def test_counters_are_read_as_rates_and_buckets_as_quantiles() -> None:
    page = Metrics(INFO, max_input_tokens=63).exposition(EngineStats())
    counters = set(re.findall(r"^# TYPE (\S+) counter$", page, re.MULTILINE))
    for expression in expressions():
        for name in re.findall(r"\btgi_\w+", expression):
            if name in counters or name.endswith("_bucket"):
                assert re.search(rf"(?:rate|increase)\({name}\b", expression), expression


def test_panels_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_the_data_source_is_the_readers_own() -> None:
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
