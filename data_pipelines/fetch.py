"""Fetches the photographs that FEC only links to: politely, safely, and in as many sittings as it takes.

`fetch_photographs` is the way in. Beside the lists it keeps `fetched.jsonl`, the ledger: one line per URL with its
outcome. Lines are appended while it runs; at the end of a run the file is written anew in the order of the lists.
Nothing in it tells of times or attempts, so a run that was killed and continued ends with the bytes of one that wasn't.

A line is written before its photograph takes its final name, and a photograph takes it complete or not at all. So
at any moment a photograph is either there and in the ledger, or will be asked for again.
"""

import asyncio
import fcntl
import hashlib
import ipaddress
import json
import os
import random
import re
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Self

import aiohttp
import yarl
from aiohttp.resolver import ThreadedResolver
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.releases import fec

LEDGER = "fetched.jsonl"

AddressPolicy = Callable[[str, int], bool]
"""Says of an IP address and a port whether they may be connected to."""

_LOCK = "fetched.lock"
_MOST_REDIRECTS = 5
_MOST_HEADER_BYTES = 8190
_KEEP_NAMES_S = 300
"""How long a host's addresses are remembered: the lists name a handful of hosts tens of thousands of times."""
_PLACEHOLDER = "photo_unavailable"
"""Flickr redirects a photograph that is gone to a picture of this name, which says so."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_CHUNK_BYTES = 1 << 16
_SNIFFED_BYTES = 12
_RANDOM = random.SystemRandom()


class Outcome(StrEnum):
    """What became of a URL; `PASSING` are those that may be another next time."""

    FETCHED = "fetched"
    PRESENT = "present"
    NOT_FOUND = "not found"
    GONE = "gone"
    ACCESS_DENIED = "access denied"
    PHOTO_UNAVAILABLE = "photo unavailable"
    NOT_A_PICTURE = "not a picture"
    TOO_LARGE = "too large"
    COMPRESSED = "compressed"
    REDIRECTED_TOO_OFTEN = "redirected too often"
    URL_REFUSED = "URL refused"
    ADDRESS_REFUSED = "address refused"
    OTHER_STATUS = "other status"
    TOO_MANY_REQUESTS = "too many requests"
    SERVER_ERROR = "server error"
    TIMED_OUT = "timed out"
    CUT_OFF = "cut off"
    MALFORMED = "malformed answer"
    HOST_NOT_FOUND = "host not found"
    CONNECTION_FAILED = "connection failed"


PASSING = frozenset(
    {
        Outcome.TOO_MANY_REQUESTS,
        Outcome.SERVER_ERROR,
        Outcome.TIMED_OUT,
        Outcome.CUT_OFF,
        Outcome.MALFORMED,
        Outcome.HOST_NOT_FOUND,
        Outcome.CONNECTION_FAILED,
    }
)

_IN_HAND = frozenset({Outcome.FETCHED, Outcome.PRESENT})

_OUTCOME_OF_STATUS = {
    401: Outcome.ACCESS_DENIED,
    403: Outcome.ACCESS_DENIED,
    404: Outcome.NOT_FOUND,
    408: Outcome.TIMED_OUT,
    410: Outcome.GONE,
    429: Outcome.TOO_MANY_REQUESTS,
}


@dataclass(frozen=True)
class FetchConfig:
    """How photographs are fetched.

    Attributes:
        concurrency: How many are fetched at a time.
        per_host: How many of them from one host.
        pause_s: Shortest time from one request to a host to the next.
        attempts: How often a photograph is asked for in one run, where the failure may pass.
        backoff_s: Longest wait before the second attempt; it doubles with every further one. Between half of it
            and all of it is waited, by chance.
        longest_wait_s: The most that is waited before an attempt, also where a server asks for more.
        connect_timeout_s: Time to connect.
        timeout_s: Time for a whole request, to the last byte.
        max_bytes: Largest photograph.
        contact: Mail address or web page that is told to the servers, so that someone can complain.
        retry_failed: Ask again also for what failed for good in earlier runs.
    """

    concurrency: int = 16
    per_host: int = 4
    pause_s: float = 0.1
    attempts: int = 4
    backoff_s: float = 2.0
    longest_wait_s: float = 120.0
    connect_timeout_s: float = 10.0
    timeout_s: float = 60.0
    max_bytes: int = 64 << 20
    contact: str = ""
    retry_failed: bool = False

    def __post_init__(self) -> None:
        for name in ("concurrency", "per_host", "attempts", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("pause_s", "backoff_s", "longest_wait_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("connect_timeout_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        if not re.fullmatch(r"[ -~]*", self.contact):
            raise ValueError(f"contact must be plain ASCII in one line, not {self.contact!r}")


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        url: As the list names it.
        outcome: What became of it.
        status: HTTP status of the last answer, where there was one.
        final_url: Where redirects led, if there were any.
        bytes: Size of the photograph.
        sha256: Of the photograph, in hex.
        file: The photograph, relative to the source folder.
    """

    url: str
    outcome: Outcome
    status: int | None = None
    final_url: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    file: str | None = None


