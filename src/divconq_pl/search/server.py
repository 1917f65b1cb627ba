"""A small local web page of an index: give it an image, see its neighbours, go on from one of them."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image, ImageOps

from divconq_pl.data.decoding import UnreadableImageError, image_extensions, read_rgb
from divconq_pl.errors import InputError
from divconq_pl.search.building import Embed
from divconq_pl.search.index import ImageIndex, Match
from divconq_pl.search.page import name_below, render

ADDRESS = "127.0.0.1"
MAX_UPLOAD = 32 * 2**20
"""Bytes of an image that is sent."""

MAX_NEIGHBOURS = 500
_MAX_MEGAPIXELS = 60.0
_SIDE = 320  # pixels of a picture on the page
_SHOWN_FIRST = 24
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class SearchServer(ThreadingHTTPServer):
    """Serve the page of an index to this machine alone, with nothing but pictures of images in the index.

    Args:
        index: what is searched.
        embed: embeds the images that are given to the page, with the model of the index.
        port: where; 0 is any that is free.

    Raises:
        InputError: if the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, index: ImageIndex, embed: Embed, port: int = 0) -> None:
        if not 0 <= port < 2**16:
            raise InputError(f"port={port} is none; use a number from 1024 to 65535, or 0 for any that is free")
        self.index, self.embed = index, embed
        self.embedding = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise InputError(f"port={port} cannot be had ({error.strerror}); use another, or 0 for any free") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless the browser has only gone away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return f"http://{ADDRESS}:{self.server_port}/"


class _Refusal(Exception):
    """An answer that says in words why there is no other."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "divconq-search", ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer({"/": self._send_page, "/search": self._send_neighbours, "/some": self._send_some})

    def do_POST(self) -> None:
        self._answer({"/search": self._send_neighbours_of_upload})

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the page says what goes wrong."""

    def _answer(self, pages: dict[str, Callable[[], None]]) -> None:
        try:
            self._check_host()
            path = urlsplit(self.path).path
            if self.command == "GET" and path.startswith("/image/"):
                self._send_image(path.removeprefix("/image/"))
            elif path in pages:
                pages[path]()
            else:
                raise _Refusal(HTTPStatus.NOT_FOUND, "there is no such page")
        except _Refusal as refusal:
            self._refuse(refusal.status, str(refusal))
        except InputError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except (ConnectionError, TimeoutError):  # the browser has gone on to something else
            self.close_connection = True

    def _check_host(self) -> None:
        """Refuse a page of another site that has its name lead to this machine."""
        allowed = {f"{name}:{self.server.server_port}" for name in (ADDRESS, "localhost")}
        if self.headers.get("Host") not in allowed:
            raise _Refusal(HTTPStatus.FORBIDDEN, f"this page is at {self.server.url} only")

    def _send_page(self) -> None:
        index = self.server.index
        page = render(
            "view.html",
            root=index.root,
            count=len(index),
            max_upload=MAX_UPLOAD,
            max_neighbours=MAX_NEIGHBOURS,
            endings=",".join(image_extensions()),
        )
        self._send(page.encode(), "text/html; charset=utf-8")

    def _send_some(self) -> None:
        numbers = self.server.index.draw_some(_SHOWN_FIRST)
        self._send_json({"matches": [self._describe(number) for number in numbers]})

    def _send_neighbours(self) -> None:
        number = self._read_number("image", None)
        found = self.server.index.query_own(number, self._read_k(), rerank=self._reranks())
        self._send_json({"query": self._describe(number), "matches": [self._describe_match(match) for match in found]})

    def _send_neighbours_of_upload(self) -> None:
        content = self._read_upload()
        try:
            image = read_rgb(io.BytesIO(content), "image", max_megapixels=_MAX_MEGAPIXELS)
        except UnreadableImageError as error:
            cause = "" if isinstance(error.__cause__, OSError) else f" ({error.__cause__})"
            words = f"this is no image that can be read{cause}; give a picture, such as .jpg, .png, .webp or .tif"
            raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, words) from error
        with self.server.embedding:
            embedding = self.server.embed([image])
        found = self.server.index.query(embedding, self._read_k(), rerank=self._reranks())[0]
        self._send_json({"matches": [self._describe_match(match) for match in found]})

    def _read_upload(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "the length of the image has to be said")
        if int(length) > MAX_UPLOAD:
            words = f"an image may have {MAX_UPLOAD >> 20} MiB, and this one has {int(length) / 2**20:.0f}"
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
        return self.rfile.read(int(length))

    def _send_image(self, number: str) -> None:
        try:
            path = self.server.index.find_path(_parse(number, "image"))
            image = ImageOps.contain(read_rgb(path), (_SIDE, _SIDE), Image.Resampling.BICUBIC)
        except InputError as error:
            raise _Refusal(HTTPStatus.NOT_FOUND, str(error)) from error
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        self._send(buffer.getvalue(), "image/jpeg")

    def _describe(self, number: int) -> dict[str, object]:
        index = self.server.index
        return {"number": number, "name": name_below(index.find_path(number), index.root)}

    def _describe_match(self, match: Match) -> dict[str, object]:
        name = name_below(match.path, self.server.index.root)
        return {"number": match.number, "name": name, "distance": round(match.distance, 4)}

    def _read_k(self) -> int:
        return min(MAX_NEIGHBOURS, self._read_number("k", "12"))

    def _reranks(self) -> bool:
        return self._parameters().get("rerank") == ["true"]

    def _read_number(self, name: str, default: str | None) -> int:
        return _parse(self._parameters().get(name, [default or ""])[0], name)

    def _parameters(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def _refuse(self, status: HTTPStatus, words: str) -> None:
        self.close_connection = True  # what was sent may not have been read
        self._send_json({"error": words}, status)

    def _send_json(self, content: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _parse(text: str, name: str) -> int:
    """Read a number as it stands in an address; one of more digits than an index can count to is none."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InputError(f"{name}={text!r} must be a whole number")
    return int(text)
