"""report/: parity.json, parity.xml and the page, which is also opened in a browser where there is one."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from tests.browser import assert_fits, open_pages, run_chromium
from tests.records import make_difference, make_record
from yizhi.parity.compare import Quality
from yizhi.parity.record import Plausibility
from yizhi.parity.sentence_quality import SentenceQuality
from yizhi.parity.tolerances import QuantizedGates
from yizhi.pipeline.environment import Environment
from yizhi.pipeline.jobs import Result
from yizhi.pipeline.results import Row
from yizhi.reports.heat_map import say_share, shares_used
from yizhi.reports.report import render_junit, write_report
from yizhi.reports.report_page import render_page
from yizhi.reports.tables import describe_errors, print_release

GATES = QuantizedGates(0.5, 0.99, 0.99, 5e-3, 2e-2, 0.995, 0.998, 0.15, 0.99, 0.998, 0.998, "measured")
OUTPUTS = ("logits", "hidden_states.0", "pooler_output")
ENVIRONMENT = Environment.here()


def make_rows() -> list[Row]:
    quality = Quality(decided=9, top1=None, top5=1.0, kl_mean=1e-3, kl_p99=2e-3, kl_max=3e-3, positions=12)
    cosine = {"hidden_states.0": 0.9999, "hidden_states.1": 0.9991}
    int8 = make_record([0.0, 0.0], quality=quality, cosine=cosine, tolerance=GATES, precision="int8")
    return [
        Row("pytorch", verification=Result("pytorch", seconds=1.5), verdict=make_record([0.1, 0.4]), size=1_000_000),
        Row("flax", verification=Result("flax"), verdict=make_record([0.1, 40.0, None])),
        Row("tensorflow", verification=Result("tensorflow", faults=["no GPU"], bad_input=True, not_run=True)),
        Row("onnx", altered=["model.onnx: missing"]),
        Row("onnx-int8", verification=Result("onnx-int8"), verdict=int8),
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_broken_by_a_narrow_terminal(width):
    rows = [replace(row, export=Result(row.target, seconds=123.4), size=412_000_000) for row in make_rows()]
    told = replace(make_record([0.1]), worst={name: make_difference(name, 0.36) for name in OUTPUTS})
    rows.append(Row("openvino-int8", verification=Result("openvino-int8", seconds=99.9), verdict=told, size=2**31))
    console = Console(width=width, file=StringIO())
    print_release(console, "dist/a-release-of-a-long-name", rows)
    printed = console.file.getvalue()
    lines = printed.splitlines()
    assert "…" not in printed
    assert max(map(len, lines)) <= width
    for row in rows:
        assert [
            line for line in lines if line.startswith(row.target) and line.rstrip().endswith(("pass", "FAIL", "run"))
        ]
        assert describe_errors(row.verdict) in " ".join(printed.split())
    assert "123.4 s" in printed
    assert any(line.startswith("openvino-int8") and "99.9 s" in line for line in lines)


def test_json_says_what_machine_and_whether_all_passed(tmp_path):
    write_report(tmp_path, "zh-mini", make_rows())
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["schema_version"] == 1
    assert report["passed"] is False
    assert {"processor", "int8_kernels", "packages"} <= report["environment"].keys()
    assert report["targets"]["tensorflow"]["not_run"] is True
    assert {name for name, found in report["targets"].items() if found["passed"]} == {"pytorch", "onnx-int8"}


def test_a_tier_is_reported_with_where_its_requirement_comes_from(capsys):
    requirement = "requirement from simulation; hardware seen: none"
    verdict = make_record([0.1], precision="bf16", device="cuda", requirement=requirement, settings={"type": "bf16"})
    rows = [Row("pytorch", verification=Result("pytorch"), verdict=verdict), Row("onnx", verdict=make_record([0.1]))]
    print_release(Console(width=200), "release", rows)
    printed = capsys.readouterr().out
    assert f"pytorch: bf16 on cuda: {requirement}; type bf16\n" in printed
    assert "onnx: fp32" not in printed
    assert f"<p>{requirement}. because" in render_page("<zh>", rows, ENVIRONMENT)
    assert rows[0].as_dict()["parity"]["requirement"] == requirement
    assert "requirement" not in rows[1].as_dict()["parity"]


def test_junit_counts_failures_and_what_was_not_run():
    root = ET.fromstring(render_junit(make_rows()))
    suites = {suite.get("name"): suite for suite in root}
    counted = {
        name: tuple(suite.get(key) for key in ("tests", "failures", "skipped")) for name, suite in suites.items()
    }
    assert counted == {
        "pytorch": ("3", "0", "0"),
        "flax": ("4", "3", "0"),
        "tensorflow": ("1", "0", "1"),
        "onnx": ("1", "1", "0"),
        "onnx-int8": ("3", "0", "0"),
    }
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("12", "4", "1")
    for suite in root:
        assert len(suite.findall("testcase")) == int(suite.get("tests"))
        assert len(suite.findall("testcase/failure")) == int(suite.get("failures"))
    assert suites["flax"].find("testcase[@name='hidden_states.2']/failure").get("message") == (
        "masks: 3 of 9 values are NaN or Inf"
    )


class Page(HTMLParser):
    """Collects text in order, open tags, and every reference to something else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page_stands_alone_and_says_the_verdict_first():
    html = render_page("<zh>", make_rows(), ENVIRONMENT)
    page = Page(html)
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", html)
    body = " ".join(" ".join(page.words).split("</style>")[-1].split())
    assert (
        body.index("<zh>") < body.index("Not fit for release") < body.index("2 of 5 targets") < body.index("How close")
    )
    assert any("off & <away>" in words for words in page.words)
    assert "prefers-color-scheme: dark" in html


