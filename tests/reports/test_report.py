"""report/: parity.json, parity.xml and the page, which is also opened in a browser where there is one."""

import json
import re
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from rich.console import Console

from tests.browser import find_chromium
from tests.records import make_record
from yizhi.parity.compare import Quality
from yizhi.parity.sentence_quality import SentenceQuality
from yizhi.parity.tolerances import QuantizedGates
from yizhi.pipeline.environment import Environment
from yizhi.pipeline.jobs import Result
from yizhi.pipeline.results import Row
from yizhi.reports.report import render_junit, write_report
from yizhi.reports.report_page import render_page
from yizhi.reports.tables import describe_errors, print_release

GATES = QuantizedGates(0.5, 0.99, 0.99, 5e-3, 2e-2, 0.995, 0.998, 0.15, 0.99, 0.998, 0.998, "measured")
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


def test_json_says_what_machine_and_whether_all_passed(tmp_path):
    write_report(tmp_path, make_rows())
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
    assert f"<p>{requirement}. because" in render_page(rows, ENVIRONMENT)
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
    html = render_page(make_rows(), ENVIRONMENT)
    page = Page(html)
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", html)
    body = " ".join(" ".join(page.words).split("</style>")[-1].split())
    assert body.index("Not fit for release") < body.index("2 of 5 targets") < body.index("worst error")
    assert page.tags.count("svg") == 3
    assert any("off & <away>" in words for words in page.words)
    assert html.count('class="bar over"') == 2
    assert "prefers-color-scheme: dark" in html


def test_page_of_a_good_release():
    rows = [row for row in make_rows() if row.passed]
    assert "Fit for release" in Page(render_page(rows, ENVIRONMENT)).words


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1100, "light")])
def test_page_in_a_browser(tmp_path, width, scheme):
    """Laid out by Chromium in a frame of this width, nothing makes the page itself scroll sideways."""
    chromium = find_chromium()
    page = render_page(make_rows(), ENVIRONMENT)
    (tmp_path / "parity.html").write_text(page, encoding="utf-8")
    # Chromium's own windows are at least 500 wide, so the width is that of a frame.
    quoted = page.replace("'", "&#39;")
    probe = (
        f"<iframe id=f style='width:{width}px;height:900px;border:0' srcdoc='{quoted}'></iframe>"
        "<script>f.onload = () => { const d = f.contentDocument, c = f.contentWindow.getComputedStyle(d.body);"
        "document.title = [d.documentElement.scrollWidth, d.querySelector('h1').getBoundingClientRect().top < 200,"
        "d.querySelectorAll('svg rect').length, c.backgroundColor].join('|') }</script>"
    )
    (tmp_path / "probe.html").write_text(f"<meta charset=utf-8><title></title>{probe}", encoding="utf-8")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options = [
        *quiet.split(),
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    options += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--dump-dom"]
    command = [chromium, *options, (tmp_path / "probe.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>([^<]*)</title>", done.stdout)
    scroll_width, verdict_on_top, bars, paper = found.group(1).split("|")
    assert int(scroll_width) <= width
    assert verdict_on_top == "true"
    assert int(bars) == 2 + 3 + 2
    assert paper == {"dark": "rgb(20, 24, 28)", "light": "rgb(252, 252, 250)"}[scheme]


def test_int8_is_told_by_what_its_gates_judge_whatever_its_head():
    agreement = {"cosine": {"hidden_states.0": 0.9999, "hidden_states.1": 0.9991}, "precision": "int8"}
    assert describe_errors(make_record([8.0], **agreement)) == "cosine 0.9991"
    assert describe_errors(make_record([8.0], **agreement, label_error=0.01)) == "logits off by 1.0%, cosine 0.9991"
    assert describe_errors(make_rows()[-1].verdict) == "KL 1.0e-03, cosine 0.9991"


def test_the_page_says_what_int8_loses_on_sentences():
    masked = Quality(decided=61, top1=0.98, top5=1.0, kl_mean=3.4e-4, kl_p99=1e-3, kl_max=2e-3, positions=101)
    sentences = SentenceQuality(40, 791, 0.9991, 0.9976, 0.9999, 0.9995, 0.9997, None, masked)
    record = make_record([0.0], sentences=sentences, tolerance=GATES, precision="int8")
    page = render_page([Row("onnx-int8", verification=Result("onnx-int8"), verdict=record)], ENVIRONMENT)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert "40 everyday sentences, 791 tokens" in page
    for what, found, allowed in (
        ("tokens' vectors: cosine, 1st percentile", "0.99760", "≥ 0.99"),
        ("order of the sentences' similarities (Spearman)", "-", "≥ 0.998"),
        ("masked sentences: KL divergence, mean", "3.4e-04 nats", "≤ 0.005"),
    ):
        assert cells[cells.index(what) + 1 :][:2] == [found, allowed]
