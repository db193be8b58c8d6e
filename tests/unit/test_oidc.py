"""Pushed tokens: every claim and every trick with the signature, against keys of our own."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from ingest_api.oidc import PushTokens
from ingest_api.web import Threads
from pipeline.errors import AirlockError, Forbidden, Unauthorized, Unavailable
from pipeline.oidc import ASK_EVERY, KEYS_FRESH, KEYS_USABLE, LEEWAY, Caller, SigningKeys, caller, key_id
from pipeline.settings import Settings
from tests.servers.oidc import ACCOUNT, AUDIENCE, KID, Issuer, issuer

NOW = int(time.time())  # when the tests were collected
LATER = NOW + 86400


@pytest.fixture(scope="module")
def google() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@pytest.fixture
def own() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


def ask(keys: SigningKeys, token: str) -> Caller:
    """What the API does, without its threads."""
    kid = key_id(token)
    if keys.due(kid):
        keys.refresh()
    return caller(token, keys.kept(kid), audiences={AUDIENCE, "other"}, accounts={ACCOUNT})


@pytest.fixture(scope="module")
def keys(google: Issuer) -> SigningKeys:
    return SigningKeys(google.url)


def test_a_token_that_is_right(google: Issuer, keys: SigningKeys) -> None:
    assert ask(keys, google.token()) == Caller(ACCOUNT, "113774264463038321964")
    assert ask(keys, google.token(iss="accounts.google.com", aud=["x", AUDIENCE])).email == ACCOUNT
    assert ask(keys, google.token(exp=int(time.time() - LEEWAY / 2))).email == ACCOUNT


@pytest.mark.cwe("CWE-345")
@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://somebody.else"},
        {"aud": None},
        {"aud": []},
        {"aud": 7},
        {"aud": AUDIENCE + "/"},
        {"iss": "https://accounts.google.com.evil.example"},
        {"iss": None},
        {"exp": NOW - 600},
        {"exp": None},
        {"exp": "soon"},
        {"exp": [NOW]},
        {"iat": LATER},
        {"iat": None},
        {"nbf": LATER},
    ],
)
def test_a_claim_that_is_wrong(google: Issuer, keys: SigningKeys, changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized) as raised:
        ask(keys, google.token(**changes))
    assert "evil" not in raised.value.detail
    assert raised.value.extra["_challenge"] == 'Bearer realm="airlock", error="invalid_token"'


@pytest.mark.parametrize(
    "changes",
    [
        {"email": "somebody@else.iam.gserviceaccount.com"},
        {"email": ACCOUNT.upper()},
        {"email": None},
        {"email": [ACCOUNT]},
        {"email_verified": False},
        {"email_verified": None},
        {"email_verified": "true"},
    ],
)
def test_another_account(google: Issuer, keys: SigningKeys, changes: dict[str, Any]) -> None:
    with pytest.raises(Forbidden):
        ask(keys, google.token(**changes))


def b64(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.cwe("CWE-347")
def test_tricks_with_the_signature(google: Issuer, keys: SigningKeys) -> None:
    good = google.token()
    header, claims, signature = good.split(".")
    public = google.keys[KID].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = jwt.decode(good, options={"verify_signature": False})
    signed_by_public = jwt.encode(body, b64(pem), "HS256", {"kid": KID})
    stranger = generate_private_key(65537, 2048)
    tricks = [
        f"{b64({'alg': 'none', 'kid': KID})}.{claims}.",
        f"{b64({'alg': 'None', 'kid': KID})}.{claims}.",
        signed_by_public,
        f"{b64({'alg': 'HS256', 'kid': KID})}.{claims}.{signature}",
        jwt.encode(body, stranger, "RS256", {"kid": KID}),
        jwt.encode(body, stranger, "RS256", {"kid": "../../etc"}),
        jwt.encode(body, stranger, "RS256", {"kid": KID, "jku": "http://evil.example/keys"}),
        jwt.encode(body, stranger, "RS256"),
        jwt.encode(body, google.keys[KID], "RS512", {"kid": KID}),
        google.token(headers={"crit": ["exp"]}),
        f"{header}.{b64({**body, 'email': 'x@y'})}.{signature}",
        f"{header}.{claims}.{signature[:-4]}AAAA",
        f"{header}.{claims}.",
        f"{header}.{claims}.SIGNATURE_REMOVED_BY_GOOGLE",
        f"{header}.{b64([1])}.{signature}",
        f"{b64([1])}.{claims}.{signature}",
        "",
        "a",
        "..",
        "a.b.c",
        "\u2603.\u2603.\u2603",
        good * 20,
    ]
    for token in tricks:
        with pytest.raises(Unauthorized):
            ask(keys, token)
    assert ask(keys, good).email == ACCOUNT


def test_only_keys_that_sign_by_rsa_are_taken(own: Issuer) -> None:
    ec = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(ec_key(SECP256R1()).public_key(), as_dict=True)
    own.published["keys"] += [
        {**ec, "kid": "ec"},
        {"kty": "oct", "k": "AAAA", "kid": "oct"},
        {**own.jwk(KID), "kid": "enc", "use": "enc"},
        {**own.jwk(KID), "kid": "rs512", "alg": "RS512"},
        {"kty": "RSA", "kid": "half"},
    ]
    keys = SigningKeys(own.url)
    keys.refresh()
    assert keys.kept(KID) is not None
    assert [keys.kept(kid) for kid in ("ec", "oct", "enc", "rs512", "half")] == [None] * 5


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_keys_rotate_and_made_up_ids_ask_no_more_often(own: Issuer) -> None:
    clock = Clock()
    keys = SigningKeys(own.url, clock)
    for _ in range(3):
        ask(keys, own.token())
    assert own.asked == 1
    for n in range(100):  # a flood of ids that nobody has
        with pytest.raises(Unauthorized):
            ask(keys, jwt.encode({}, own.keys[KID], "RS256", {"kid": str(n)}))
    assert own.asked == 1
    own.rotate(KID, "key-2")
    clock.now += ASK_EVERY + 1
    assert ask(keys, own.token(kid="key-2")).email == ACCOUNT
    assert own.asked == 2
    own.rotate("key-2")  # the first one is withdrawn
    clock.now += KEYS_FRESH + 1
    assert ask(keys, own.token(kid="key-2")).email == ACCOUNT
    with pytest.raises(Unauthorized):
        ask(keys, own.token())
    assert own.asked == 3


def test_known_keys_outlive_a_short_outage_and_no_long_one(own: Issuer) -> None:
    clock = Clock()
    keys = SigningKeys(own.url, clock)
    ask(keys, own.token())
    own.down = True
    clock.now += KEYS_FRESH + 1
    assert ask(keys, own.token()).email == ACCOUNT
    assert keys.usable
    clock.now += KEYS_USABLE
    assert not keys.usable
    assert keys.kept(KID) is None


@pytest.mark.parametrize(
    "published", [{}, {"keys": []}, {"keys": 7}, {"keys": [7]}, [], "x", {"keys": [{"kty": "RSA"}] * 20_000}]
)
def test_an_answer_that_holds_no_keys_replaces_none(own: Issuer, published: Any) -> None:
    clock = Clock()
    keys = SigningKeys(own.url, clock)
    ask(keys, own.token())
    own.published = published
    clock.now += KEYS_FRESH + 1
    assert ask(keys, own.token()).email == ACCOUNT
    assert own.asked == 2


def settings(own: Issuer) -> Settings:
    return Settings(push_audiences=f"{AUDIENCE}, x", push_accounts=ACCOUNT, push_keys_url=own.url)  # type: ignore[arg-type]


def test_many_at_once_ask_for_the_keys_once(own: Issuer) -> None:
    threads = Threads()

    async def many() -> list[Caller]:
        tokens = PushTokens(settings(own), threads)
        assert tokens.configured
        return list(await asyncio.gather(*(tokens.verify(own.token()) for _ in range(50))))

    assert {who.email for who in asyncio.run(many())} == {ACCOUNT}
    assert own.asked == 1
    threads.close()


def test_without_any_keys_nobody_is_told_that_his_token_is_wrong(own: Issuer) -> None:
    threads = Threads()
    own.down = True

    async def one() -> Caller:
        return await PushTokens(settings(own), threads).verify(own.token())

    with pytest.raises(Unavailable) as raised:
        asyncio.run(one())
    assert isinstance(raised.value, AirlockError)
    assert raised.value.status == 503
    threads.close()
