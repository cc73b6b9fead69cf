"""The page at `/`, used in headless Chromium as people use it."""

import re

import httpx
import pytest

from tests.browser import assert_fits, open_pages, read_bars, run_chromium
from tests.serving.conftest import VARIANTS
from tests.serving.running import run_models
from yizhi.serving.page import FILES

pytestmark = pytest.mark.slow

SCRIPT = "<img src=x onerror='document.title=`hacked`'>"


@pytest.fixture(scope="module")
def browser():
    with run_chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, address):
    with open_pages(browser) as open_:
        yield lambda where=address, **settings: open_(where, **settings)


def choose(page, model):
    page.get_by_label("Model", exact=True).select_option(model)


def ask(page, **fields):
    for name, text in fields.items():
        page.locator(f"#{name}").fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text(re.compile(r"Answered in \d+ ms")).wait_for()
    return page.locator("#found")


def test_masks_are_filled_with_bars_of_candidates(open_page, client):
    text = "北[MASK]是[MASK]国"
    expected = client.post("/fill-mask", json={"inputs": text}).json()
    tables = read_bars(ask(open_page(), inputs=text))
    assert [[name for name, *_ in rows] for rows in tables] == [[one["token"] for one in mask] for mask in expected]
    for rows, mask in zip(tables, expected, strict=True):
        for (_, score, width), one in zip(rows, mask, strict=True):
            assert score == f"{one['score']:.4f}"
            assert width == pytest.approx(100 * one["score"], abs=0.01)


def test_a_mask_is_put_where_the_cursor_is_and_keys_are_enough(open_page):
    page = open_page()
    page.locator("#inputs").fill("北国")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Insert [MASK]").click()
    assert page.locator("#inputs").input_value() == "北[MASK]国"
    page.keyboard.press("Control+Enter")
    page.get_by_role("heading", name="Mask 1").wait_for()


def test_labels_have_bars_and_a_value_beyond_1_has_none(open_page, client):
    page = open_page()
    choose(page, "labels")
    for second in ("", "中国"):
        expected = client.post("/predict", json={"inputs": ["北京", second] if second else "北京"}).json()
        (rows,) = read_bars(ask(page, first="北京", second=second))
        assert [row[:2] for row in rows] == [[one["label"], f"{one['score']:.4f}"] for one in expected]
    choose(page, "relevance")
    (expected,) = client.post("/predict", json={"inputs": "北京", "model": "relevance"}).json()
    ((row,),) = read_bars(ask(page, first="北京"))
    assert row[1] == f"{expected['score']:.4f}"
    page.route("**/predict", lambda route: route.fulfill(json=[{"label": "value", "score": -1.5}]))
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("cell", name="-1.5000").wait_for()
    assert read_bars(page.locator("#found")) == [[["value", "-1.5000", None]]]


def test_entities_are_marked_also_after_characters_that_are_two_in_javascript(open_page, client):
    page = open_page()
    choose(page, "entities")
    text = "😀北京是中国的首都"
    expected = client.post("/tag", json={"inputs": text}).json()
    assert expected
    found = ask(page, inputs=text)
    assert found.locator("mark").evaluate_all("all => all.map(mark => mark.firstChild.data)") == [
        one["text"] for one in expected
    ]
    assert found.locator("mark small").all_text_contents() == [one["label"] for one in expected]
    hues = found.locator("mark").evaluate_all("all => all.map(mark => mark.style.getPropertyValue('--hue'))")
    assert len(set(hues)) == len({one["label"] for one in expected})
    (rows,) = read_bars(found)
    assert len(rows) == len(expected)


def test_the_answer_is_marked_in_its_context(open_page, client):
    page = open_page()
    choose(page, "spans")
    given = {"question": "首都", "context": "😀北京是中国的首都"}
    expected = client.post("/answer", json={**given, "top_k": 3}).json()
    found = ask(page, **given)
    assert found.locator("mark").all_text_contents() == [expected[0]["text"]]
    assert found.locator("p.marked").text_content() == given["context"]
    (rows,) = read_bars(found)
    assert [row[:2] for row in rows] == [[one["text"], f"{one['score']:.4f}"] for one in expected]


