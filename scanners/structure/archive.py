"""Zip containers, counted for real: every member is unpacked (to nowhere) and no declared number is believed."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from scanners.structure.finding import Found, damaged, encrypted, over_limit, unseen
from scanners.structure.limits import StructureLimits

PIECE = 256 << 10
SMALL = 32 << 20  # below this no ratio is alarming: a few spaces in a spreadsheet pack better than any limit
IN_MEMORY = 64 << 20  # a zip inside a zip has to be held to be read; larger ones are not taken
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END_RECORD = struct.Struct("<4s4H2LH")
BYTES_AN_ENTRY = 1024
MAX_GAP = 4096  # between members: data descriptors and alignment, no place to hide much


@dataclass
class Count:
    """What was found so far, over all depths."""

    members: int = 0
    unpacked: int = 0
    packed: int = 0
    depth: int = 0


def inspect_zip(file: BinaryIO, size: int, limits: StructureLimits, count: Count, depth: int = 1) -> None:
    """Unpack everything, zips inside too. Raises Found at the first thing that is wrong."""
    if depth > limits.depth:
        raise over_limit(f"containers lie deeper than {limits.depth} in each other")
    count.depth = max(count.depth, depth)
    try:
        _preflight(file, size, limits)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            count.members += len(members)
            if count.members > limits.members:
                raise over_limit(f"it holds more than {limits.members} files")
            _layout(file, members, archive.start_dir)
            for member in members:
                _name(member)
            for member in members:
                _unpack(archive, member, limits, count, depth)
    except Found:
        raise
    except RuntimeError as exc:  # also NotImplementedError: "is encrypted", unknown compression
        raise damaged(f"a member of the zip cannot be read ({type(exc).__name__})") from exc
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error, KeyError) as exc:
        raise damaged(f"the zip is damaged ({type(exc).__name__})") from exc


def ends_as_zip(file: BinaryIO, size: int) -> bool:
    """Whether a zip ends exactly where the file does, whatever it begins with."""
    tail_size = min(size, 65_557)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(END)
    while at >= 0:
        if len(tail) - at >= END_RECORD.size:
            record = END_RECORD.unpack_from(tail, at)
            if at + END_RECORD.size + record[7] == len(tail):
                directory = size - len(tail) + at - record[5]
                if record[4] and directory >= 0:
                    file.seek(directory)
                    return file.read(4) == CENTRAL
        at = tail.rfind(END, 0, at)
    return False


def _preflight(file: BinaryIO, size: int, limits: StructureLimits) -> None:
    """Before a list of the members is built in memory: how many does the directory have room for?"""
    file.seek(max(0, size - 65_557))
    tail = file.read()
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < END_RECORD.size:
        raise damaged("the zip has no end")
    # An entry has 46 bytes and a name. 4 GiB - 1 stands for "see the Zip64 record"; memory's own limit holds then.
    directory = END_RECORD.unpack_from(tail, at)[5]
    if directory != 0xFFFFFFFF and directory > (limits.members + 1) * BYTES_AN_ENTRY:
        raise over_limit(f"its directory has room for far more than {limits.members} files")


def _layout(file: BinaryIO, members: list[zipfile.ZipInfo], directory: int) -> None:
    """No two members share bytes, and no further ones hide between them."""
    end = 0
    for member in sorted(members, key=lambda each: each.header_offset):
        if member.header_offset < end:
            raise damaged("members of the zip overlap")
        _no_member_between(file, end, member.header_offset)
        file.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<2H", file.read(4))
        end = member.header_offset + 30 + name_length + extra_length + member.compress_size
    if end > directory:
        raise damaged("a member of the zip runs into its directory")
    _no_member_between(file, end, directory)


def _no_member_between(file: BinaryIO, start: int, end: int) -> None:
    if end > start:
        file.seek(start)
        if end - start > MAX_GAP or LOCAL in file.read(end - start):
            raise damaged("the zip holds bytes that its directory does not tell of")


def _name(member: zipfile.ZipInfo) -> None:
    parts = member.filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        raise damaged("a member's path leads out of the container")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise damaged("a member of the container is a link")
    if member.flag_bits & 0x1:
        raise encrypted("a member of the zip is encrypted")


def _unpack(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: StructureLimits, count: Count, depth: int
) -> None:
    count.packed += member.compress_size
    inner: io.BytesIO | None = None
    unpacked = 0
    with archive.open(member) as content:
        while piece := content.read(PIECE):
            if unpacked == 0 and piece.startswith(LOCAL):
                inner = io.BytesIO()
            unpacked += len(piece)
            count.unpacked += len(piece)
            if count.unpacked > limits.unpacked_bytes:
                raise over_limit(f"it unpacks to more than {limits.unpacked_bytes >> 20} MiB")
            if limits.member_bytes is not None and unpacked > limits.member_bytes:
                raise unseen("a member is larger than the antivirus engine looks at")
            if count.unpacked > SMALL and count.unpacked > limits.ratio * max(count.packed, 1):
                raise over_limit(f"it unpacks to more than {limits.ratio} times its size")
            if inner is not None:
                if unpacked > IN_MEMORY:
                    raise unseen("a container inside it is too large to be looked into")
                inner.write(piece)
    if inner is not None:
        inspect_zip(inner, unpacked, limits, count, depth + 1)
