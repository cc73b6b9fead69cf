"""The page of a web package, used in headless Chromium as people use it; and transformers.js there."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.browser import assert_fits, open_pages, read_bars, run_chromium
from tests.packaging.conftest import package
from tests.web import install_transformers_js, require_wasm, serve_folders
from yizhi import Embedder, FillMask, open_runtime
from yizhi.choices import WASM

pytestmark = pytest.mark.slow

TEXT = "北京是[MASK]国的首都。"
SCRIPT = "<img src=x onerror='document.title=`hacked`'>"
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


@pytest.fixture(scope="module")
def browser():
    with run_chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    with open_pages(browser) as open_:
        yield open_


@pytest.fixture(scope="module")
def small_address(small_web):
    with serve_folders({"": small_web}) as address:
        yield address


@pytest.fixture(scope="module")
def mini_address(mini_web):
    with serve_folders({"": mini_web}) as address:
        yield address


@pytest.fixture
def altered_web(small_web, tmp_path):
    """A copy of the small package, to be spoiled."""
    folder = tmp_path / "web"
    shutil.copytree(small_web, folder)
    return folder


def load(page, precision="int8"):
    page.get_by_label("Model", exact=True).select_option({"int8": "onnx-int8", "fp32": "onnx"}[precision])
    page.get_by_role("button", name="Load the model").click()
    page.get_by_text(re.compile(r"Loaded in \d+\.\d s")).wait_for()
    return page


def ask(page, text):
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text(re.compile(r"Answered in \d+ ms")).wait_for()
    return read_bars(page.locator("#found"))


def refuse(page, told):
    page.get_by_role("button", name="Load the model").click()
    page.get_by_role("alert").get_by_text(told).wait_for()
    assert not page.locator("#ask").is_visible()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_page_answers_as_the_runtime_in_webassembly_does(open_page, mini_release, mini_address, precision):
    require_wasm()
    page = load(open_page(mini_address), precision)
    (rows,) = ask(page, TEXT)
    assert rows[0][0] == "中"
    two = ask(page, "今天[MASK]气很[MASK]。")
    with open_runtime(mini_release / {"fp32": "onnx", "int8": "onnx-int8"}[precision], device=WASM) as runtime:
        expected = FillMask(runtime)
        for shown, masks in ((rows, expected(TEXT)[0]), *zip(two, expected("今天[MASK]气很[MASK]。"), strict=True)):
            assert [(name, score) for name, score, _ in shown] == [(one.token, f"{one.score:.4f}") for one in masks]
            assert [width for *_, width in shown] == pytest.approx([100 * one.score for one in masks], abs=0.01)
    assert "25 texts were turned into the ids of its release, and 6 answered" in page.locator("footer").text_content()


def test_keys_are_enough(open_page, small_address):
    page = open_page(small_address)
    page.get_by_label("Model", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile("Loaded in")).wait_for()
    assert page.locator("*:focus").get_attribute("id") == "text"
    page.locator("#text").fill("北国")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#text").input_value() == "北[MASK]国"
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile("Answered in")).wait_for()
    assert len(read_bars(page.locator("#found"))) == 1


def test_progress_is_shown_while_the_weights_come(open_page, small_address):
    page = open_page(small_address)
    held = []
    page.context.route("**/*_data", lambda route: held.append(route))
    page.get_by_role("button", name="Load the model").click()
    bar = page.get_by_role("progressbar", name="Loading the model")
    bar.wait_for()
    page.wait_for_timeout(200)
    assert 0 <= float(bar.get_attribute("value") or bar.evaluate("bar => bar.value")) < 100
    assert re.search(r"\d+ % of 0\.\d MB", page.locator("#status").text_content())
    while not held:
        page.wait_for_timeout(50)
    held[0].continue_()
    page.get_by_text(re.compile("Loaded in")).wait_for()
    assert not bar.is_visible()


def test_threads_are_used_where_the_page_is_isolated(open_page, small_web, small_address):
    with serve_folders({"": small_web}, ISOLATED) as address:
        page = load(open_page(address))
        assert page.evaluate("crossOriginIsolated")
        threads = int(re.search(r"threads: (\d+)", page.locator("footer").text_content())[1])
        assert threads > 1 or page.evaluate("navigator.hardwareConcurrency") == 1
        assert ask(page, "北[MASK]") == ask(load(open_page(small_address)), "北[MASK]")


def test_texts_are_never_html(open_page, small_address):
    page = load(open_page(small_address))
    ask(page, f"{SCRIPT}[MASK]<script>document.title='hacked'</script>")
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Yizhi"


def test_what_cannot_be_answered_is_told_and_the_page_goes_on(open_page, small_address):
    page = load(open_page(small_address))
    alert = page.get_by_role("alert")
    for text, told in (("北京", "The text has no [MASK] to fill."), ("北" * 600 + "[MASK]", "tokens; found 603.")):
        page.get_by_label("Text").fill(text)
        page.get_by_role("button", name="Ask", exact=True).click()
        alert.get_by_text(told).wait_for()
        assert not page.locator("#answer").is_visible()
    page.get_by_role("button", name="中文").click()
    assert "个词元" in alert.text_content()
    page.get_by_role("button", name="English").click()
    ask(page, "北[MASK]")
    assert not alert.is_visible()


# --- Refused: a browser, or a copy, that answers otherwise than the release


def test_other_weights_are_refused(open_page, altered_web):
    (data,) = altered_web.rglob("model_quantized.onnx_data")
    kept = data.read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, len(kept), np.uint8).tobytes()
    data.write_bytes(noise)
    with serve_folders({"": altered_web}) as address:
        page = open_page(address, silent=False)
        refuse(page, re.compile("Refused: this browser answers otherwise"))
        data.write_bytes(kept)
        load(page)  # mended, the same page loads it


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: data[:-1], r"expected \d+ bytes; found \d+\."),
        (lambda data: data + b"x", r"expected \d+ bytes; found \d+\."),
        (None, r"model_quantized\.onnx_data cannot be loaded\."),
    ],
)
def test_weights_that_are_cut_or_missing_are_refused(open_page, altered_web, spoil, told):
    (data,) = altered_web.rglob("model_quantized.onnx_data")
    if spoil:
        data.write_bytes(spoil(data.read_bytes()))
    else:
        data.unlink()
    with serve_folders({"": altered_web}) as address:
        refuse(open_page(address), re.compile(told))


def test_another_tokenizer_is_refused(open_page, altered_web):
    (path,) = altered_web.rglob("tokenizer.json")
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with serve_folders({"": altered_web}) as address:
        refuse(open_page(address), re.compile("Refused: this browser reads a text otherwise"))


def test_a_graph_that_webassembly_refuses_is_told_of(open_page, altered_web):
    (graph,) = altered_web.rglob("model_quantized.onnx")
    graph.write_bytes(b"\0" * graph.stat().st_size)
    with serve_folders({"": altered_web}) as address:
        refuse(open_page(address, silent=False), re.compile("WebAssembly failed: "))


def test_a_page_without_its_description_or_engine_says_so(open_page, altered_web):
    (altered_web / "onnxruntime-web" / "ort.wasm.min.mjs").unlink()
    with serve_folders({"": altered_web}) as address:
        refuse(open_page(address, silent=False), re.compile("This page failed"))
        (altered_web / "page.json").unlink()
        page = open_page(address)
        page.get_by_role("alert").get_by_text("page.json cannot be loaded.").wait_for()


def test_a_page_that_is_opened_as_a_file_says_what_it_needs(open_page, small_web):
    page = open_page((small_web / "index.html").as_uri(), silent=False)
    page.get_by_text("This page needs JavaScript, and a web server").wait_for()


# --- Looks, languages, and nothing from elsewhere


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_every_state_fits_the_screen_and_is_accessible(open_page, small_address, size, scheme):
    page = open_page(small_address, size=size, scheme=scheme)
    page.get_by_role("button", name="Load the model").wait_for()
    assert_fits(page, size)
    ask(load(page), "北[MASK]是[MASK]国")
    assert_fits(page, size)
    page.get_by_label("Text").fill("北" * 700)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("alert").wait_for()
    assert_fits(page, size)


def test_the_progress_bar_is_accessible(open_page, small_address):
    page = open_page(small_address, size="phone")
    page.context.route("**/*_data", lambda route: None)
    page.get_by_role("button", name="Load the model").click()
    page.get_by_role("progressbar").wait_for()
    assert_fits(page, "phone")


def test_both_languages_say_everything_with_the_same_values(open_page, small_address):
    words = open_page(small_address, locale="zh-CN").evaluate("import('./page/words.js').then(({ WORDS }) => WORDS)")
    assert words["en"].keys() == words["zh"].keys()
    for key, text in words["en"].items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", words["zh"][key])), key


def test_the_browsers_language_is_spoken(open_page, small_address):
    page = open_page(small_address, locale="zh-CN")
    page.get_by_role("button", name="加载模型").click()
    page.get_by_text(re.compile(r"加载用时 \d+\.\d 秒")).wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"


def test_nothing_is_asked_from_elsewhere(open_page, small_address):
    page = open_page("about:blank")
    asked = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(small_address)
    ask(load(page), "北[MASK]")
    assert any(url.endswith(".wasm") for url in asked)
    assert [url for url in asked if not url.startswith((small_address, "blob:"))] == []


# --- transformers.js in a browser

TRANSFORMERS_JS = """<!doctype html><meta charset="utf-8">
<script type="importmap">{ "imports": {
  "@huggingface/transformers": "/node_modules/@huggingface/transformers/dist/transformers.min.js"
} }</script>
<script type="module">
import { env, pipeline } from "@huggingface/transformers";
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/web/models/";
env.backends.onnx.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
window.run = async (dtype, text) => {
  const fillMask = await pipeline("fill-mask", "zh-mini", { dtype, device: "wasm" });
  const embed = await pipeline("feature-extraction", "zh-mini", { dtype, device: "wasm" });
  const filled = Object.fromEntries((await fillMask(text)).map(({ token_str, score }) => [token_str, score]));
  const { data } = await embed(text, { pooling: "mean" });
  return { filled, data: Array.from(data) };
};
document.title = "ready";
</script>"""


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_transformers_js_answers_in_a_browser(open_page, mini_release, mini_web, tmp_path, dtype):
    modules = install_transformers_js() / "node_modules"
    (tmp_path / "index.html").write_text(TRANSFORMERS_JS, encoding="utf-8")
    with serve_folders({"": tmp_path, "web": mini_web, "node_modules": modules}) as address:
        page = open_page(address, silent=False)
        page.wait_for_function("document.title === 'ready'")
        found = page.evaluate("([dtype, text]) => run(dtype, text)", [dtype, TEXT])
    with open_runtime(mini_release / {"fp32": "onnx", "q8": "onnx-int8"}[dtype]) as runtime:
        expected = {one.token: one.score for one in FillMask(runtime)(TEXT)[0]}
        (vector,) = Embedder(runtime)([TEXT])
    most = {"fp32": 1e-5, "q8": 0.01}[dtype]
    assert next(iter(found["filled"])) == "中"
    least = min(found["filled"].values())
    assert all(found["filled"].get(token, least) == pytest.approx(score, abs=most) for token, score in expected.items())
    assert np.linalg.norm(np.array(found["data"]) - vector) <= {"fp32": 1e-5, "q8": 0.02}[dtype] * np.linalg.norm(
        vector
    )


def test_a_packages_name_is_text(open_page, small_release, tmp_path):
    """The name is the only text of the package's maker on the page; a name of markup is no name."""
    folder = package(small_release, tmp_path / "web", "--name", "a.b_c-d")
    with serve_folders({"": folder}) as address:
        page = load(open_page(address))
        assert "a.b_c-d, onnx-int8, int8" in page.locator("footer").text_content()
