"""Test raw HTTP requests to the server, including attacks from web sites and other computers."""

import io
import json
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from src.errors import InputError
from src.extras.page import server
from src.extras.page.page import Page
from src.extras.page.request import MAX_UPLOAD, UPLOAD_TYPE, host_pattern

HOST = "Host: 127.0.0.1:PORT"
UPLOAD = f"POST /classify HTTP/1.1\n{HOST}"


def png(size: tuple[int, int] = (20, 20), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


# Routes and names -------------------------------------------------------------------------------


ROUTES = """
200 GET /
200 GET /page.css
200 GET /page.js
200 GET /page.json
405 GET /classify
405 POST /
405 HEAD /
405 OPTIONS /classify
404 GET /page.html
404 GET /page.py
404 GET /favicon.ico
404 GET /?path=/etc/passwd
404 GET /../page.py
404 GET /%2e%2e/%2e%2e/etc/passwd
404 GET //etc/passwd
404 GET /page.css/../../server.py
404 GET /page.css%00.png
404 GET http://127.0.0.1/
404 CONNECT example.com:443
400 get /
400 GET / /etc/passwd
400 GET
"""


@pytest.mark.parametrize("route", ROUTES.strip().splitlines())
def test_only_the_routes_of_the_page_are_answered(running, route):
    status, line = route.split(" ", 1)
    assert running.send(f"{line} HTTP/1.1\n{HOST}")[0] == int(status)


HOSTS = """
200 localhost:PORT
200 LOCALHOST:PORT
200 [::1]:PORT
403 evil.example:PORT
403 localhost.evil.example:PORT
403 evil@localhost:PORT
403 192.168.0.1:PORT
403 127.0.0.1
403 127.0.0.1:80
403 127.0.0.1:PORT, evil.example
"""


@pytest.mark.parametrize("host", HOSTS.strip().splitlines())
def test_other_names_are_refused_because_dns_can_point_them_here(running, host):
    status, name = host.split(" ", 1)
    assert running.send(f"GET / HTTP/1.1\nHost: {name}")[0] == int(status)


def test_one_host_is_required(running):
    assert running.send("GET / HTTP/1.1")[0] == 403
    assert running.send("GET / HTTP/1.1\nHost:")[0] == 403
    assert running.send(f"GET / HTTP/1.1\n{HOST}\n{HOST}")[0] == 400


def test_other_computers_may_use_any_ip_address_but_no_foreign_name():
    hosts = host_pattern("Lab.example", 80, is_private=False)
    own = ["192.168.0.1", "10.0.0.1", "[fe80::1]", "localhost", "lab.example"]
    assert all(map(hosts.fullmatch, own))
    foreign = ["evil.example", "192.168.0.1.evil.example", "192.168.0.1:81", "a.lab.example", ""]
    assert not any(map(hosts.fullmatch, foreign))


@pytest.mark.parametrize(
    "headers",
    ["X a", " X: a", "X : a", ": a", "X: a\n\tb", "X: a\0b", "X: a\vb", "X: 1\nx: 2", "X: a\rb"],
)
def test_malformed_headers_are_refused(running, headers):
    assert running.send(f"GET / HTTP/1.1\n{HOST}\n{headers}")[0] == 400


# Uploads ----------------------------------------------------------------------------------------


ORIGINS = """
200 Origin: http://127.0.0.1:PORT
200 Sec-Fetch-Site: same-origin
403 Origin: http://evil.example
403 Origin: https://127.0.0.1:PORT
403 Origin: http://localhost:PORT
403 Origin: http://127.0.0.1:8888
403 Origin: null
403 Sec-Fetch-Site: cross-site
403 Sec-Fetch-Site: same-site
411 Transfer-Encoding: chunked
"""


@pytest.mark.parametrize("line", ORIGINS.strip().splitlines())
def test_uploads_from_other_sites_are_refused(running, line):
    status, header = line.split(" ", 1)
    assert running.upload(png(), f"\n{header}")[0] == int(status)


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "image/png", ""])
def test_uploads_of_types_that_forms_can_send_are_refused(running, kind):
    headers = f"Content-Length: 11\nContent-Type: {kind}"
    assert running.send(f"{UPLOAD}\n{headers}", b"/etc/passwd")[0] == 415


@pytest.mark.parametrize("length", ["", "-1", "1e3", "+5", "5 5", "²", "9" * 5000])
def test_uploads_without_a_length_are_refused(running, length):
    headers = f"Content-Type: {UPLOAD_TYPE}\nContent-Length: {length}"
    assert running.send(f"{UPLOAD}\n{headers}", b"12345")[0] == 411