def test_page_of_a_good_release():
    rows = [row for row in make_rows() if row.passed]
    assert "Fit for release." in Page(render_page("<zh>", rows, ENVIRONMENT)).words


def read_heat_map(html):
    """(output, target) -> (what the cell shows, whether it is marked as over the limit)."""
    head, body = re.search(r'<table class="heat">.*?<thead>(.*?)</thead>(.*?)</table>', html, re.DOTALL).groups()
    targets = re.findall(r"<span>(.*?)</span>", head)
    return {
        (output, target): (shown, "over" in attributes)
        for output, row in re.findall(r'<tr><th scope="row" title="([^"]*)">[^<]*</th>(.*?)</tr>', body)
        for target, (attributes, shown) in zip(targets, re.findall(r"<td([^>]*)>([^<]*)</td>", row), strict=True)
    }


def test_the_heat_map_says_how_close_and_where():
    found = read_heat_map(render_page("zh", make_rows(), ENVIRONMENT))
    assert found["hidden_states.1", "pytorch"] == ("40", False)
    assert found["hidden_states.1", "flax"] == ("4000", True)
    assert found["hidden_states.2", "flax"] == ("∞", True)
    assert {found["hidden_states.0", target] for target in ("tensorflow", "onnx")} == {("-", False)}
    # (1 - 0.9991) / (1 - 0.995): of the gates, the cosine's.
    assert found["hidden_states.1", "onnx-int8"] == ("18", False)
    assert "<strong>flax</strong>, hidden_states.2: cannot be compared" in render_page("zh", make_rows(), ENVIRONMENT)


def test_shares_of_int8_are_of_the_strictest_gate():
    masked = Quality(decided=9, top1=0.98, top5=1.0, kl_mean=1e-3, kl_p99=2e-3, kl_max=3e-3, positions=12)
    sentences = SentenceQuality(40, 791, 0.99, 0.9976, 0.9999, 0.9995, 0.9999, None, masked)
    record = make_record(
        [0.0], cosine={"hidden_states.0": 1.0000001}, sentences=sentences, tolerance=GATES, precision="int8"
    )
    extra = {name: make_difference(name, 0.0) for name in ("logits", "last_hidden_state", "pooler_output")}
    shares = shares_used(replace(record, worst={**record.worst, **extra}))
    assert shares == {
        "hidden_states.0": 0.0,  # rounding puts a cosine above 1
        "last_hidden_state": pytest.approx((1 - 0.9976) / (1 - GATES.token_p01)),
        "logits": pytest.approx((1 - 0.98) / (1 - GATES.top1)),
    }


