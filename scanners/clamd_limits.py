"""What clamd's configuration lets pass unseen, compared with what we accept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# CVE-2025-20260: a buffer overflow in the PDF parser, reachable only with limits from here on.
MAX_SAFE_FILE_SIZE, MAX_SAFE_SCAN_SIZE = 1024 << 20, 1025 << 20


@dataclass(frozen=True, slots=True)
class ClamdLimits:
    """What matters here of a clamd.conf; sizes in bytes, 0 for "no limit". The defaults are clamd 1.4's own."""

    stream_max_length: int = 100 << 20
    max_scan_size: int = 400 << 20
    max_file_size: int = 100 << 20
    max_recursion: int = 17
    max_files: int = 10_000
    max_scan_time: int = 120_000  # milliseconds
    pcre_max_file_size: int = 100 << 20
    alert_exceeds_max: bool = False
    alert_encrypted: bool = False
    scan_archive: bool = True
    scan_pdf: bool = True
    scan_ole2: bool = True
    scan_mail: bool = True
    scan_html: bool = True


def limits_of(conf: Path) -> ClamdLimits:
    """Read a clamd.conf. Raises OSError, or ValueError for a value that cannot be read."""
    found: dict[str, int | bool] = {}
    names = {name.replace("_", ""): name for name in ClamdLimits.__dataclass_fields__}
    # clamd's older names for the same two options
    names |= {"archiveblockencrypted": "alert_encrypted", "blockmax": "alert_exceeds_max"}
    for number, line in enumerate(conf.read_text(errors="replace").splitlines(), 1):
        words = line.split(None, 1)
        if len(words) != 2 or (name := names.get(words[0].lower())) is None:
            continue
        value = words[1].strip().strip('"')
        if isinstance(getattr(ClamdLimits(), name), bool):
            found[name] = found.get(name, False) is True or value.lower() in {"yes", "true", "1"}
            if words[0].lower() == name.replace("_", ""):
                found[name] = value.lower() in {"yes", "true", "1"}
        elif match := re.fullmatch(r"(\d+)([KMG]?)", value, re.IGNORECASE):
            found[name] = int(match[1]) * UNITS[match[2].upper()]
        else:
            raise ValueError(f"{conf.name}, line {number}: {words[0]} is not a number.")
    return ClamdLimits(**found)  # type: ignore[arg-type]


def problems(limits: ClamdLimits, max_bytes: int) -> list[str]:
    """One sentence for each setting that lets bytes of an accepted file pass unseen, or that is known to be unsafe."""
    found = []
    if not limits.alert_exceeds_max:
        found.append("clamd calls files clean that it gave up on: set `AlertExceedsMax yes`.")
    if not limits.alert_encrypted:
        found.append("clamd calls encrypted archives clean: set `AlertEncrypted yes`.")
    for name, value in (
        ("StreamMaxLength", limits.stream_max_length),
        ("MaxFileSize", limits.max_file_size),
        ("MaxScanSize", limits.max_scan_size),
        ("PCREMaxFileSize", limits.pcre_max_file_size),
    ):
        if 0 < value < max_bytes:
            found.append(
                f"clamd's {name} is {value >> 20} MiB, below the {max_bytes >> 20} MiB that the policy accepts: "
                "raise it, or accept less."
            )
    if limits.max_file_size == 0 or limits.max_file_size >= MAX_SAFE_FILE_SIZE:
        found.append("clamd's MaxFileSize is 1024 MiB or more, which CVE-2025-20260 needs: set it below that.")
    if limits.max_scan_size == 0 or limits.max_scan_size >= MAX_SAFE_SCAN_SIZE:
        found.append("clamd's MaxScanSize is 1025 MiB or more, which CVE-2025-20260 needs: set it below that.")
    for name in ("scan_archive", "scan_pdf", "scan_ole2", "scan_mail", "scan_html"):
        if not getattr(limits, name):
            option = "".join(part.capitalize() for part in name.split("_")).replace("Pdf", "PDF")
            option = option.replace("Ole2", "OLE2").replace("Html", "HTML")
            found.append(f"clamd does not look inside some accepted files: set `{option} yes`.")
    return found