def test_too_large_an_upload_is_refused_unread(running):
    headers = f"Content-Type: {UPLOAD_TYPE}\nContent-Length: {MAX_UPLOAD + 1}"
    assert running.send(f"{UPLOAD}\n{headers}")[0] == 413


@pytest.mark.parametrize(
    "request_line", ["GET /", "GET /no", "POST /classify", "OPTIONS /classify"]
)
def test_every_answer_forbids_other_sites_to_use_it(running, request_line):
    head = running.send(f"{request_line} HTTP/1.1\n{HOST}\nOrigin: http://evil.example")[1].lower()
    policy = next(line for line in head.splitlines() if line.startswith("content-security-policy"))
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy.replace("https", "http")
    assert "nosniff" in head and "no-store" in head and "resource-policy: same-origin" in head
    assert "access-control" not in head and "evil" not in head and "python" not in head


# Images -----------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "body, reason",
    [
        (b"", "not an image"),
        (b"/etc/passwd", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (png()[:45], "cannot be read"),
        (png((9_000, 9_000), "1"), "has 9000x9000 pixels"),
    ],
)
def test_what_is_no_image_gets_a_reason_that_names_no_path(
    temporary, predictor, start, capfd, body, reason
):
    running = start(Page(predictor, [], predictor.prepare, draws=False))
    status, _, text = running.upload(body)
    assert status == 422 and reason in text.decode()
    assert str(temporary) not in text.decode() and "\n" not in text.decode()
    assert not [path for path in temporary.rglob("*") if path.is_file()]
    assert capfd.readouterr() == ("", "")


def test_an_answer_is_the_one_of_the_predictor(running, predictor, tmp_path):
    (tmp_path / "image.png").write_bytes(png((30, 20)))
    status, _, body = running.upload(png((30, 20)))
    answer = json.loads(body)
    assert status == 200
    image = predictor.prepare(str(tmp_path / "image.png")).image
    assert answer["best"] == predictor.top(image[None], 10)[0]
    assert [picture["caption"][:4] for picture in answer["pictures"]] == ["What", "Wher"]


def test_a_network_without_attention_has_one_picture(running, predictor, monkeypatch):
    def attention(images):
        raise InputError("this network has no attention")

    monkeypatch.setattr(predictor, "attention", attention)
    assert len(json.loads(running.upload(png())[2])["pictures"]) == 1


# Overload ---------------------------------------------------------------------------------------


def test_slow_clients_and_endless_headers_are_cut_off_while_others_are_served(running, monkeypatch):
    monkeypatch.setattr(server, "TIMEOUT", 2)
    slow = [running.connect() for _ in range(server.MAX_CONNECTIONS - 1)]
    for connection in slow:
        connection.sendall(b"GET / HT")
    start = time.monotonic()
    assert running.get()[0] == 200
    assert time.monotonic() - start < 1.5
    assert [running.receive(connection)[0] for connection in slow] == [0] * len(slow)
    assert time.monotonic() - start < 10
    monkeypatch.setattr(server, "TIMEOUT", 60)
    with running.connect() as endless, pytest.raises(OSError):
        for _ in range(200):
            endless.sendall(b"X" * 2**16)
            time.sleep(0.01)
    assert running.get()[0] == 200


def test_many_large_uploads_are_not_all_held_in_memory(running):
    is_open = threading.Event()
    count = 16
    running.page.prepare = lambda path: is_open.wait() and running.page.predictor.prepare(path)
    content = bytes(MAX_UPLOAD)
    tracemalloc.start()
    with ThreadPoolExecutor(count) as clients:
        answers = [clients.submit(running.upload, content) for _ in range(count)]
        time.sleep(3)  # lets the server read every upload that it accepts
        held = tracemalloc.get_traced_memory()[1]
        is_open.set()
        assert {answer.result()[0] for answer in answers} == {422}
    tracemalloc.stop()
    assert MAX_UPLOAD < held < 10 * MAX_UPLOAD  # 4 uploads plus network buffers


def test_an_unexpected_error_is_one_line_and_the_server_goes_on(running, capfd):
    running.page.prepare = lambda path: 1 / 0
    assert running.upload(png())[0] == 0
    assert capfd.readouterr().err == "error: page: ZeroDivisionError('division by zero')\n"
    assert running.get()[0] == 200
