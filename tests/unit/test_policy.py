"""The policy: one document, every problem told at once with its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Misconfigured
from pipeline.policy import load_policy

SHIPPED = (Path(__file__).parents[2] / "pipeline" / "policy.default.toml").read_text()


def test_the_one_that_ships_is_valid_and_its_digest_is_of_what_it_says(tmp_path: Path) -> None:
    copy = tmp_path / "policy.toml"
    copy.write_text("# another comment\n" + SHIPPED.replace('"image/png", "image/jpeg",', '"image/jpeg", "image/png",'))
    assert load_policy(copy).digest == load_policy().digest
    copy.write_text(SHIPPED.replace("members = 10_000", "members = 10_001"))
    assert load_policy(copy).digest != load_policy().digest


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('bytes = "256 MiB"', 'bytes = "many"', "limits.bytes"),
        ("depth = 8", "depth = 0", "limits.depth"),
        ('mode = "optional"', 'mode = "sometimes"', "recognize.mode"),
        ('class = "standard"', 'class = "../escape"', "retention.class"),
        ('class = "standard"', 'class = "drop"', "retention.class"),  # where others put their files
        ('["mime", "structure", "clamav"]', '["mime"]', "scan.required"),
        ('["mime", "structure", "clamav"]', "[]", "scan.required"),
        ("version = 1", "version = 2", "version"),
        ("[accept]", "[accept]\nunknown = 1", "accept.unknown"),
    ],
)
def test_a_mistake_is_named_with_its_field(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert old in SHIPPED
    bad = tmp_path / "policy.toml"
    bad.write_text(SHIPPED.replace(old, new))
    with pytest.raises(Misconfigured, match=field):
        load_policy(bad)


def test_no_file_and_no_toml_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        load_policy(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= nonsense")
    with pytest.raises(Misconfigured, match="not valid TOML"):
        load_policy(tmp_path / "bad.toml")