def is_public(address: str, port: int) -> bool:
    """The address policy of the command: public internet addresses, ports 80 and 443 (our choice).

    Private, loopback, link-local, multicast and reserved addresses are none, nor are IPv6 forms that hold such an
    IPv4 address, nor 6to4.
    """
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and (ip.ipv4_mapped or ip in _NAT64):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.version == 4:
        allowed = ip.is_global and not ip.is_multicast
    else:
        allowed = ip.is_global and ip in _GLOBAL_UNICAST and ip.sixtofour is None
    return allowed and port in (80, 443)


def is_picture(head: bytes) -> bool:
    """Whether a file that begins like this (12 bytes) claims to be JPEG, PNG, GIF, WebP, BMP or TIFF."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"))
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(b"BM") and head[6:10] == b"\0\0\0\0")
    )


def fetch_photographs(root: Path, config: FetchConfig, is_allowed: AddressPolicy = is_public) -> Counter[Outcome]:
    """Fetches every photograph that FEC's lists name to `fec.photograph_path`, and keeps the ledger.

    Photographs that lie there already are kept and entered as "present". What failed for good in an earlier run is
    not asked for again, unless the settings say so; other failures are.

    Args:
        root: The folder of the lists.
        config: How.
        is_allowed: Asked for every single connection, with the very address that is connected to, so that neither
            a name that changes its address nor a redirect leads elsewhere.

    Returns:
        How many URLs had each outcome.

    Raises:
        DataError: A list is missing or malformed, the ledger is malformed, or another fetch runs in this folder.
        OSError: A file can't be written.
    """
    urls = list(dict.fromkeys(chain.from_iterable(fec.photographs(root, split) for split in fec.SPLITS)))
    with _only_one_run(root):
        _remove_unfinished(root)
        with _Ledger(root / LEDGER) as ledger:
            asyncio.run(_fetch_all(urls, root, config, ledger, is_allowed))
        ledger.rewrite(urls)
    return Counter(ledger.entries[url].outcome for url in urls)


@contextmanager
def _only_one_run(root: Path) -> Iterator[None]:
    """Locks the folder; the system frees a lock whose process has died, so the file itself means nothing."""
    with (root / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{root}: another fetch is running in this folder; wait for it or stop it") from error
        yield


def _remove_unfinished(root: Path) -> None:
    """Removes what a killed run left; other files are nobody's business here."""
    for path in chain(root.glob("images/??/*.part"), root.glob(f"{LEDGER}.part")):
        if re.fullmatch(rf"[0-9a-f]{{64}}\.part|{re.escape(LEDGER)}\.part", path.name):
            path.unlink()


