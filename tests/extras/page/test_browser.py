"""Test the page in a real browser, including attacks from other sites open in the same browser."""

import base64
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from src.extras.page.page import Page
from src.extras.paper.reader import digit_reader
from src.inference.predictor import Predictor
from src.runs.weights_file import BUNDLED

FLAGS = [
    "--no-proxy-server",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
]


@pytest.fixture(scope="module")
def browser():
    reason = "needs playwright: pip install -r requirements-dev.txt"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    names = ["chromium", "chromium-browser", "google-chrome"]
    path = next(filter(None, map(shutil.which, names)), None)
    if not path:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=path, args=FLAGS)


@pytest.fixture
def tab(browser):
    """Yield a browser tab, then check that no script failed and no external URL was loaded."""
    tab = browser.new_page(viewport={"width": 1000, "height": 760})
    tab.set_default_timeout(30_000)
    urls, errors = [], []
    tab.on("request", lambda request: urls.append(request.url))
    tab.on("pageerror", lambda error: errors.append(error))
    tab.add_init_script("window.ran = 0; window.run = () => { window.ran += 1; };")
    yield tab
    own = ("http://127.0.0.1:", "http://localhost:", "http://evil.example:", "data:", "blob:")
    assert not errors and all(url.startswith(own) for url in urls)
    tab.close()


@pytest.fixture
def mnist(start):
    """Return a running server with the bundled network for handwritten digits."""
    predictor = Predictor(BUNDLED["mnist"], "cpu")
    return start(Page(predictor, [], digit_reader(predictor.dataset, "auto"), draws=True))


def visit(tab, running) -> None:
    tab.goto(f"http://127.0.0.1:{running.port}/")
    tab.locator("#answer p").wait_for()


def answer(tab) -> str:
    return tab.locator("#answer .top b").inner_text()


# Drawing ----------------------------------------------------------------------------------------


# One drawing per line, two per digit. Points "x,y" are in percent of the drawing area.
DIGITS = Path(__file__).with_name("digits.txt").read_text().splitlines()


def draw(tab, strokes: str) -> None:
    """Draw strokes with the mouse."""
    field = tab.locator("canvas").bounding_box()

    def move(point: str) -> None:
        x, y = (int(percent) * field["width"] / 100 for percent in point.split(","))
        tab.mouse.move(field["x"] + x, field["y"] + y)

    for stroke in strokes.split("/"):
        first, *others = stroke.split()
        move(first)
        tab.mouse.down()
        for point in others:
            move(point)
        tab.mouse.up()


def answer_to_the_drawing(running, tab) -> str:
    """Wait for the result for the current drawing, and return the predicted class."""
    url = tab.evaluate("document.querySelector('canvas').toDataURL()")
    body = running.upload(base64.b64decode(url.split(",")[1]))[2]
    source = json.loads(body)["pictures"][0]["source"]
    tab.locator(f'#answer img[src="{source}"]').wait_for()
    return answer(tab)


def test_at_least_17_of_20_drawn_digits_are_read(mnist, tab):
    visit(tab, mnist)
    right = 0
    for line in DIGITS:
        digit, strokes = line.split(":")
        tab.get_by_role("button", name="Clear").click()
        tab.get_by_text("Draw something").wait_for()
        draw(tab, strokes)
        right += answer_to_the_drawing(mnist, tab) == digit
    assert len(DIGITS) == 20 and right >= 17