def test_sentences_are_compared_each_with_each(open_page, client):
    page = open_page()
    page.get_by_label("Compare sentences").check()
    one, other = client.post("/embed", json={"inputs": ["北京", "中国"]}).json()
    cosine = f"{sum(a * b for a, b in zip(one, other, strict=True)):.2f}"
    found = ask(page, inputs="北京\n\n  中国  \n")
    cells = found.locator("td").all_text_contents()
    assert cells == ["1.00", cosine, cosine, "1.00"]
    assert found.locator("tbody th").all_text_contents() == ["1 北京", "2 中国"]
    shares = found.locator("td").evaluate_all("all => all.map(cell => +cell.style.getPropertyValue('--share'))")
    assert shares == pytest.approx([1, 0, 0, 1], abs=0.001)


@pytest.mark.parametrize("lines", ["北京", "北京\n" * 21, " "])
def test_too_few_and_too_many_sentences_are_told(open_page, lines):
    page = open_page()
    page.get_by_label("Compare sentences").check()
    page.locator("#inputs").fill(lines)
    page.get_by_role("button", name="Ask", exact=True).click()
    count = len(lines.split())
    page.get_by_role("alert").get_by_text(f"Expected 2 to 20 sentences; found {count}.").wait_for()


def test_texts_and_labels_are_never_html(open_page, open_variant):
    labels = {"0": f"B-{SCRIPT}", "1": f"I-{SCRIPT}", "2": "B-LOC"}
    tagger = open_variant("bert-tagger", "onnx-int8", config={"id2label": labels})
    with run_models({"<b>bold</b>": tagger}) as address:
        page = open_page(address)
        text = f"北京{SCRIPT}中国<script>document.title='hacked'</script>"
        found = ask(page, inputs=text)
        shown = found.locator("p.marked").evaluate(
            "p => { p.querySelectorAll('small').forEach(e => e.remove()); return p.textContent }"
        )
        assert shown == text
        assert SCRIPT in found.text_content()
        assert page.locator("main img, main b, main script").count() == 0
        assert page.title() == "Yizhi"
        assert "<b>bold</b>" in page.locator("footer").text_content()


def test_what_the_server_refuses_is_said_in_words(open_page):
    page = open_page()
    page.locator("#inputs").fill("北京")
    page.get_by_role("button", name="Ask", exact=True).click()
    alert = page.get_by_role("alert")
    alert.get_by_text("The server cannot use this.").wait_for()
    assert "no [MASK]" in alert.text_content()
    page.get_by_role("button", name="中文").click()
    assert "服务器无法处理此内容。" in alert.text_content()
    page.locator("#inputs").fill("北" * 100 + "[MASK]")
    page.get_by_role("button", name="提交").click()
    alert.get_by_text("内容超出服务器的限制。").wait_for()
    page.locator("#inputs").fill("[MASK]")
    page.get_by_role("button", name="提交").click()
    page.get_by_role("heading", name="第 1 个空").wait_for()
    assert not alert.is_visible()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"status": 502, "body": "<html>bad gateway"}, "The server failed."),
        ({"status": 424, "json": {"error": "the request failed; its id is 7"}}, "The server failed.\nthe request fai"),
        ({"status": 429, "json": {"error": SCRIPT}}, "The server is busy. Try again in a moment."),
        ({"status": 200, "body": "no JSON"}, "The server cannot be reached."),
        (None, "The server cannot be reached."),
    ],
)
def test_a_server_that_fails_is_told_of(open_page, answer, told):
    page = open_page()
    page.route("**/fill-mask", lambda route: route.fulfill(**answer) if answer else route.abort())
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("alert").get_by_text(told.splitlines()[0]).wait_for()
    assert told in page.get_by_role("alert").text_content()
    assert page.locator("main img").count() == 0
    assert not page.locator("#answer").is_visible()


