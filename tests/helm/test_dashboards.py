"""The committed dashboards are what the code builds, and every panel is complete."""

from __future__ import annotations

import re

import promql_parser
import pytest
from dashboards.build import build
from dashboards.queries import CHART_FOLDER, PanelQuery, load, panel_queries

BOARDS = load()
QUERIES = list(panel_queries())


def names_in(expr: str) -> set[str]:
    """The metrics that a PromQL expression asks for."""
    return set(re.findall(r"\b(?:unet_batch|ray|process)_\w+|\bup\b", expr))


def test_the_committed_files_are_what_the_code_builds() -> None:
    committed = {path.name: path.read_text() for path in CHART_FOLDER.glob("*.json")}
    assert committed == build(), "run: cd helm && python -m dashboards.build"


def test_the_four_dashboards_are_there() -> None:
    assert set(BOARDS) == {"Archive jobs", "Quality", "Training", "Cluster"}
    assert len({board["uid"] for board in BOARDS.values()}) == 4


@pytest.mark.parametrize("title", BOARDS)
def test_every_panel_says_what_it_means_in_which_unit_and_what_is_too_much(title: str) -> None:
    for panel in BOARDS[title]["panels"]:
        defaults = panel["fieldConfig"]["defaults"]
        assert len(panel["description"]) > 12, panel["title"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"][0] == {"color": "green", "value": None}
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("title", BOARDS)
def test_panels_fill_rows_and_none_lies_on_another(title: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[title]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({y for _, y in taken}) * 24 == len(taken)


@pytest.mark.parametrize("title", ["Archive jobs", "Quality", "Training"])
def test_a_person_chooses_dataset_model_and_job(title: str) -> None:
    variables = [one["name"] for one in BOARDS[title]["templating"]["list"]]
    assert variables == ["datasource", "dataset", "model", "job"]


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.dashboard}, {q.panel}")
def test_every_expression_parses_and_leaves_no_variable(query: PanelQuery) -> None:
    expr = query.filled()
    promql_parser.parse(expr)
    assert "$" not in expr
    assert names_in(expr)
    chosen = query.filled(job="seg-1", model="liver", dataset="ct", cluster="c")
    assert ".*" not in chosen
