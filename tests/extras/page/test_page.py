"""The page in a real browser: digits are drawn by mouse, files are dropped, and the answer is read from the page."""

import base64
import functools
import http.client
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from launch import free_port
from photos import class_folders
from PIL import Image, ImageDraw
from program import ROOT, Ended, Running, classify, without

from src.data.modules import FolderDataModule
from src.runs.checkpoint import FORMAT
from src.training.classifier import ViT

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -r requirements-app.txt")
HAS_MNIST = (ROOT / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file()
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream""".split()


class Page:
    """The program `classify.py --serve` in a process of its own, until the block ends."""

    def __init__(self, checkpoint: Path, *more):
        self.port = free_port()
        self.args = [
            "classify.py",
            "--serve",
            "--ckpt",
            checkpoint,
            "--port",
            self.port,
            "--device",
            "cpu",
            *more,
        ]

    def __enter__(self):
        command = [sys.executable, *map(str, self.args)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said = next((line for line in self.process.stdout if line.startswith("Serving")), None)
        assert said, self.process.stderr.read()  # it has ended
        self.address = f"http://127.0.0.1:{self.port}/"
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.code = self.process.wait(30)
        self.errors = self.process.stderr.read()

    def request(self, path: str, data: bytes | None = None, **headers) -> tuple[int, bytes]:
        """The status and the body of an answer to a request without any browser."""
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=60
            ) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    @functools.cached_property
    def config(self) -> dict:
        return json.loads(self.request("config")[1])

    def upload(self, content: bytes, name: str = "image.png") -> tuple[int, bytes]:
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        return self.request("gradio_api/upload", head + content + b"\r\n--x--\r\n", **headers)

    def ask(self, path: str) -> dict:
        """What the server makes of a message that says a file of this name was sent."""
        (photo,) = [part["id"] for part in self.config["components"] if part["type"] == "image"]
        (number,) = [d["id"] for d in self.config["dependencies"] if d["inputs"] == [photo]]
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        body = json.dumps({"data": data, "fn_index": number, "session_hash": "test"}).encode()
        assert (
            self.request("gradio_api/queue/join", body, **{"Content-Type": "application/json"})[0]
            == 200
        )
        lines = self.request("gradio_api/queue/data?session_hash=test")[1].decode().splitlines()
        messages = [
            json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")
        ]
        (done,) = [message for message in messages if message["msg"] == "process_completed"]
        return done


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: requirements-dev.txt"
    )
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not path:
        pytest.skip("there is no browser: apt-get install chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=path, args=FLAGS)


@pytest.fixture
def tab(browser):
    """A browser's tab; `tab.asked` has the addresses of all that it loaded."""
    tab = browser.new_page(viewport={"width": 1100, "height": 760})
    tab.set_default_timeout(60_000)
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    yield tab
    outside = [
        url for url in tab.asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))
    ]
    tab.close()
    assert not outside


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """The page of a network that has seen some of MNIST's training images."""
    if not HAS_MNIST:
        pytest.skip("needs the real MNIST under data/")
    runs, short = (
        tmp_path_factory.mktemp("runs"),
        ["--trainer.limit_train_batches", 160, "--trainer.max_epochs", 1],
    )
    few = [
        "--trainer.limit_val_batches",
        1,
        "--trainer.limit_test_batches",
        1,
        "--model.warmup_epochs",
        0.2,
    ]
    ended = Running(
        "--runs", runs, "--trainer.accelerator", "cpu", "--model.ema_decay", 0.95, *short, *few
    ).end(500)
    assert ended.code == 0, ended
    with Page(runs / "mnist" / "version_0") as page:
        yield page


