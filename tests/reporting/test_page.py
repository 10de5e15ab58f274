"""The HTML file: self-contained, escaped, and readable by a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from unet_batch.evaluation.scores import Score
from unet_batch.evaluation.summary import ScoreSummary, summarise
from unet_batch.planning.specs.scoring import BootstrapSpec
from unet_batch.reporting.page import (
    ClassValue,
    LegendEntry,
    ReportPage,
    VolumeEntry,
    class_plots,
    format_distance,
    format_ml,
    format_score,
    mean_dice_of,
    render,
    volume_plot,
    without_credentials,
)
from unet_batch.reporting.pictures import Picture, encode
from unet_batch.reporting.plots import MOST_DOTS, Dot, Strip, dice_scale, strip_plot

LIVER = LegendEntry("liver", (230, 60, 60))
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>&amp;'


def picture(plane: str) -> Picture:
    data_uri = encode(np.full((40, 60, 3), 90, np.uint8))
    return Picture(plane, data_uri, 60, 40, "slice 9 of 26", "A", "P", "R", "L", f"{plane} of a")


def scores(name: str) -> ScoreSummary:
    dice = (0.8, 0.9, 1.0)
    rows = [
        Score(f"{name}{k}", 1, "liver", d, 1500, 1480, 1, 2, 2, 2.345 + k, 0.87)
        for k, d in enumerate(dice)
    ]
    return summarise(rows, bootstrap=BootstrapSpec(resamples=200))


def make_page(name: str = "case_1", *, has_truth: bool = True) -> ReportPage:
    known = ClassValue(LIVER, 1500.0, 1480.0, 0.9, 3.3, 0.87)
    value = known if has_truth else ClassValue(LIVER, 1500.0)
    pictures = (picture("axial"), picture("coronal"))
    findings = () if has_truth else (f"{name} is cut off",)
    entry = VolumeEntry(name, "v1", ("CT",), 0.9, (value,), pictures, findings=findings)
    columns = ("dice", "hd95_mm", "surface_dice")
    return ReportPage(
        title=f"Report on {name}",
        facts=(("Archive", "/data/archive"), ("Model", name)),
        made_at=datetime(2026, 3, 7, 9, 5, tzinfo=UTC),
        has_truth=has_truth,
        legend=(LIVER,),
        summary=scores(name) if has_truth else ScoreSummary((), {}),
        volumes=(entry,),
        num_pictured=1,
        plots=class_plots((entry,), (LIVER,), columns)
        if has_truth
        else volume_plot((entry,), (LIVER,)),
        left_out=((name, f"{name} is broken"),),
        tolerance_mm=2.0,
    )


class Page(HTMLParser):
    """Tags with their attributes, and the text, as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_asks_nothing_of_the_network_and_runs_no_script() -> None:
    html = render(make_page())
    page = Page(html)
    assert not page.all("script")
    assert not page.all("link")
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert not re.search(r"https?://|url\(|@import", html)


def test_every_picture_has_an_alternative_text_a_size_and_is_loaded_lazily() -> None:
    images = Page(render(make_page())).all("img")
    assert [image["alt"] for image in images] == ["axial of a", "coronal of a"]
    assert all((i["loading"], i["width"], i["height"]) == ("lazy", "60", "40") for i in images)


def test_names_from_outside_never_become_markup() -> None:
    html = render(make_page(EVIL))
    page = Page(html)
    assert not page.all("script")
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert EVIL in page.text


def test_links_in_table_and_plot_lead_to_the_pictures() -> None:
    page = Page(render(make_page()))
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = [link["href"] or "" for link in page.all("a")]
    assert len(links) == 4  # one in the table of Volumes, one in each plot
    assert {link.removeprefix("#") for link in links} <= targets


def test_scores_and_left_out_volumes_are_in_the_text() -> None:
    text = " ".join(" ".join(Page(render(make_page())).text).split())
    assert "0.900 0." in text  # the mean, and its interval below it
    assert "surface Dice at 2 mm" in text
    assert "HD95 3.30 mm, surface 0.870" in text
    assert "+20.00" in text
    assert "95 % interval" in text
    assert "1 volume is not in this report" in text
    assert "7 March 2026, 09:05 UTC" in text
    assert "truth, outlined" in text


