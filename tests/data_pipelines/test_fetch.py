"""Fetching from a server that misbehaves in every way that is provided for, and being killed while at it."""

import asyncio
import dataclasses
import fcntl
import gzip
import hashlib
import json
import math
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.faces import decode_image
from data_pipelines.fetch import (
    LEDGER,
    Entry,
    FetchConfig,
    Outcome,
    _retry_after_s,
    fetch_photographs,
    is_picture,
    is_public,
)
from data_pipelines.releases.fec import photograph_path

QUICK = FetchConfig(pause_s=0, backoff_s=0.01, attempts=3, timeout_s=5, max_bytes=100_000)
PICTURE = b"\xff\xd8\xff\xe0 as far as sniffing goes, this is a photograph"
RESET = "reset"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104  # refused, not bound to


def reply(body: bytes = PICTURE, status: int = 200, **headers: object) -> bytes:
    """A whole answer; an underscore in a header's name stands for a dash, None leaves the header out."""
    fields = {"Content_Length": len(body), "Connection": "close"} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""]).encode() + body


def redirect(location: object, status: int = 302) -> bytes:
    return reply(b"", status, Location=location)


@dataclasses.dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    time_s: float


class Server:
    """Answers in a thread of its own, each path as it is told.

    Attributes:
        answers: By path, what is answered the first time, the second time and so on, the last for ever. An answer
            is made of bytes to send, seconds to wait and RESET.
        requests: What was asked.
        most_open: How many requests were being answered at a time, at most, by Host header and under "".
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, list[list[bytes | float | str]]] = {}
        self.requests: list[Request] = []
        self.most_open: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def times_asked(self, path: str) -> int:
        return sum(request.path == path for request in self.requests)

    def is_allowed(self, address: str, port: int) -> bool:
        return (address, port) == ("127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            path = head[0].split()[1]
            times = self.times_asked(path)
            self.requests.append(Request(path, headers, time.monotonic()))
            names = (headers["Host"], "")
            self._open.update(names)
            self.most_open |= self._open
            try:
                script = self.answers.get(path, [[reply(b"", 404)]])
                await self._answer(script[min(times, len(script) - 1)], writer)
            finally:
                self._open.subtract(names)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, steps: list[bytes | float | str], writer: asyncio.StreamWriter) -> None:
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                writer.transport.abort()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def write_lists(root: Path, urls: list[str]) -> None:
    """Lists of triplets that name just these URLs, in this order; the first is in both lists."""
    padded = urls + urls[:1] * (-len(urls) % 3)
    rows = [
        "".join(f'"{url}",0.1,0.4,0.2,0.8,' for url in padded[i : i + 3]) + "ONE_CLASS_TRIPLET,a,1\n"
        for i in range(0, len(padded), 3)
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "faceexp-comparison-data-train-public.csv").write_text("".join(rows))
    (root / "faceexp-comparison-data-test-public.csv").write_text(rows[0])


def read_ledger(root: Path) -> list[Entry]:
    return [Entry(**json.loads(line)) for line in (root / LEDGER).read_text().splitlines()]


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def fetch(root: Path, server: Server, *urls: str, **changes: object) -> list[Entry]:
    """Fetches and returns the ledger; checks that files and ledger agree and that nothing else is there."""
    write_lists(root, list(urls))
    config = dataclasses.replace(QUICK, **changes)  # type: ignore[arg-type]
    counts = fetch_photographs(root, config, server.is_allowed)
    entries = read_ledger(root)
    assert [entry.url for entry in entries] == list(dict.fromkeys(urls))
    assert counts == Counter(entry.outcome for entry in entries)
    files = {name: data for name, data in content(root).items() if name.startswith("images/")}
    in_hand = [entry for entry in entries if entry.file is not None]
    assert files.keys() == {entry.file for entry in in_hand}
    for entry in in_hand:
        data = files[str(entry.file)]
        assert root / str(entry.file) == photograph_path(root, entry.url)
        assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert entry.outcome in (Outcome.FETCHED, Outcome.PRESENT)
    return entries


# What a server can do


HEAD = reply(b"", Content_Length=1000)
PASSING: dict[str, tuple[list[bytes | float | str], Outcome]] = {
    "too-many": ([reply(b"", 429)], Outcome.TOO_MANY_REQUESTS),
    "broken": ([reply(b"", 500)], Outcome.SERVER_ERROR),
    "overloaded": ([reply(b"", 503)], Outcome.SERVER_ERROR),
    "slow-request": ([reply(b"", 408)], Outcome.TIMED_OUT),
    "silent": ([30.0], Outcome.TIMED_OUT),
    "stalls": ([HEAD, PICTURE, 30.0], Outcome.TIMED_OUT),
    "slow-loris": ([HEAD, PICTURE, *[0.05, b"x"] * 200], Outcome.TIMED_OUT),
    "slow-loris-header": ([b"HTTP/1.1 200 OK\r\nX: ", *[0.05, b"x"] * 200], Outcome.TIMED_OUT),
    "hangs-up": ([], Outcome.CONNECTION_FAILED),
    "reset": ([RESET], Outcome.CONNECTION_FAILED),
    "reset-in-body": ([HEAD, PICTURE, 0.05, RESET], Outcome.CUT_OFF),
    "cut-off": ([HEAD, PICTURE], Outcome.CUT_OFF),
    "cut-off-early": ([HEAD, PICTURE[:5]], Outcome.CUT_OFF),
    "cut-off-chunk": (
        [reply(b"", Content_Length=None, Transfer_Encoding="chunked"), b"ff\r\n" + PICTURE],
        Outcome.CUT_OFF,
    ),
    "header-bomb": ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"], Outcome.MALFORMED),
    "many-headers": ([b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000 + b"\r\n"], Outcome.MALFORMED),
    "no-http": ([b"SSH-2.0-OpenSSH_9.2\r\n"], Outcome.MALFORMED),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_may_pass_is_tried_again(tmp_path: Path, server: Server, case: str) -> None:
    steps, outcome = PASSING[case]
    server.answers = {"/never": [steps], "/later": [steps, steps, [reply()]]}
    never, later = fetch(tmp_path, server, server.url("/never"), server.url("/later"), timeout_s=0.4)
    assert never.outcome == outcome
    assert later == Entry(
        server.url("/later"),
        Outcome.FETCHED,
        200,
        bytes=len(PICTURE),
        sha256=hashlib.sha256(PICTURE).hexdigest(),
        file=later.file,
    )
    assert server.times_asked("/never") == server.times_asked("/later") == 3
    server.answers["/never"] = [[reply()]]
    never, later = fetch(tmp_path, server, server.url("/never"), server.url("/later"))
    assert (never.outcome, server.times_asked("/never"), server.times_asked("/later")) == (Outcome.FETCHED, 4, 3)


HTML = b"<!DOCTYPE html><title>Not here</title>"
ENDLESS = [reply(b"", Content_Length=None), PICTURE, *[b"x" * 10_000] * 1000]
LASTING: dict[str, tuple[list[bytes | float | str], Outcome, int]] = {
    "not-found": ([reply(HTML, 404)], Outcome.NOT_FOUND, 404),
    "gone": ([reply(HTML, 410)], Outcome.GONE, 410),
    "forbidden": ([reply(HTML, 403)], Outcome.ACCESS_DENIED, 403),
    "unauthorized": ([reply(HTML, 401)], Outcome.ACCESS_DENIED, 401),
    "legal-reasons": ([reply(HTML, 451)], Outcome.OTHER_STATUS, 451),
    "partial": ([reply(PICTURE, 206)], Outcome.OTHER_STATUS, 206),
    "redirect-nowhere": ([reply(b"", 302)], Outcome.OTHER_STATUS, 302),
    "html": ([reply(HTML, Content_Type="image/jpeg")], Outcome.NOT_A_PICTURE, 200),
    "empty": ([reply(b"")], Outcome.NOT_A_PICTURE, 200),
    "tiny": ([reply(b"\xff\xd8\xff")], Outcome.NOT_A_PICTURE, 200),
    "says-too-large": ([reply(PICTURE, Content_Length=10**15)], Outcome.TOO_LARGE, 200),
    "is-too-large": (ENDLESS, Outcome.TOO_LARGE, 200),
    "gzip": ([reply(gzip.compress(PICTURE), Content_Encoding="gzip")], Outcome.COMPRESSED, 200),
    "bomb": ([reply(gzip.compress(bytes(10**7)), Content_Encoding="gzip, gzip")], Outcome.COMPRESSED, 200),
}


@pytest.mark.parametrize("case", LASTING)
def test_what_lasts_is_asked_once(tmp_path: Path, server: Server, case: str) -> None:
    steps, outcome, status = LASTING[case]
    server.answers = {"/": [steps, [reply()]]}
    url = server.url("/")
    assert fetch(tmp_path, server, url) == [Entry(url, outcome, status)]
    assert fetch(tmp_path, server, url) == [Entry(url, outcome, status)]
    assert server.times_asked("/") == 1
    assert fetch(tmp_path, server, url, retry_failed=True)[0].outcome == Outcome.FETCHED
    assert server.times_asked("/") == 2


def test_as_large_as_allowed_is_not_too_large(tmp_path: Path, server: Server) -> None:
    chunks = [b"1f4\r\n" + PICTURE.ljust(500) + b"\r\n", b"1f4\r\n" + bytes(500) + b"\r\n0\r\n\r\n"]
    server.answers = {"/": [[reply(b"", Content_Length=None, Transfer_Encoding="chunked"), *chunks]]}
    assert fetch(tmp_path, server, server.url("/"), max_bytes=1000)[0].outcome == Outcome.FETCHED
    assert fetch(tmp_path / "less", server, server.url("/"), max_bytes=999)[0].outcome == Outcome.TOO_LARGE


@pytest.mark.parametrize("kind", [".jpg", ".png", ".gif", ".webp", ".bmp", ".tiff"])
def test_pictures_are_told_by_how_they_begin(kind: str) -> None:
    data = cv2.imencode(kind, np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    assert decode_image(data) is not None
    assert is_picture(data[:12])
    assert not is_picture(data[1:13])


@pytest.mark.parametrize("head", [b"", b"BM means Bristol", b"RIFF....WAVE", b"%PDF-1.7    ", HTML[:12], b"\0" * 12])
def test_what_is_no_picture(head: bytes) -> None:
    assert not is_picture(head[:12])


def test_broken_answers_are_outcomes_too(tmp_path: Path, server: Server) -> None:
    chance = random.Random(3)  # noqa: S311
    urls = []
    for number in range(150):
        answer = bytearray(reply(chance.choice([PICTURE, b""]), chance.choice([200, 302, 503]), Location="/a?b#c"))
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(answer))
            answer[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
        server.answers[f"/{number}"] = [[bytes(answer)]]
        urls.append(server.url(f"/{number}"))
    assert len({entry.outcome for entry in fetch(tmp_path, server, *urls, timeout_s=1, attempts=1)}) > 3


# Redirects and addresses


def test_redirects_are_followed_and_told(tmp_path: Path, server: Server) -> None:
    server.answers = {
        "/1": [[redirect("/2?a=b", 301)]],
        "/2?a=b": [[redirect(server.url("/3/"), 307)]],
        "/3/": [[redirect("../4", 308)]],
        "/4": [[redirect("5", 303)]],
        "/5": [[redirect("6")]],
        "/6": [[reply()]],
        "/0": [[redirect("/1")]],
        "/round": [[redirect("/round")]],
        "/lost": [[redirect("/nowhere")]],
    }
    five, six, circle, lost = fetch(tmp_path, server, *map(server.url, ("/1", "/0", "/round", "/lost")))
    assert (five.outcome, five.status, five.final_url) == (Outcome.FETCHED, 200, server.url("/6"))
    assert (six.outcome, six.status, six.final_url) == (Outcome.REDIRECTED_TOO_OFTEN, 302, server.url("/6"))
    assert (circle.outcome, circle.final_url) == (Outcome.REDIRECTED_TOO_OFTEN, server.url("/round"))
    assert (lost.outcome, lost.status, lost.final_url) == (Outcome.NOT_FOUND, 404, server.url("/nowhere"))
    assert server.times_asked("/round") == 6


def test_flickrs_placeholder_is_not_asked_for(tmp_path: Path, server: Server) -> None:
    placeholder = server.url("/pw/images/en-us/photo_unavailable_l.png")
    server.answers = {"/": [[redirect(placeholder)]], "/pw/images/en-us/photo_unavailable_l.png": [[reply()]]}
    url = server.url("/")
    assert fetch(tmp_path, server, url) == [Entry(url, Outcome.PHOTO_UNAVAILABLE, 302, final_url=placeholder)]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("target", "outcome"),
    [
        ("file:///etc/passwd", Outcome.URL_REFUSED),
        ("ftp://127.0.0.1/", Outcome.URL_REFUSED),
        ("http://someone:secret@127.0.0.1:{port}/", Outcome.URL_REFUSED),
        ("http://someone@127.0.0.1:{port}/", Outcome.URL_REFUSED),
        ("http://127.0.0.1:99999/", Outcome.URL_REFUSED),
        ("http://[::1", Outcome.URL_REFUSED),
        ("http://" + "a" * 70 + ".test/", Outcome.URL_REFUSED),
        ("http://127.0.0.2:{port}/", Outcome.ADDRESS_REFUSED),
        ("http://127.0.0.1:22/", Outcome.ADDRESS_REFUSED),
        ("http://[::ffff:127.0.0.1]:{port}/", Outcome.ADDRESS_REFUSED),
        ("http://[::1]:{port}/", Outcome.ADDRESS_REFUSED),
        (f"http://{ANY_ADDRESS}:{{port}}/", Outcome.ADDRESS_REFUSED),
        ("http://2130706433:{port}/", Outcome.URL_REFUSED),
        ("//169.254.169.254/latest/meta-data", Outcome.ADDRESS_REFUSED),
    ],
)
def test_redirects_lead_nowhere_else(tmp_path: Path, server: Server, target: str, outcome: Outcome) -> None:
    server.answers = {"/": [[redirect(target.format(port=server.port))]]}
    (entry,) = fetch(tmp_path, server, server.url("/"))
    assert entry.outcome == outcome
    assert len(server.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]", ANY_ADDRESS])
def test_the_public_policy_lets_nobody_in(tmp_path: Path, server: Server, host: str) -> None:
    server.answers = {"/": [[reply()]]}
    write_lists(tmp_path, [server.url("/", host)])
    assert fetch_photographs(tmp_path, QUICK) == {Outcome.ADDRESS_REFUSED: 1}
    assert not server.requests


def test_credentials_in_a_list_are_refused(tmp_path: Path, server: Server) -> None:
    assert fetch(tmp_path, server, server.url("/", "someone:secret@127.0.0.1"))[0].outcome == Outcome.URL_REFUSED
    assert not server.requests


def names(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, list[str]]) -> None:
    """Lets host names have these addresses; others have none."""

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_name_is_as_good_as_its_addresses(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, {"inside.test": ["10.0.0.1", "127.0.0.9"], "both.test": ["127.0.0.9", "127.0.0.1"]})
    server.answers = {"/": [[reply()]]}
    urls = [server.url("/", host) for host in ("inside.test", "both.test", "nowhere.test")]
    connected = []

    def is_allowed(address: str, port: int) -> bool:
        connected.append((address, port))
        return server.is_allowed(address, port)

    write_lists(tmp_path, urls)
    fetch_photographs(tmp_path, QUICK, is_allowed)
    assert [entry.outcome for entry in read_ledger(tmp_path)] == ["address refused", "fetched", "host not found"]
    assert {address for address, _ in connected} == {"10.0.0.1", "127.0.0.9", "127.0.0.1"}
    assert [request.headers["Host"] for request in server.requests] == [f"both.test:{server.port}"]


def test_a_name_that_changes_its_address_is_refused(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were addresses looked up once to be checked and once more to connect, the second would slip through."""
    addresses = {"rebinds.test": ["127.0.0.1"]}
    names(monkeypatch, addresses)
    server.answers = {"/1": [[reply()]], "/2": [[reply()]]}

    def is_allowed(address: str, port: int) -> bool:
        addresses["rebinds.test"] = ["127.0.0.9"]
        return server.is_allowed(address, port)

    write_lists(tmp_path, [server.url("/1", "rebinds.test")])
    assert fetch_photographs(tmp_path, QUICK, is_allowed) == {Outcome.FETCHED: 1}
    write_lists(tmp_path, [server.url("/2", "rebinds.test")])
    assert fetch_photographs(tmp_path, QUICK, is_allowed) == {Outcome.ADDRESS_REFUSED: 1}