class _Ledger:
    """The ledger of a folder: read whole, appended line by line, written anew at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._type = TypeAdapter(Entry)
        self.entries: dict[str, Entry] = {}

    def __enter__(self) -> Self:
        self._file = self._path.open("a+b")
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        self._file.truncate(self._file.tell() - len(lines.pop()))  # a killed run may have left the last line torn
        for number, line in enumerate(lines, start=1):
            try:
                entry = self._type.validate_json(line)
            except ValidationError as error:
                self._file.close()
                raise DataError(
                    f"{self._path}: line {number} is no entry of a ledger; remove the file: photographs that are "
                    "there will be entered anew"
                ) from error
            self.entries[entry.url] = entry
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entry: Entry) -> None:
        self._file.write(_line(entry))
        self._file.flush()
        self.entries[entry.url] = entry

    def rewrite(self, urls: Iterable[str]) -> None:
        part = self._path.with_name(self._path.name + ".part")
        with part.open("wb") as file:
            file.writelines(_line(self.entries[url]) for url in urls)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)


def _line(entry: Entry) -> bytes:
    return json.dumps(asdict(entry)).encode() + b"\n"


async def _fetch_all(
    urls: list[str], root: Path, config: FetchConfig, ledger: _Ledger, is_allowed: AddressPolicy
) -> None:
    remaining = iter(urls)  # shared among the workers: each URL goes to one of them
    with tqdm(total=len(urls), desc="fetch fec", unit=" photographs", disable=None) as progress:
        async with _session(config, is_allowed) as session:
            fetcher = _Fetcher(root, config, ledger, session)

            async def work() -> None:
                for url in remaining:
                    await fetcher.settle(url)
                    progress.update()

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(config.concurrency):
                        workers.create_task(work())
            except ExceptionGroup as group:
                raise group.exceptions[0] from None  # of a full disk, every worker tells


def _session(config: FetchConfig, is_allowed: AddressPolicy) -> aiohttp.ClientSession:
    def checked_socket(address_info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, (address, port, *_) = address_info
        if not is_allowed(address, port):
            raise _AddressRefusedError
        return socket.socket(family, kind, protocol)

    contact = f" ({config.contact})" if config.contact else ""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=config.concurrency,
            resolver=ThreadedResolver(),
            ttl_dns_cache=_KEEP_NAMES_S,
            socket_factory=checked_socket,
        ),
        # Compressed bodies could unpack to any size; pictures are compressed anyway.
        headers={"User-Agent": f"avemo/{version('avemo')}{contact}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=config.connect_timeout_s),
        max_line_size=_MOST_HEADER_BYTES,
        max_field_size=_MOST_HEADER_BYTES,
        middlewares=[_ask_once],
    )


async def _ask_once(
    request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Hides from aiohttp that a connection was lost: it would ask once more by itself, at once."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


class _AddressRefusedError(OSError):
    """An OSError, so that a host's further addresses are tried."""


@dataclass(frozen=True)
class _Redirect:
    status: int
    location: str


@dataclass(frozen=True)
class _Answer:
    """How one request ended; the fields are those of `Entry`, and how long the server wants to be left alone."""

    outcome: Outcome
    status: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    wait_s: float = 0.0


class _Host:
    """One host's share of connections, and when it may be asked next."""

    def __init__(self, config: FetchConfig) -> None:
        self._pause_s = config.pause_s
        self._connections = asyncio.Semaphore(config.per_host)
        self._free_at = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._connections:
            now = asyncio.get_running_loop().time
            while (wait_s := self._free_at - now()) > 0:
                await asyncio.sleep(wait_s)
            self._free_at = now() + self._pause_s
            yield

    def leave_alone(self, wait_s: float) -> None:
        self._free_at = max(self._free_at, asyncio.get_running_loop().time() + wait_s)


