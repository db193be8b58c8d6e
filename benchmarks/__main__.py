"""`python -m benchmarks [--quick] [part ...]`: every line that the project is held to, and where it stands."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from benchmarks import cold_start, fairness, ledger, ocr, pipeline, stores, upload
from benchmarks.measure import Report

Part = Callable[[Report, bool], None]
PARTS: dict[str, Part] = {
    "upload": lambda report, quick: upload.run(report, upload.QUICK if quick else upload.Sizes()),
    "pipeline": lambda report, quick: pipeline.run(report, pipeline.QUICK if quick else pipeline.Sizes()),
    "ocr": lambda report, quick: ocr.run(report, ocr.QUICK if quick else ocr.Sizes()),
    "stores": lambda report, quick: stores.run(report, stores.QUICK if quick else stores.Sizes()),
    "ledger": lambda report, quick: ledger.run(report, many=10_000 if quick else 100_000),
    "fairness": lambda report, quick: fairness.run(report, fairness.QUICK if quick else fairness.Sizes()),
    "cold_start": lambda report, quick: cold_start.run(report, count=5 if quick else 15),
}
NUMBERS = {
    "upload": "1",
    "pipeline": "6",
    "ocr": "8",
    "stores": "9",
    "ledger": "11",
    "fairness": "12",
    "cold_start": "13",
}


def main() -> None:
    """Measure what is asked for, or all; a part that breaks does not keep the others from being measured."""
    report = Report()
    wanted = [name for name in PARTS if name in sys.argv] or list(PARTS)
    for name in wanted:
        try:
            PARTS[name](report, "--quick" in sys.argv)
        except Exception as exc:
            traceback.print_exc()
            report.none(NUMBERS[name], name, f"broke: {type(exc).__name__}")
    print()
    print(report.table())


if __name__ == "__main__":
    main()
