"""The signatures of a local clamd: the public database, or, until it is there, a test set that finds EICAR and no more.

`db` holds one or the other. With test signatures only, `airlock run` says so loudly, and an Airlock in production
refuses to promote anything.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.local import clamd
from pipeline.local.places import Places

# Both are made to be harmless. Bodies and hashes only, so that no virus checker takes this file for a virus.
TEST_SET = {
    "test.ndb": (
        "Eicar-Test-Signature:0:0:58354f2150254041505b345c505a58353428505e2937434329377d2445494341522d5354414e444152"
        "442d414e544956495255532d544553542d46494c452124482b482a\n"
    ),
    "test.hdb": (
        "44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test-Hash\naa15bcf478d165efd2065190eb473bcb:544:Clamav.Test.File\n"
    ),
}
OFFICIAL = ("main", "daily")


def folder(places: Places) -> Path:
    """clamd's database directory."""
    return places.clamav / "db"


def official(places: Places) -> bool:
    """Whether the public database is there, all of it."""
    return all(any((folder(places) / f"{name}.{kind}").exists() for kind in ("cvd", "cld")) for name in OFFICIAL)


def settle(places: Places) -> bool:
    """Leave the test set in place only where there is nothing better. True: only test signatures.

    clamd must not look at the folder while this runs, or be told to reload afterwards.
    """
    testing = not official(places)
    for name, lines in TEST_SET.items():
        file = folder(places) / name
        if testing:
            file.write_text(lines)
        else:
            file.unlink(missing_ok=True)
    return testing


def write_config(places: Places) -> Path:
    """Write freshclam.conf and give its path."""
    config = places.clamav / "freshclam.conf"
    config.write_text(
        f"DatabaseDirectory {folder(places)}\n"
        f"UpdateLogFile {places.clamav / 'freshclam.log'}\n"
        f"DatabaseOwner {_me()}\n"
        "DatabaseMirror database.clamav.net\n"
        "DNSDatabaseInfo current.cvd.clamav.net\n"
        "LogFileMaxSize 1M\n"
        "LogTime yes\n"
        "ConnectTimeout 10\n"
        "ReceiveTimeout 600\n"
        "MaxAttempts 1\n"
        "TestDatabases yes\n"
    )
    return config


def reload(places: Places) -> bool:
    """Tell clamd that its signatures changed. False: it did not answer (it reads them when it starts)."""
    return clamd.command(places, "RELOAD", 5.0) == "RELOADING"


def _me() -> str:
    import os
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
