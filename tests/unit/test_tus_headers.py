"""What tus' headers say, and that nothing a client writes there is believed further than it can be read."""

from __future__ import annotations

import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.uploads.tus_headers import DIGESTS, METADATA_BYTES, Checksum, Concat, Metadata, number_in
from pipeline.errors import AirlockError, BadRequest

ID = "0b9d4d3e-6a0e-4f65-9d0a-5d1c6c1f7a55"
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F))


def encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


@given(st.dictionaries(st.text("abcXYZ09-_./:;=+", min_size=1), st.text(max_size=50), max_size=8))
def test_what_was_encoded_is_what_is_read(values: dict[str, str]) -> None:
    raw = ",".join(f"{key} {encoded(value)}".strip() for key, value in values.items())
    values.pop("sha256", None)
    found = Metadata.of({"upload-metadata": raw})
    assert found.raw == raw.strip()
    assert found.name == (values.get("filename") or values.get("name") or None)


@given(texts)
def test_any_metadata_is_read_or_refused_and_safe_to_give_back(raw: str) -> None:
    try:
        found = Metadata.of({"upload-metadata": raw})
    except BadRequest:
        return
    assert found.raw.isascii()
    assert found.raw.isprintable()


@pytest.mark.parametrize(
    ("sent", "name", "kind"),
    [
        (f"filename {encoded('a.pdf')},name {encoded('b.pdf')}", "a.pdf", None),
        (f"name {encoded('b.pdf')},filename", "b.pdf", None),
        (f"filetype {encoded('Application/PDF; a=b')}", None, "application/pdf"),
        (f"filetype {encoded('nonsense')},type {encoded('image/png')}", None, "image/png"),
        (f"contentType {encoded('text/csv')}", None, "text/csv"),
        (f"type {encoded('application/octet-stream')}", None, None),  # says nothing
        ("filename /w==", "\N{REPLACEMENT CHARACTER}", None),
        ("", None, None),
    ],
)
def test_names_and_types_are_known_by_the_keys_that_clients_use(sent: str, name: str | None, kind: str | None) -> None:
    found = Metadata.of({"upload-metadata": sent})
    assert (found.name, found.declared_type) == (name, kind)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF)))
def test_a_number_is_digits_and_nothing_else(value: str) -> None:
    try:
        assert number_in({"upload-offset": value}, "Upload-Offset") == int(value)
    except BadRequest:
        return
    assert value.isascii()
    assert value.isdecimal()


@pytest.mark.parametrize("prefix", ["", "/files", "http://h", "https://h.example:8443", "https://h/a/b", "HTTP://H"])
def test_where_a_partial_upload_is(prefix: str) -> None:
    value = f"final;{prefix}/v1/uploads/tus/{ID} {prefix}/v1/uploads/tus/{ID.upper()}/"
    assert Concat.of({"upload-concat": value}) == Concat((UUID(ID), UUID(ID)))


@pytest.mark.parametrize(
    "value",
    [
        "", "Partial", "final", "final;", "final; ", "partial;x", "final;x", f"final;{ID}",
        f"final;/v1/uploads/tus/{ID}x",
        f"final;/v1/uploads/tus/{ID}/..", f"final;/v1/uploads/tus/{{{ID}}}", f"final;//h/v1/uploads/tus/{ID}#a",
        f"final;file:///v1/uploads/tus/{ID}", f"final;/v1/uploads/tus/{ID},/v1/uploads/tus/{ID}",
    ],
)  # fmt: skip
def test_what_is_no_partial_upload(value: str) -> None:
    with pytest.raises(BadRequest):
        Concat.of({"upload-concat": value})


@pytest.mark.cwe("CWE-1333")
@pytest.mark.parametrize("awkward", ["/" * 60_000, "/a" * 30_000, "http://" + "a/" * 30_000, "http://" + ":" * 60_000])
def test_an_awkward_url_is_read_in_no_time(awkward: str) -> None:
    # Backtracking would take years: that this test ends is what it shows.
    with pytest.raises(BadRequest):
        Concat.of({"upload-concat": f"final;{awkward}"})


@pytest.mark.parametrize("awkward", [" " * 60_000 + ",", "a " * 30_000, "," * 60_000, "a" * METADATA_BYTES + ","])
def test_awkward_metadata_is_read_in_no_time(awkward: str) -> None:
    with pytest.raises(BadRequest):
        Metadata.of({"upload-metadata": awkward})


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_a_digest_of_each_kind(algorithm: str) -> None:
    known = {
        "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
        "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        "crc32c": "e3069283",
    }
    for right in (True, False):
        wanted = bytes.fromhex(known[algorithm]) if right else bytes(DIGESTS[algorithm])
        found = Checksum.of({"upload-checksum": f"{algorithm} {base64.b64encode(wanted).decode()}"})
        assert found is not None
        found.update([b"1234", b"56789"])
        if right:
            found.verify()
        else:
            with pytest.raises(AirlockError) as caught:
                found.verify()
            assert caught.value.status == 460