def test_probabilities_are_shown_while_the_pen_is_down_and_keys_draw_too(mnist, tab):
    visit(tab, mnist)
    field = tab.locator("canvas").bounding_box()
    tab.mouse.move(field["x"] + 100, field["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(field["x"] + 110, field["y"] + 250, steps=10)
    assert answer_to_the_drawing(mnist, tab) == "1"
    bars = [float(bar.rstrip("%")) for bar in tab.locator(".value").all_inner_texts()]
    assert len(bars) == 10 and sum(bars) == pytest.approx(100, abs=0.6)
    assert tab.locator(".name").all_inner_texts() == list("0123456789")
    assert tab.get_by_alt_text("Where it looked").count() == 1
    tab.mouse.up()
    tab.get_by_role("button", name="Clear").click()
    assert tab.locator(".bars").count() == 0
    tab.locator("canvas").focus()
    for _ in range(18):
        tab.keyboard.press("ArrowDown")
    assert answer_to_the_drawing(mnist, tab) == "1"


# Files ------------------------------------------------------------------------------------------


def transfer(tab, path: Path, event: str) -> None:
    """Drop or paste a file on the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    tab.evaluate(
        """([content, name, event]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name));
            const options = { dataTransfer: data, clipboardData: data, bubbles: true };
            const kinds = { drop: DragEvent, paste: ClipboardEvent };
            document.getElementById("photo").dispatchEvent(new kinds[event](event, options));
        }""",
        [content, path.name, event],
    )


def test_a_photo_is_dropped_pasted_chosen_or_taken(mnist, tab, tmp_path):
    photo = Image.new("RGB", (400, 300), (225, 220, 210))
    ImageDraw.Draw(photo).line([(190, 60), (180, 240)], fill=(30, 30, 60), width=22)
    photo.save(tmp_path / "photo.jpg")
    visit(tab, mnist)
    for event in ("drop", "paste"):
        transfer(tab, tmp_path / "photo.jpg", event)
        tab.locator(".bars").wait_for()
        assert answer(tab) == "1" and tab.locator("#preview").is_visible()
        tab.get_by_role("button", name="Clear").click()
        assert tab.locator(".bars").count() == 0 and not tab.locator("#preview").is_visible()
    tab.locator("#file").set_input_files(tmp_path / "photo.jpg")
    tab.locator(".bars").wait_for()
    tab.get_by_role("button", name="Camera").click()
    tab.get_by_role("button", name="Take the photo").click()
    tab.locator(".bars").or_(tab.get_by_text("The photo: ")).first.wait_for()


def test_after_a_file_that_is_no_photo_the_page_goes_on(running, tab, tmp_path):
    hostile = "<img src=x onerror=run()>.png"
    Image.new("1", (9_000, 9_000)).save(tmp_path / "bomb.png")
    (tmp_path / hostile).write_text("not a photo")
    (tmp_path / "large.png").write_bytes(bytes(20 * 2**20 + 1))
    visit(tab, running)
    for name, reason in (
        (hostile, "cannot be read as an image: not an image"),
        ("bomb.png", "has 9000x9000 pixels"),
        ("large.png", "larger than 20 MiB"),
    ):
        tab.locator("#file").set_input_files(tmp_path / name)
        tab.get_by_text(f"{name}: {reason}").wait_for()
    tab.locator("#examples button").first.click()
    tab.get_by_text("labeled cat").wait_for()
    assert tab.evaluate("window.ran") == 0


def test_names_of_classes_are_text(running, tab):
    visit(tab, running)
    assert not tab.locator("canvas").is_visible() and tab.locator("#examples img").count() == 6
    labels = []
    for number in range(6):
        button = tab.locator("#examples button").nth(number)
        source = button.locator("img").get_attribute("src")
        button.click()
        tab.locator(f'#answer img[src="{source}"]').wait_for()
        labels.append(tab.locator(".top span").inner_text())
    assert labels == [f"labeled {name}" for name in running.page.predictor.classes] * 3
    assert tab.evaluate("window.ran") == 0 and tab.locator("#answer img").count() == 2


# Other sites ------------------------------------------------------------------------------------

ATTACK = """async (target) => {
    const body = new Blob(["P5 1 1 255 x"], { type: "image/png" });
    const headers = { "Content-Type": "application/octet-stream" };
    const attempts = [
        ["/page.json", {}],
        ["/classify", { method: "POST", body }],
        ["/classify", { method: "POST", body: "P5 1 1 255 x" }],
        ["/classify", { method: "POST", body, headers }],
    ];
    const outcomes = [];
    for (const [path, options] of attempts) {
        for (const mode of ["cors", "no-cors"]) {
            const request = fetch(target + path, { ...options, mode });
            outcomes.push(await request.then((response) => response.type, () => "failed"));
        }
    }
    return outcomes;
}"""


def test_another_site_can_neither_read_answers_nor_have_images_classified(running, tab):
    asked = []
    running.page.prepare = lambda path: asked.append(path) or running.page.predictor.prepare(path)
    handler = http.server.SimpleHTTPRequestHandler
    handler.log_message = lambda *_: None
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    for site in ("evil.example", "localhost", "127.0.0.1"):
        tab.goto(f"http://{site}:{other.server_port}/no")
        outcomes = tab.evaluate(ATTACK, f"http://127.0.0.1:{running.port}")
        assert set(outcomes[::2]) == {"failed"} and set(outcomes) <= {"failed", "opaque"}
        tab.set_content(f'<iframe src="http://127.0.0.1:{running.port}/"></iframe>')
        tab.wait_for_timeout(300)
        assert not any(frame.locator("#name").count() for frame in tab.frames)
    other.shutdown()
    assert not asked


def test_a_site_whose_name_is_pointed_at_this_computer_is_refused(running, tab):
    response = tab.goto(f"http://evil.example:{running.port}/")
    assert response.status == 403
    attack = "fetch('/page.json').then((response) => response.status)"
    assert tab.evaluate(attack) == 403