def test_without_a_truth_there_is_no_dice_on_the_page() -> None:
    text = " ".join(Page(render(make_page(has_truth=False))).text)
    assert "Dice" not in text
    assert "truth" not in text
    assert "1,500" in text
    assert text.count("case_1 is cut off") == 2
    assert "stands out" in text


def test_a_volume_without_pictures_says_why() -> None:
    page = make_page()
    volume = replace(page.volumes[0], pictures=(), problem="No picture: shard 3 is damaged")
    html = render(replace(page, volumes=(volume,), num_pictured=0))
    assert "shard 3 is damaged" in html


def test_of_many_classes_the_worst_are_named_under_the_pictures() -> None:
    classes = tuple(ClassValue(LIVER, float(k), 5.0, k / 100) for k in range(61))
    volume = replace(make_page().volumes[0], classes=classes)
    assert [value.dice for value in volume.notable] == [k / 100 for k in range(8)]
    assert volume.num_unnamed == 53


def test_credentials_of_a_bucket_stay_out_of_the_page() -> None:
    assert without_credentials("s3://key:secret@bucket/a?token=x") == "s3://bucket/a"
    assert without_credentials("/data/with@sign") == "/data/with@sign"


def test_values_are_easy_to_read() -> None:
    assert [format_score(v) for v in (None, 0.12345)] == ["\N{EN DASH}", "0.123"]
    assert [format_ml(v) for v in (None, 1.5349, 1534.9)] == ["\N{EN DASH}", "1.53", "1,535"]
    assert [format_distance(v) for v in (None, 2.34, float("inf"))] == [
        "\N{EN DASH}",
        "2.3 SD",
        "empty",
    ]


def test_undefined_dice_does_not_enter_a_volumes_mean() -> None:
    values = [ClassValue(LIVER, 1.0, 1.0, dice) for dice in (0.5, None, 1.0)]
    assert mean_dice_of(values) == pytest.approx(0.75)
    assert mean_dice_of(values[1:2]) is None


def test_a_browser_draws_the_page_from_disk(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    (tmp_path / "report.html").write_text(render(make_page()), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    page = (tmp_path / "report.html").as_uri()
    done = subprocess.run(
        [browser, *flags, "--no-first-run", profile, "--dump-dom", page],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert Page(done.stdout).all("svg")
    assert "0.900" in done.stdout
    assert "Content Security Policy" not in done.stderr


def test_of_very_many_volumes_the_first_have_rows_and_the_plots_stay_small() -> None:
    page, many = make_page(), 5 * MOST_DOTS
    names = [f"case_{k}" for k in range(many)]
    entries = tuple(
        VolumeEntry(name, f"v{k}", ("CT",), k / many, (ClassValue(LIVER, 1.0 + k, 1.0, k / many),))
        for k, name in enumerate(names)
    )
    html = render(
        replace(
            page,
            volumes=entries,
            plots=class_plots(entries, (LIVER,), ["dice"]),
            left_out=tuple((name, "is broken") for name in names),
            max_listed=10,
        )
    )
    text = " ".join(Page(html).text)
    assert f"The first 10 of {many}" in text
    assert f"and {many - 10} more" in text
    assert "case_9" in text
    assert html.count('class="dot"') == MOST_DOTS
    for extreme in (names[0], names[-1]):
        assert f"<title>{extreme}: " in html
    assert len(html) < 1_000_000


def test_a_box_is_of_all_volumes_though_some_are_drawn() -> None:
    dots = [Dot(value, "v") for value in np.linspace(0, 1, 4 * MOST_DOTS) ** 3]
    plot = strip_plot([Strip("liver", "#e63c3c", tuple(dots))], dice_scale([0]), unit="", title="")
    (median,) = re.findall(r'class="median" x1="([\d.]+)"', plot)
    assert float(median) == pytest.approx(dice_scale([0]).x(0.125), abs=0.2)
