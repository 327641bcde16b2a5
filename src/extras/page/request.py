"""Parse the head of an HTTP request, and decide whether to serve it.

Requests can come from another website open in the user's browser. Any site can send cross-site
requests, but it cannot read the responses. A site that points its own DNS name at this computer
("DNS rebinding") can also read the responses.
"""

import re
import socket
from collections.abc import Container

MAX_UPLOAD = 20 * 2**20  # bytes; enough for a 50-megapixel photo
SAME = "same-origin"
UPLOAD = "/classify"
UPLOAD_TYPE = "application/octet-stream"  # cross-site requests need CORS, which is never granted
REQUEST = re.compile(r"([A-Z]+) (\S+) HTTP/1\.[01]")
HEADER = re.compile(r"([A-Za-z0-9-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")


class Refusal(Exception):
    """A rejected request. The arguments are the HTTP status and the reason."""


class Request:
    """The head of an HTTP request: the request line and the headers.

    Raises:
        Refusal: a line is malformed, or a header is repeated.
    """

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        request = REQUEST.fullmatch(first)
        fields = [HEADER.fullmatch(line) for line in lines]
        self.headers = {field[1].lower(): field[2] for field in fields if field}
        if not request or len(self.headers) != len(fields):
            raise Refusal(400, "malformed request")
        self.method, self.path = request.groups()

    def check(self, hosts: re.Pattern[str], files: Container[str]) -> None:
        """Raise `Refusal` unless the request is for one of the files or uploads an image."""
        host = self.headers.get("host", "")
        is_upload = self.path == UPLOAD
        if not hosts.fullmatch(host):
            raise Refusal(403, "the page is not available under this host name")
        if not is_upload and self.path not in files:
            raise Refusal(404, "not found")
        if self.method != ("POST" if is_upload else "GET"):
            raise Refusal(405, "method not allowed")
        if is_upload:
            self._check_upload(f"http://{host}")

    def _check_upload(self, origin: str) -> None:
        given = self.headers.get
        if given("origin", origin) != origin or given("sec-fetch-site", SAME) != SAME:
            raise Refusal(403, "cross-site requests are not allowed")
        if given("content-type") != UPLOAD_TYPE:
            raise Refusal(415, f"the content type must be {UPLOAD_TYPE}")
        length = given("content-length", "")
        if given("transfer-encoding") or not re.fullmatch("[0-9]{1,12}", length):
            raise Refusal(411, "Content-Length is required; Transfer-Encoding is not supported")
        if int(length) > MAX_UPLOAD:
            raise Refusal(413, f"larger than {MAX_UPLOAD >> 20} MiB")


def host_pattern(host: str, port: int, is_private: bool) -> re.Pattern[str]:
    """Return a pattern that matches the accepted `Host` headers.

    Only DNS names of this computer are accepted. If other computers can reach it, any IP address is
    accepted: DNS rebinding needs a DNS name, and a computer can have many addresses.
    """
    names = ["localhost", r"127\.0\.0\.1", r"\[::1\]", re.escape(host)]
    if not is_private:
        names += [re.escape(socket.gethostname()) + r"(\.local)?", r"[0-9.]+", r"\[[0-9a-f:.]+\]"]
    ending = "(:80)?" if port == 80 else f":{port}"  # browsers omit the default port
    return re.compile(f"({'|'.join(names)}){ending}", re.IGNORECASE)