@pytest.mark.parametrize(
    ("address", "port", "public"),
    [
        ("93.184.215.14", 80, True),
        ("93.184.215.14", 443, True),
        ("93.184.215.14", 8080, False),
        ("93.184.215.14", 22, False),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", 443, True),
        ("::ffff:93.184.215.14", 443, True),
        ("64:ff9b::5db8:d70e", 443, True),
        ("127.0.0.1", 80, False),
        (ANY_ADDRESS, 80, False),
        ("10.1.2.3", 80, False),
        ("172.16.0.1", 80, False),
        ("192.168.1.1", 80, False),
        ("100.64.0.1", 80, False),
        ("169.254.169.254", 80, False),
        ("192.0.2.1", 80, False),
        ("224.0.0.1", 80, False),
        ("240.0.0.1", 80, False),
        ("255.255.255.255", 80, False),
        ("::", 80, False),
        ("::1", 80, False),
        ("::ffff:127.0.0.1", 80, False),
        ("::127.0.0.1", 80, False),
        ("64:ff9b::7f00:1", 80, False),
        ("64:ff9b:1::7f00:1", 80, False),
        ("2002:7f00:1::", 80, False),
        ("2001:db8::1", 80, False),
        ("fe80::1", 80, False),
        ("fe80::1%eth0", 80, False),
        ("fc00::1", 80, False),
        ("fec0::1", 80, False),
        ("ff02::1", 80, False),
        ("ff0e::1", 80, False),
    ],
)
def test_public_addresses(address: str, port: int, public: bool) -> None:
    assert is_public(address, port) is public