def test_an_answer_of_another_form_is_told_of(open_page):
    page = open_page(silent=False)
    for answer in ('{"a": 1}', '[[{"token": "中", "score": null}]]', "null"):
        page.route("**/fill-mask", lambda route, _, answer=answer: route.fulfill(body=answer))
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_role("alert").get_by_text("The answer cannot be shown.").wait_for()
        assert not page.locator("#answer").is_visible()
    page.unroute("**/fill-mask")
    ask(page)


def test_a_late_answer_does_not_take_a_newer_ones_place(open_page):
    page = open_page()
    held = []
    page.route("**/fill-mask", lambda route: held.append(route) if not held else route.continue_())
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Waiting for the answer").wait_for()
    page.get_by_role("button", name="中文").click()
    page.get_by_text("正在等待结果").wait_for()
    page.get_by_role("button", name="English").click()
    ask(page, inputs="中[MASK]")
    tables = read_bars(page.locator("#found"))
    held[0].fulfill(json=[[{"token": "late", "score": 1}]])
    page.get_by_role("button", name="中文").click()
    assert read_bars(page.locator("#found")) == tables


def test_the_key_is_asked_for_and_kept_in_memory_only(open_page, served):
    with run_models(served, api_key="the-key") as address:
        page = open_page(address)
        field = page.get_by_label("API key")
        field.wait_for()
        assert "This server wants its API key." in page.get_by_role("alert").text_content()
        assert page.locator("*:focus").get_attribute("id") == "key"
        for wrong in ("wrong", "钥匙"):
            field.fill(wrong)
            page.get_by_role("button", name="Enter").click()
            page.get_by_role("alert").get_by_text("This is not the server's API key.").wait_for()
            assert field.input_value() == ""
        field.fill("the-key")
        page.keyboard.press("Enter")
        ask(page, inputs="北[MASK]")
        kept = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length, location.href]")
        assert kept == ["", 0, 0, f"{address}/"]
        page.reload()
        field.wait_for()


def test_the_browsers_language_is_spoken_and_can_be_switched(open_page):
    page = open_page(locale="zh-CN")
    page.get_by_role("button", name="提交").wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.get_by_role("button", name="English").click()
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    assert page.locator("html").get_attribute("lang") == "en"


def test_both_languages_say_everything_with_the_same_values(open_page):
    words = open_page().evaluate("import('./static/words.js').then(({ WORDS }) => WORDS)")
    assert words["en"].keys() == words["zh"].keys()
    for key, text in words["en"].items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", words["zh"][key])), key


@pytest.mark.parametrize("model", VARIANTS)
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_every_task_fits_the_screen_and_is_accessible(open_page, model, size, scheme):
    """axe-core's rules, colour contrast among them, find nothing; nothing makes the page scroll sideways."""
    page = open_page(size=size, scheme=scheme)
    choose(page, model)
    views = page.get_by_role("radio")
    for index in range(views.count()):
        views.nth(index).check()
        ask(page)
        assert_fits(page, size)


def test_files_are_the_pages_own_and_nothing_else(client, served):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("style.css", "main.js"):
        assert client.get(f"/static/{name}").headers["content-security-policy"]
        assert client.get(f"/static/{name}").headers["x-content-type-options"] == "nosniff"
    for name in ("nothing.js", "..%2Fpage.py", "%2e%2e/page.py"):
        assert client.get(f"/static/{name}").status_code == 404
    with run_models(served, api_key="k") as address:
        assert httpx.get(address).status_code == 200
        assert httpx.post(address, json={"inputs": "北"}).status_code == 401
        assert httpx.options(address).headers["allow"] == "GET, HEAD, POST"
    assert not [name for name, text in FILES.items() if re.search(rb"https?://(?!www\.w3\.org/2000/svg)", text)]
