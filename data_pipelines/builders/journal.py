"""What has been prepared so far, on disk, so that a run that was killed goes on where it was.

An entry is written in one go, after the one before it. One that is cut short or damaged ends the journal: what
follows is prepared again.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from data_pipelines.builders.recipe import Cooked

_HEADER = struct.Struct("<32sIQI")  # digest of the items, bytes of notes, bytes of records, checksum of both


@dataclass(frozen=True)
class _Entry:
    digest: bytes
    start: int
    end: int


class Journal:
    """Chunks of one split, in order."""

    def __init__(self, path: Path) -> None:
        """Opens a journal, or begins one; drops what a crash left unfinished at its end."""
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._entries = list(self._scan())
        self.keep(len(self._entries))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._entries)

    def digest(self, number: int) -> bytes:
        """The digest of the items that an entry was made from."""
        return self._entries[number].digest

    def keep(self, count: int) -> None:
        """Drops all entries but the first `count`."""
        del self._entries[count:]
        self._file.truncate(self._entries[-1].end if self._entries else 0)

    def append(self, digest: bytes, cooked: Cooked) -> None:
        """Adds an entry."""
        notes = json.dumps({**cooked.notes, "lengths": list(map(len, cooked.records))}).encode()
        records = b"".join(cooked.records)
        start = self._entries[-1].end if self._entries else 0
        header = _HEADER.pack(digest, len(notes), len(records), zlib.crc32(records, zlib.crc32(notes)))
        self._file.seek(start)
        self._file.write(header + notes + records)
        self._file.flush()
        self._entries.append(_Entry(digest, start, start + len(header) + len(notes) + len(records)))

    def notes(self) -> Iterator[dict[str, Any]]:
        """Reads the notes of all entries, one at a time; "lengths" are those of the records."""
        for entry in self._entries:
            _, notes_length, _, _ = self._header(entry.start)
            yield json.loads(self._file.read(notes_length))

    def records(self) -> Iterator[bytes]:
        """Reads all records, one entry at a time."""
        for entry in self._entries:
            notes, data = self._read(entry.start)
            position = 0
            for length in json.loads(notes)["lengths"]:
                yield data[position : position + length]
                position += length

    def _scan(self) -> Iterator[_Entry]:
        """The entries on disk up to the first that isn't whole."""
        size = self._file.seek(0, os.SEEK_END)
        start = 0
        while start + _HEADER.size <= size:
            digest, notes_length, records_length, checksum = self._header(start)
            end = start + _HEADER.size + notes_length + records_length
            if end > size:
                return
            notes, records = self._read(start)
            if zlib.crc32(records, zlib.crc32(notes)) != checksum:
                return
            yield _Entry(digest, start, end)
            start = end

    def _header(self, start: int) -> tuple[bytes, int, int, int]:
        self._file.seek(start)
        return _HEADER.unpack(self._file.read(_HEADER.size))

    def _read(self, start: int) -> tuple[bytes, bytes]:
        """Notes and records of the entry that starts there."""
        _, notes_length, records_length, _ = self._header(start)
        return self._file.read(notes_length), self._file.read(records_length)