HOSTILE = "<img src=x onerror=run()>${run()}"  # what a folder, and so a class, may be called


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The page of an untrained network for a folder of color photos, with test images to choose from."""
    folder = tmp_path_factory.mktemp("photos")
    class_folders(folder / "photos", ("cat", HOSTILE), (40, 30), train=2, test=3)
    data = FolderDataModule(root=str(folder / "photos"), image_size=8, patch_size=4)
    model = ViT(data.description, width=8, depth=1, heads=1)
    checkpoint = {
        "hyper_parameters": dict(model.hparams),
        "state_dict": model.state_dict(),
        "format": FORMAT,
    }
    torch.save(checkpoint, folder / "photos.ckpt")
    with Page(folder / "photos.ckpt") as page:
        yield page


# Drawing --------------------------------------------------------------------------------------------------------------


def arc(x, y, width, height, start, end):
    """Points on an ellipse around (x, y), from one angle to another; degrees, 0 to the right, 90 down."""
    angles = [math.radians(start + (end - start) * i / 20) for i in range(21)]
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


DIGITS = [  # what is drawn, and its strokes, in a square of side 1
    (0, [arc(0.5, 0.5, 0.2, 0.32, -90, 270)]),
    (0, [arc(0.45, 0.5, 0.28, 0.3, -60, 300)]),
    (1, [[(0.52, 0.15), (0.48, 0.85)]]),
    (1, [[(0.62, 0.2), (0.42, 0.8)]]),
    (2, [arc(0.5, 0.34, 0.18, 0.17, -170, 40) + [(0.3, 0.82), (0.74, 0.82)]]),
    (
        2,
        [
            [
                (0.34, 0.28),
                (0.45, 0.18),
                (0.6, 0.2),
                (0.65, 0.35),
                (0.5, 0.58),
                (0.3, 0.8),
                (0.72, 0.76),
            ]
        ],
    ),
    (3, [arc(0.48, 0.33, 0.18, 0.16, -150, 90) + arc(0.48, 0.66, 0.2, 0.18, -90, 150)]),
    (3, [[(0.33, 0.2), (0.65, 0.2), (0.48, 0.45)] + arc(0.48, 0.64, 0.19, 0.19, -90, 150)]),
    (4, [[(0.4, 0.15), (0.28, 0.55), (0.72, 0.55)], [(0.62, 0.2), (0.6, 0.88)]]),
    (4, [[(0.34, 0.2), (0.34, 0.5), (0.66, 0.5)], [(0.66, 0.18), (0.66, 0.85)]]),
    (5, [[(0.66, 0.18), (0.38, 0.18), (0.36, 0.46)] + arc(0.48, 0.63, 0.2, 0.19, -120, 140)]),
    (
        5,
        [
            [(0.4, 0.2), (0.38, 0.45), (0.58, 0.47), (0.66, 0.62), (0.56, 0.8), (0.34, 0.8)],
            [(0.4, 0.2), (0.68, 0.18)],
        ],
    ),
    (6, [[(0.6, 0.15), (0.42, 0.4)] + arc(0.5, 0.65, 0.17, 0.18, 180, -180)]),
    (6, [arc(0.62, 0.55, 0.26, 0.38, -110, -180) + arc(0.52, 0.67, 0.17, 0.16, 180, -190)]),
    (7, [[(0.3, 0.2), (0.7, 0.2), (0.55, 0.5), (0.46, 0.85)]]),
    (7, [[(0.28, 0.24), (0.66, 0.18), (0.45, 0.82)]]),
    (8, [arc(0.5, 0.33, 0.15, 0.15, 90, 450) + arc(0.5, 0.66, 0.18, 0.18, -90, 270)]),
    (
        8,
        [
            [
                (0.62, 0.25),
                (0.5, 0.17),
                (0.38, 0.28),
                (0.6, 0.62),
                (0.5, 0.82),
                (0.38, 0.65),
                (0.6, 0.38),
                (0.62, 0.25),
            ]
        ],
    ),
    (9, [arc(0.5, 0.35, 0.17, 0.17, 0, -360) + [(0.64, 0.6), (0.58, 0.87)]]),
    (9, [arc(0.48, 0.36, 0.18, 0.16, -20, -340) + [(0.66, 0.3), (0.66, 0.86)]]),
]


def answer(tab) -> str:
    return tab.locator(".answer .top b").inner_text()


def settled_answer(tab) -> str:
    """The answer, once the bars and the picture have stood still for a second."""
    tab.locator(".answer .bars").wait_for()
    content, same = "", 0
    for _ in range(300):
        before, content = content, tab.locator(".answer").first.inner_html()
        same = same + 1 if content == before else 0
        if same == 5:
            return answer(tab)
        tab.wait_for_timeout(200)
    raise AssertionError("the answer never stands still")


def answer_to_the_drawing(page: Page, tab) -> str:
    """The answer, once it is that to all that stands on the canvas: the one that a file of the same picture gets."""
    address = tab.evaluate("document.querySelector('canvas').toDataURL()")
    (sent,) = json.loads(page.upload(base64.b64decode(address.split(",")[1]))[1])
    given = re.search(r'<img src="(.*?)"', page.ask(sent)["output"]["data"][0])[1]
    tab.locator(f'.answer img[src="{given}"]').wait_for()
    return answer(tab)


def draw(tab, strokes: list) -> None:
    """By mouse events, the button down from the first point of a stroke to its last."""
    field = tab.locator("canvas").bounding_box()
    for stroke in strokes:
        for i, (x, y) in enumerate(stroke):
            tab.mouse.move(field["x"] + x * field["width"], field["y"] + y * field["height"])
            if i == 0:
                tab.mouse.down()
        tab.mouse.up()


def clear(tab) -> None:
    tab.get_by_role("button", name="Clear").click()
    tab.get_by_text("Draw something").wait_for()


@pytest.mark.real_data
def test_at_least_17_of_20_digits_that_are_drawn_are_read(mnist, tab, tmp_path):
    tab.goto(mnist.address)
    read = []
    for digit, strokes in DIGITS:
        clear(tab)
        draw(tab, strokes)
        read.append((digit, answer_to_the_drawing(mnist, tab)))
    tab.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    right = sum(str(digit) == answer for digit, answer in read)
    print(f"{right} of {len(read)}", read)
    assert len(read) == 20 and right >= 17, read


@pytest.mark.real_data
def test_the_probabilities_move_while_the_pen_is_down(mnist, tab):
    tab.goto(mnist.address)
    field = tab.locator("canvas").bounding_box()
    tab.mouse.move(field["x"] + 0.4 * field["width"], field["y"] + 0.2 * field["height"])
    tab.mouse.down()
    tab.mouse.move(field["x"] + 0.5 * field["width"], field["y"] + 0.7 * field["height"], steps=10)
    settled_answer(tab)
    bars = tab.locator(".answer .value").all_inner_texts()
    assert tab.get_by_alt_text("Where it looked").count() == 1
    assert len(bars) == 10 and sum(float(bar.rstrip("%")) for bar in bars) == pytest.approx(
        100, abs=0.6
    )
    given = tab.get_by_alt_text("What the network was given").get_attribute("src")
    tab.mouse.move(field["x"] + 0.8 * field["width"], field["y"] + 0.3 * field["height"], steps=10)
    settled_answer(tab)
    assert tab.get_by_alt_text("What the network was given").get_attribute("src") != given
    assert tab.locator(".answer .value").all_inner_texts() != bars


@pytest.mark.real_data
def test_a_drawing_of_nothing_is_answered(mnist, tab):
    tab.goto(mnist.address)
    assert answer(tab).startswith("Draw something")
    draw(tab, DIGITS[0][1])
    settled_answer(tab)
    clear(tab)
    assert tab.locator(".answer .bars").count() == 0


# Files ----------------------------------------------------------------------------------------------------------------


def drop(tab, path: Path, kind: str) -> None:
    """Drop the file on the field for photos, as from the desktop."""
    content = base64.b64encode(path.read_bytes()).decode()
    tab.locator("#photo input[type=file]").wait_for(state="attached")
    tab.evaluate(
        """([content, name, kind]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0)), dropped = new DataTransfer();
            dropped.items.add(new File([bytes], name, { type: kind }));
            const field = document.querySelector("#photo input[type=file]").parentElement;
            field.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
        }""",
        [content, path.name, kind],
    )


@pytest.mark.real_data
def test_a_photo_is_dropped_and_after_what_is_no_photo_the_page_lives_on(mnist, tab, tmp_path):
    photo = Image.new("RGB", (400, 300), (225, 220, 210))
    ImageDraw.Draw(photo).line([(190, 60), (180, 240)], fill=(30, 30, 60), width=22)
    photo.save(tmp_path / "photo.jpg")
    (tmp_path / "notes.txt").write_text("not a photo")
    (tmp_path / "notes.png").write_text("not a photo")
    Image.new("1", (40_000, 40_000)).save(tmp_path / "bomb.png")
    tab.goto(mnist.address)
    tab.get_by_role("tab", name="Photo").click()
    drop(tab, tmp_path / "notes.txt", "text/plain")
    tab.get_by_text("Only image/* allowed").wait_for()
    for name, said in (("notes.png", "not an image in a format we read"), ("bomb.png", "bomb")):
        drop(tab, tmp_path / name, "image/png")
        tab.locator(".answer", has_text=said).first.wait_for()
        assert answer(tab).startswith(f"{name}: ") and "/" not in answer(tab).split(":")[0]
        tab.get_by_label("Remove Image").click()
        tab.get_by_text("Draw something").wait_for()
    drop(tab, tmp_path / "photo.jpg", "image/jpeg")
    assert settled_answer(tab) == "1"


def test_color_networks_offer_test_images_and_what_a_class_is_called_is_never_run(photos, tab):
    tab.add_init_script("window.ran = 0; window.run = () => { window.ran += 1; };")
    tab.goto(photos.address)
    tab.locator(".choice img").first.wait_for()
    assert tab.locator("canvas").count() == 0 and tab.locator(".choice img").count() == 6
    seen = []
    for number in range(6):
        tab.locator(".choice button").nth(number).click()
        tab.locator(
            ".answer", has=tab.locator(f'img[src="{source(tab, number)}"]')
        ).first.wait_for()
        seen.append(tab.locator(".answer .top span").inner_text())
    assert seen == [f"labeled {name}" for name in sorted(["cat", HOSTILE]) for _ in range(3)]
    assert tab.evaluate("window.ran") == 0


def source(tab, number: int) -> str:
    return tab.locator(".choice img").nth(number).get_attribute("src")


# Without a browser ----------------------------------------------------------------------------------------------------


def test_no_file_is_served_but_what_was_sent(photos, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    status, body = photos.upload(b"not an image")
    assert status == 200
    (sent,) = json.loads(body)
    assert photos.request(f"gradio_api/file={sent}") == (200, b"not an image")
    paths = [
        "/etc/passwd",
        f"{ROOT}/classify.py",
        "classify.py",
        str(photos.args[3]),
        str(tmp_path / "secret.png"),
    ]
    paths += [
        f"{Path(sent).parents[2]}/../etc/passwd",
        "https://example.com/",
        "//etc/passwd",
        f"{sent}%00",
    ]
    for path in paths:
        assert photos.request(f"gradio_api/file={path}")[0] in (403, 404), path
    assert photos.request("gradio_api/proxy=https://huggingface.co/")[0] in (403, 404)


def test_no_file_is_read_but_what_was_sent(photos, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "image.png")
    (sent,) = json.loads(photos.upload((tmp_path / "image.png").read_bytes())[1])
    done = photos.ask(sent)
    assert done["success"] and "bars" in done["output"]["data"][0]
    for path in (
        tmp_path / "image.png",
        "https://example.com/image.png",
        f"{Path(sent).parent}/../../../../etc/passwd",
    ):
        assert not photos.ask(str(path))["success"]


@pytest.mark.parametrize(
    "path, size", [("upload", 100 * 2**20), ("upload", 22 * 2**20), ("queue/join", 2 * 2**20)]
)
def test_what_is_too_large_is_refused_before_it_is_read(photos, path, size):
    connection = http.client.HTTPConnection("127.0.0.1", photos.port, timeout=60)
    connection.request("POST", f"/gradio_api/{path}", headers={"Content-Length": str(size)})
    assert connection.getresponse().status == 403
    assert photos.request("")[0] == 200


def test_an_upload_just_above_the_limit_is_refused(photos):
    assert photos.upload(bytes(20 * 2**20 + 1))[0] == 413
    assert photos.upload(bytes(20 * 2**20))[0] == 200


def test_a_browser_is_told_to_load_nothing_from_elsewhere(photos):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        photos.address
    ) as response:
        policy, html = response.headers["Content-Security-Policy"], response.read().decode()
    assert policy.startswith("default-src 'self'") and "http" not in policy
    assert "fonts.googleapis" not in html


def test_it_ends_by_sigterm_and_leaves_nothing_behind(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Page(photos.args[3]) as page:
        assert page.upload(b"anything")[0] == 200
        assert [
            path
            for path in tmp_path.rglob("*")
            if path.is_file() and path.read_bytes() == b"anything"
        ]
    assert page.code == 143 and page.errors == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# Mistakes -------------------------------------------------------------------------------------------------------------


def serve(*args) -> Ended:
    """Without Gradio, which takes seconds to import: other mistakes are said before."""
    return classify("--serve", *args, prepare=(without, "gradio"))


def test_a_port_that_is_in_use(photos):
    ended = serve("--ckpt", photos.args[3], "--port", photos.port)
    assert f"--port {photos.port} is in use" in ended.error


@pytest.mark.parametrize(
    "args, said",
    [
        (["--port", 0], "--port 0: use 1 to 65535"),
        (["--port", 99999], "use 1 to 65535"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        (["--index", 0], "or --serve"),
    ],
)
def test_other_mistakes(photos, args, said):
    assert said in serve("--ckpt", photos.args[3], *args).error


def test_no_checkpoint_yet(tmp_path):
    assert "no run has a checkpoint" in serve("--runs", tmp_path).error


def test_without_gradio_one_line_says_how_to_install_it(photos):
    ended = serve("--ckpt", photos.args[3], "--port", free_port())
    assert "pip install -r requirements-app.txt" in ended.error
