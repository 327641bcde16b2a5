"""Parse the head of an HTTP request, and decide whether it is answered.

A request may come from another web site in the user's browser. The site may have changed its own
DNS name to this computer's address ("DNS rebinding"); the browser then lets it read the answers.
And without that, it can send requests whose answers it cannot read.
"""

import re
import socket
from collections.abc import Container

MAX_UPLOAD = 20 * 2**20  # bytes of an image file; a photo of 50 megapixels is smaller
SAME = "same-origin"
UPLOAD = "/classify"
UPLOAD_TYPE = "application/octet-stream"  # needs CORS, which is never granted to another site
REQUEST = re.compile(r"([A-Z]+) (\S+) HTTP/1\.[01]")
HEADER = re.compile(r"([A-Za-z0-9-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")


class Refusal(Exception):
    """The HTTP status and the reason with which a request is refused."""


class Request:
    """The head of a request, up to the empty line.

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
        """Raise a `Refusal` unless the request is for one of the files, or the page's upload."""
        host = self.headers.get("host", "")
        is_upload = self.path == UPLOAD
        if not hosts.fullmatch(host):
            raise Refusal(403, "the page is not served under this name")
        if not is_upload and self.path not in files:
            raise Refusal(404, "not found")
        if self.method != ("POST" if is_upload else "GET"):
            raise Refusal(405, "method not allowed")
        if is_upload:
            self._check_upload(f"http://{host}")

    def _check_upload(self, origin: str) -> None:
        given = self.headers.get
        if given("origin", origin) != origin or given("sec-fetch-site", SAME) != SAME:
            raise Refusal(403, "requests from other sites are refused")
        if given("content-type") != UPLOAD_TYPE:
            raise Refusal(415, f"the content type must be {UPLOAD_TYPE}")
        length = given("content-length", "")
        if given("transfer-encoding") or not re.fullmatch("[0-9]{1,12}", length):
            raise Refusal(411, "Content-Length is required; Transfer-Encoding is not supported")
        if int(length) > MAX_UPLOAD:
            raise Refusal(413, f"larger than {MAX_UPLOAD >> 20} MiB")


def host_pattern(host: str, port: int, is_private: bool) -> re.Pattern[str]:
    """Return a pattern of the `Host` headers under which the page is served.

    DNS names are those of this computer. If other computers can reach it, any IP address will do:
    DNS cannot point an IP address elsewhere, and a computer may have many.
    """
    names = ["localhost", r"127\.0\.0\.1", r"\[::1\]", re.escape(host)]
    if not is_private:
        names += [re.escape(socket.gethostname()) + r"(\.local)?", r"[0-9.]+", r"\[[0-9a-f:.]+\]"]
    ending = "(:80)?" if port == 80 else f":{port}"  # browsers leave out the default port
    return re.compile(f"({'|'.join(names)}){ending}", re.IGNORECASE)