class _Fetcher:
    """Settles URLs, one per call, and enters each into the ledger."""

    def __init__(self, root: Path, config: FetchConfig, ledger: _Ledger, session: aiohttp.ClientSession) -> None:
        self._root = root
        self._config = config
        self._ledger = ledger
        self._session = session
        self._hosts: defaultdict[str, _Host] = defaultdict(lambda: _Host(config))

    async def settle(self, url: str) -> None:
        entry = self._ledger.entries.get(url)
        path = fec.photograph_path(self._root, url)
        if path.is_file():
            if entry is not None and entry.bytes == path.stat().st_size:
                return
            present = await asyncio.to_thread(_present, url, path)
            if present is not None:
                self._ledger.add(present)
                return
        failed_for_good = entry is not None and entry.outcome not in PASSING | _IN_HAND
        if failed_for_good and not self._config.retry_failed:
            return
        part = path.with_suffix(".part")
        try:
            entry = await self._fetch(url, part)
            self._ledger.add(entry)
            if entry.outcome == Outcome.FETCHED:
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    async def _fetch(self, url: str, part: Path) -> Entry:
        """Asks until the photograph is in `part`, or has failed for good or too often."""
        attempt = 1
        entry, wait_s = await self._follow(url, part)
        while entry.outcome in PASSING and attempt < self._config.attempts:
            backoff_s = self._config.backoff_s * 2 ** (attempt - 1) * _RANDOM.uniform(0.5, 1)
            await asyncio.sleep(min(max(backoff_s, wait_s), self._config.longest_wait_s))
            attempt += 1
            entry, wait_s = await self._follow(url, part)
        return entry

    async def _follow(self, url: str, part: Path) -> tuple[Entry, float]:
        """Asks, and follows redirects, each of which is checked as the first URL is; from https to http is allowed.

        Returns:
            The URL's entry, and how long the server wants to be left alone.
        """
        target = url
        status = None
        for hop in range(_MOST_REDIRECTS + 1):
            answer = await self._request(target, part)
            if isinstance(answer, _Answer):
                entry = Entry(
                    url,
                    answer.outcome,
                    answer.status or status,
                    final_url=target if hop else None,
                    bytes=answer.bytes,
                    sha256=answer.sha256,
                    file=_file(url) if answer.outcome == Outcome.FETCHED else None,
                )
                return entry, answer.wait_s
            target, status = answer.location, answer.status
        return Entry(url, Outcome.REDIRECTED_TOO_OFTEN, status, final_url=target), 0.0

    async def _request(self, url: str, part: Path) -> _Answer | _Redirect:
        """One request, without redirects; what goes wrong on the way is an outcome, what goes wrong here is raised."""
        try:
            target = yarl.URL(url)
            if target.scheme not in ("http", "https") or not target.host or target.user or target.password:
                return _Answer(Outcome.URL_REFUSED)
            if _PLACEHOLDER in target.path:
                return _Answer(Outcome.PHOTO_UNAVAILABLE)
            host = self._hosts[target.host]
            async with host.turn(), self._session.get(target, allow_redirects=False) as response:
                answer = await self._read(response, part)
        except TimeoutError:
            return _Answer(Outcome.TIMED_OUT)
        except aiohttp.ClientConnectorDNSError:
            return _Answer(Outcome.HOST_NOT_FOUND)
        except aiohttp.ClientConnectorError as error:  # also of a certificate; that one is a ValueError as well
            refused = isinstance(error.os_error, _AddressRefusedError)
            return _Answer(Outcome.ADDRESS_REFUSED if refused else Outcome.CONNECTION_FAILED)
        except aiohttp.ClientPayloadError:
            return _Answer(Outcome.CUT_OFF)
        except aiohttp.ClientResponseError:
            return _Answer(Outcome.MALFORMED)
        except ValueError:  # of a URL or a host's name, as is aiohttp's own InvalidURL
            return _Answer(Outcome.URL_REFUSED)
        except (aiohttp.ClientError, ConnectionError):
            return _Answer(Outcome.CONNECTION_FAILED)
        if isinstance(answer, _Answer):
            host.leave_alone(min(answer.wait_s, self._config.longest_wait_s))
        return answer

    async def _read(self, response: aiohttp.ClientResponse, part: Path) -> _Answer | _Redirect:
        status = response.status
        if status in (301, 302, 303, 307, 308) and "Location" in response.headers:
            return _Redirect(status, str(response.url.join(yarl.URL(response.headers["Location"]))))
        if status != 200:
            other = Outcome.SERVER_ERROR if status >= 500 else Outcome.OTHER_STATUS
            wait_s = _retry_after_s(response.headers.get("Retry-After", ""))
            return _Answer(_OUTCOME_OF_STATUS.get(status, other), status, wait_s=wait_s)
        if response.headers.get("Content-Encoding", "").lower() not in ("", "identity"):
            return _Answer(Outcome.COMPRESSED, status)
        if (response.content_length or 0) > self._config.max_bytes:
            return _Answer(Outcome.TOO_LARGE, status)
        return await self._save(response.content, part)

    async def _save(self, body: aiohttp.StreamReader, part: Path) -> _Answer:
        try:
            chunk = await body.readexactly(_SNIFFED_BYTES)
        except asyncio.IncompleteReadError:
            return _Answer(Outcome.NOT_A_PICTURE, 200)
        if not is_picture(chunk):
            return _Answer(Outcome.NOT_A_PICTURE, 200)
        part.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        size = 0
        with part.open("wb") as file:
            while chunk:
                size += len(chunk)
                if size > self._config.max_bytes:  # whatever Content-Length said
                    return _Answer(Outcome.TOO_LARGE, 200)
                digest.update(chunk)
                file.write(chunk)
                chunk = await body.read(_CHUNK_BYTES)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())  # complete also after a power cut
        return _Answer(Outcome.FETCHED, 200, bytes=size, sha256=digest.hexdigest())


def _present(url: str, path: Path) -> Entry | None:
    """The entry of a photograph that lies there already; None if the file is no picture."""
    with path.open("rb") as file:
        if not is_picture(file.read(_SNIFFED_BYTES)):
            return None
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Entry(url, Outcome.PRESENT, bytes=file.tell(), sha256=digest, file=_file(url))


def _file(url: str) -> str:
    return fec.photograph_path(Path(), url).as_posix()


def _retry_after_s(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 if it is neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