def test_what_is_over_the_limit_is_not_rounded_down_to_it():
    assert [say_share(share) for share in (0.999, 1.0, 1.0001, 1e5)] == ["100", "100", "101", "> 9999"]


HEAD = Plausibility("untrained", 0, 3, -10.65, -9.96, 30)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_page_in_a_browser(tmp_path, size, scheme):
    """Nothing is cut off, colours keep their contrast, and the warning has a colour of its own."""
    long = make_record([0.999] * 12 + [None], head=HEAD)
    outputs = [*long.worst.values(), *(make_difference(name, 0.5) for name in ("token_weights", "pooler_output"))]
    worst = {found.output: replace(found, case="a_case_of_a_longer_name_") for found in outputs}
    rows = [*make_rows(), Row("litert", verdict=replace(long, worst=worst), size=10**9)]
    (tmp_path / "parity.html").write_text(render_page("a_checkpoint_of_a_long_name" * 3, rows, ENVIRONMENT), "utf-8")
    with run_chromium() as browser, open_pages(browser) as open_page:
        page = open_page((tmp_path / "parity.html").as_uri(), size=size, scheme=scheme)
        assert_fits(page, size)
        cut_off = "tables => tables.filter(table => table.scrollWidth > table.parentElement.clientWidth).length"
        assert page.locator("table").evaluate_all(cut_off) == 0
        assert (
            page.locator("table.heat :is(td, th)").evaluate_all(
                "cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent)"
            )
            == []
        )
        assert page.locator("h1").bounding_box()["y"] < 200
        colour = "found => getComputedStyle(found).backgroundColor"
        colours = [page.locator(place).first.evaluate(colour) for place in ("body", ".warning", "td.over")]
        assert len({*colours, "rgba(0, 0, 0, 0)"}) == 4
        assert colours[0] == {"dark": "rgb(20, 24, 28)", "light": "rgb(252, 252, 250)"}[scheme]
        cells = page.locator("table.heat td[style]")
        assert cells.nth(0).evaluate(colour) != page.locator("[title^='litert, hidden_states.1:']").evaluate(colour)


def test_int8_is_told_by_what_its_gates_judge_whatever_its_head():
    agreement = {"cosine": {"hidden_states.0": 0.9999, "hidden_states.1": 0.9991}, "precision": "int8"}
    assert describe_errors(make_record([8.0], **agreement)) == "cosine 0.9991"
    assert describe_errors(make_record([8.0], **agreement, label_error=0.01)) == "logits off by 1.0%, cosine 0.9991"
    assert describe_errors(make_rows()[-1].verdict) == "KL 1.0e-03, cosine 0.9991"


def test_the_page_says_what_int8_loses_on_sentences():
    masked = Quality(decided=61, top1=0.98, top5=1.0, kl_mean=3.4e-4, kl_p99=1e-3, kl_max=2e-3, positions=101)
    sentences = SentenceQuality(40, 791, 0.9991, 0.9976, 0.9999, 0.9995, 0.9997, None, masked)
    record = make_record([0.0], sentences=sentences, tolerance=GATES, precision="int8")
    page = render_page("<zh>", [Row("onnx-int8", verification=Result("onnx-int8"), verdict=record)], ENVIRONMENT)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert "40 everyday sentences, 791 tokens" in page
    for what, found, allowed in (
        ("tokens' vectors: cosine, 1st percentile", "0.99760", "≥ 0.99"),
        ("order of the sentences' similarities (Spearman)", "-", "≥ 0.998"),
        ("masked sentences: KL divergence, mean", "3.4e-04 nats", "≤ 0.005"),
    ):
        assert cells[cells.index(what) + 1 :][:2] == [found, allowed]