def test_nobody_listens(tmp_path: Path, server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        write_lists(tmp_path, [f"http://127.0.0.1:{unused.getsockname()[1]}/"])
        assert fetch_photographs(tmp_path, QUICK, lambda *_: True) == {Outcome.CONNECTION_FAILED: 1}


def test_connecting_has_a_time_of_its_own(tmp_path: Path) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):  # the queue of those who wait to be accepted is full after one or two
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        write_lists(tmp_path, [f"http://127.0.0.1:{full.getsockname()[1]}/"])
        config = dataclasses.replace(QUICK, connect_timeout_s=0.2, timeout_s=60, attempts=1)
        start = time.monotonic()
        assert fetch_photographs(tmp_path, config, lambda *_: True) == {Outcome.TIMED_OUT: 1}
        assert time.monotonic() - start < 5


# Politeness


def test_connections_are_limited_in_all_and_per_host(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [f"{letter}.test" for letter in "abcd"]
    names(monkeypatch, {host: ["127.0.0.1"] for host in hosts})
    paths = [f"/{number}" for number in range(12)]
    server.answers = {path: [[0.03, reply()]] for path in paths}
    fetch(tmp_path, server, *(server.url(path, host) for path in paths for host in hosts), concurrency=5, per_host=2)
    assert server.most_open[""] == 5
    assert {server.most_open[f"{host}:{server.port}"] for host in hosts} <= {1, 2}


def test_requests_to_a_host_keep_their_distance(tmp_path: Path, server: Server) -> None:
    paths = [f"/{number}" for number in range(8)]
    server.answers = {path: [[reply()]] for path in paths}
    fetch(tmp_path, server, *map(server.url, paths), pause_s=0.1)
    times = [request.time_s for request in server.requests]
    assert times[-1] - times[0] >= 0.7 - 0.05
    assert np.diff(times).min() > 0.05  # as they arrive


def test_waits_between_attempts_grow(tmp_path: Path, server: Server) -> None:
    server.answers = {"/": [[reply(b"", 503)]]}
    fetch(tmp_path, server, server.url("/"), attempts=4, backoff_s=0.1)
    gaps = np.diff([request.time_s for request in server.requests])
    assert (gaps > [0.045, 0.095, 0.195]).all()
    assert gaps.sum() < 0.7 + 1.0


def test_retry_after_is_waited_for_by_all_that_ask_this_host(tmp_path: Path, server: Server) -> None:
    server.answers = {"/1": [[reply(b"", 429, Retry_After=1)], [reply()]], "/2": [[reply()]]}
    entries = fetch(tmp_path, server, server.url("/1"), server.url("/2"), per_host=1)
    assert [entry.outcome for entry in entries] == [Outcome.FETCHED] * 2
    assert np.diff([request.time_s for request in server.requests])[0] >= 0.95
    assert len(server.requests) == 3


def test_retry_after_is_capped(tmp_path: Path, server: Server) -> None:
    server.answers = {"/": [[reply(b"", 503, Retry_After="9" * 400)], [reply()]]}
    assert fetch(tmp_path, server, server.url("/"), longest_wait_s=0.2)[0].outcome == Outcome.FETCHED
    assert 0.15 < np.diff([request.time_s for request in server.requests])[0] < 3


def test_retry_after_comes_in_two_forms() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    assert 95 < _retry_after_s(format_datetime(soon, usegmt=True)) <= 100
    assert 95 < _retry_after_s(format_datetime(soon.replace(tzinfo=None))) <= 100
    assert _retry_after_s(" 7 ") == 7
    assert [_retry_after_s(value) for value in ("", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT")] == [0] * 4


@given(st.text() | st.from_regex(r"(Wed, )?\d+ Oct \d+ \d+:\d+:\d+ ([+-]\d+|GMT)", fullmatch=True))
def test_any_retry_after_is_a_time(value: str) -> None:
    assert _retry_after_s(value) >= 0


def test_servers_are_told_who_asks(tmp_path: Path, server: Server) -> None:
    server.answers = {"/1": [[reply()]], "/2": [[reply()]]}
    fetch(tmp_path, server, server.url("/1"))
    fetch(tmp_path / "2", server, server.url("/2"), contact="someone@example.org")
    anonymous, signed = (request.headers["User-Agent"] for request in server.requests)
    assert anonymous.startswith("avemo/")
    assert signed == f"{anonymous} (someone@example.org)"
    assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}


@pytest.mark.parametrize(
    "values",
    [
        {"concurrency": 0},
        {"per_host": 0},
        {"attempts": 0},
        {"max_bytes": 0},
        {"pause_s": -1},
        {"pause_s": math.nan},
        {"backoff_s": -1},
        {"longest_wait_s": -1},
        {"connect_timeout_s": 0},
        {"timeout_s": 0},
        {"contact": "a\r\nHost: b"},
        {"contact": "ä"},
    ],
)
def test_settings_are_checked(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(values))} must"):
        FetchConfig(**values)  # type: ignore[arg-type]


# Being stopped, and going on


def test_photographs_that_are_there_are_adopted(tmp_path: Path, server: Server) -> None:
    urls = [server.url(f"/{number}") for number in range(3)]
    server.answers = {f"/{number}": [[reply()]] for number in range(3)}
    for url, data in zip(urls, (PICTURE + b" brought along", HTML), strict=False):
        path = photograph_path(tmp_path, url)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    brought, replaced, fetched = fetch(tmp_path, server, *urls)
    assert (brought.outcome, brought.status) == (Outcome.PRESENT, None)
    assert (replaced.outcome, fetched.outcome) == (Outcome.FETCHED, Outcome.FETCHED)
    assert server.times_asked("/0") == 0
    # One that failed for good and is brought later is adopted as well; so is another in the place of one fetched.
    server.answers["/3"] = [[reply(HTML, 404)]]
    urls.append(server.url("/3"))
    fetch(tmp_path, server, *urls)
    for url in urls[2:]:
        photograph_path(tmp_path, url).parent.mkdir(parents=True, exist_ok=True)
        photograph_path(tmp_path, url).write_bytes(PICTURE + b" of another size")
    outcomes = [entry.outcome for entry in fetch(tmp_path, server, *urls)]
    assert outcomes == [Outcome.PRESENT, Outcome.FETCHED, Outcome.PRESENT, Outcome.PRESENT]


def test_a_finished_run_asks_nobody(tmp_path: Path, server: Server) -> None:
    server.answers = {"/1": [[reply()]], "/2": [[reply(HTML, 404)]]}
    urls = server.url("/1"), server.url("/2")
    first = fetch(tmp_path, server, *urls)
    ledger = (tmp_path / LEDGER).read_bytes()
    assert fetch(tmp_path, server, *urls) == first
    assert (tmp_path / LEDGER).read_bytes() == ledger
    assert len(server.requests) == 2


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_torn_line_and_unfinished_files_are_cleared_away(tmp_path: Path, server: Server, cut: int) -> None:
    server.answers = {f"/{number}": [[reply()]] for number in range(3)}
    urls = [server.url(f"/{number}") for number in range(3)]
    fetch(tmp_path, server, *urls)
    ledger = (tmp_path / LEDGER).read_bytes()
    # As if killed after the last line began to be written, and before its photograph took its final name.
    (tmp_path / LEDGER).write_bytes(ledger[:-cut])
    last = photograph_path(tmp_path, urls[-1])
    last.rename(last.with_suffix(".part"))
    (tmp_path / f"{LEDGER}.part").write_bytes(b"{")
    (tmp_path / "images" / "mine.part").write_bytes(b"of the user")
    (last.parent / "mine.part").write_bytes(b"of the user")
    server.answers["/2"] = [[RESET]]
    write_lists(tmp_path, urls)
    fetch_photographs(tmp_path, QUICK, server.is_allowed)
    assert {path.name for path in tmp_path.rglob("*.part")} == {"mine.part"}
    for path in list(tmp_path.rglob("mine.part")):
        path.unlink()
    server.answers["/2"] = [[reply()]]
    # Where the ledger was lost whole, photographs can only be told to be there.
    outcomes = [entry.outcome for entry in fetch(tmp_path, server, *urls)]
    assert outcomes == [*[Outcome.PRESENT if cut == 10_000 else Outcome.FETCHED] * 2, Outcome.FETCHED]
    assert cut == 10_000 or (tmp_path / LEDGER).read_bytes() == ledger


def test_a_line_without_its_photograph_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.answers = {"/": [[reply()]]}
    fetch(tmp_path, server, server.url("/"))
    photograph_path(tmp_path, server.url("/")).unlink()
    fetch(tmp_path, server, server.url("/"))
    assert server.times_asked("/") == 2


def test_a_foreign_ledger_is_refused(tmp_path: Path, server: Server) -> None:
    server.answers = {"/": [[reply()]]}
    fetch(tmp_path, server, server.url("/"))
    with (tmp_path / LEDGER).open("a") as ledger:
        ledger.write('{"url": "http://x", "outcome": "delighted"}\n')
    with pytest.raises(DataError, match=r"fetched\.jsonl: line 2 is no entry"):
        fetch(tmp_path, server, server.url("/"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([b"\n", b"{}", b'{"url": "http://x", "outcome": "gone"}', b"null"]) | st.binary()))
def test_any_ledger_is_read_or_refused(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_lists(Path(folder), ["http://127.0.0.1/"])
        Path(folder, LEDGER).write_bytes(b"".join(pieces))
        try:
            fetch_photographs(Path(folder), QUICK)
        except DataError:
            assert Path(folder, LEDGER).read_bytes().startswith(b"".join(pieces).rpartition(b"\n")[0])
        else:
            assert len(read_ledger(Path(folder))) == 1


def test_two_at_a_time_refuse_each_other(tmp_path: Path, server: Server) -> None:
    write_lists(tmp_path, [server.url("/")])
    with (tmp_path / "fetched.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another fetch is running in this folder"):
            fetch_photographs(tmp_path, QUICK, server.is_allowed)
    assert not server.requests
    fetch(tmp_path, server, server.url("/"))


def test_what_is_wrong_here_is_no_outcome(tmp_path: Path, server: Server) -> None:
    server.answers = {"/": [[reply()]]}
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        fetch(tmp_path, server, server.url("/"))


CHILD = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
from data_pipelines.fetch import FetchConfig, fetch_photographs
port = int(sys.argv[2])
config = FetchConfig(concurrency=6, per_host=6, pause_s=0, backoff_s=0.01, attempts=2)
fetch_photographs(Path(sys.argv[1]), config, lambda *address: address == ("127.0.0.1", port))
"""


def start_child(root: Path, server: Server, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, root, str(server.port)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | environment)


def wait_for_requests(server: Server, number: int) -> None:
    while len(server.requests) < number:
        time.sleep(0.002)


def test_killed_ten_times_and_continued_gives_the_same_bytes(tmp_path: Path, server: Server) -> None:
    chance = random.Random(11)  # noqa: S311
    urls = []
    for number in range(150):
        body = PICTURE + chance.randbytes(chance.randrange(60_000))
        half = len(body) // 2
        slowly: list[bytes | float | str] = [reply(body)[:-half], chance.uniform(0, 0.06), body[-half:]]
        script = chance.choices(
            [[slowly], [[reply(HTML, 404)]], [[reply(b"", 500)]], [[redirect(f"/{number}/b")]]], [8, 1, 1, 2]
        )[0]
        server.answers |= {f"/{number}/a": script, f"/{number}/b": [slowly]}
        urls.append(server.url(f"/{number}/a"))
    for name in ("whole", "killed"):
        write_lists(tmp_path / name, urls)
    assert start_child(tmp_path / "whole", server).wait() == 0
    for _ in range(10):
        asked = len(server.requests)
        child = start_child(tmp_path / "killed", server)
        wait_for_requests(server, asked + chance.randrange(1, 20))
        time.sleep(chance.uniform(0, 0.04))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert len(content(tmp_path / "killed")) < len(content(tmp_path / "whole"))
    assert start_child(tmp_path / "killed", server).wait() == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert len({entry.outcome for entry in read_ledger(tmp_path / "killed")}) == 3


def test_interrupted_by_hand_leaves_nothing_unfinished(tmp_path: Path, server: Server) -> None:
    server.answers = {f"/{number}": [[HEAD, PICTURE, 60.0]] for number in range(6)}
    write_lists(tmp_path, [server.url(f"/{number}") for number in range(6)])
    child = start_child(tmp_path, server)
    while len(list(tmp_path.rglob("*.part"))) < 6:
        assert child.poll() is None
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    assert child.wait() == -signal.SIGINT
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_https_takes_a_certificate_that_the_system_trusts(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", certificate]
    names = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate]
    subprocess.run(["openssl", "req", "-x509", *key, *names], check=True, capture_output=True)  # noqa: S607
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    server = Server(tls)
    try:
        server.answers = {"/": [[reply()]]}
        write_lists(tmp_path, [server.url("/").replace("http", "https"), server.url("/")])
        for trust, outcome in ({}, Outcome.CONNECTION_FAILED), ({"SSL_CERT_FILE": str(certificate)}, Outcome.FETCHED):
            assert start_child(tmp_path, server, **trust).wait() == 0
            assert [entry.outcome for entry in read_ledger(tmp_path)] == [outcome, Outcome.CONNECTION_FAILED]
    finally:
        server.close()
