"""OpenID Connect tokens as Google's services sign them: which keys are valid now, and whether a token is what it says.

OpenID Connect Core 1.0 section 3.1.3.7, RFC 8725 (JWT best current practices), and "Authentication for push
subscriptions" of the Pub/Sub documentation: RS256 only, by a key that the issuer publishes, and issuer, audience, time
and account are each checked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import Forbidden, Unauthorized, Unavailable
from pipeline.telemetry import logger

if TYPE_CHECKING:
    from jwt import PyJWK

log = logger(__name__)

GOOGLE_KEYS = "https://www.googleapis.com/oauth2/v3/certs"
GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")

LEEWAY = 30.0  # seconds that the signer's clock may differ from ours
TOKEN_CHARS = 8 << 10
_REMOVED = ".SIGNATURE_REMOVED_BY_GOOGLE"  # what the container gets where Cloud Run itself checks who calls

KEYS_FRESH = 3600.0  # seconds: Google publishes a new key hours before it signs by it
KEYS_USABLE = 86400.0  # seconds: as long as that, known keys do while the address does not answer
ASK_EVERY = 30.0  # seconds: whoever sends made-up key ids makes us ask no more often
KEYS_BYTES = 256 << 10
PATIENCE = 10.0  # seconds for the keys' address


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a verified token speaks for: a service account."""

    email: str
    subject: str


class SigningKeys:
    """The issuer's public keys by their id (RFC 7517), fetched when one is needed that is not known.

    `kept` and `due` look at memory only; `refresh` blocks. One refresh at a time is the caller's care.
    """

    def __init__(self, url: str = GOOGLE_KEYS, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched = float("-inf")
        self._asked = float("-inf")

    def kept(self, kid: str) -> PyJWK | None:
        """The key of this id, if it is known and still to be trusted."""
        return self._keys.get(kid) if self._clock() - self._fetched < KEYS_USABLE else None

    def due(self, kid: str) -> bool:
        """Whether it is worth asking again: the id is unknown, or the keys are old, and we did not ask just now."""
        now = self._clock()
        wanted = self.kept(kid) is None or now - self._fetched > KEYS_FRESH
        return wanted and now - self._asked > ASK_EVERY

    @property
    def usable(self) -> bool:
        """Whether any keys are known: without them nothing can be said of a token."""
        return self._clock() - self._fetched < KEYS_USABLE

    def refresh(self) -> None:
        """Fetch the keys. Where that fails the known ones stay, and the log says so."""
        self._asked = self._clock()
        try:
            self._keys = _fetched(self._url)
        except Exception as exc:  # noqa: BLE001 - whatever an address answers, there are no new keys
            log.warning("signing keys cannot be fetched", error=type(exc).__name__)
            return
        self._fetched = self._clock()


def _fetched(url: str) -> dict[str, PyJWK]:
    import httpx
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    body = bytearray()
    with httpx.stream("GET", url, timeout=PATIENCE, follow_redirects=False) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > KEYS_BYTES:
                raise ValueError("more than any set of keys")
    found: dict[str, PyJWK] = {}
    for each in json.loads(body)["keys"]:
        # Only what signs by RSA: a key of another kind under a known id must not be tried at all.
        if each.get("kty") == "RSA" and each.get("use", "sig") == "sig" and each.get("alg", "RS256") == "RS256":
            try:
                found[str(each["kid"])] = PyJWK(each, "RS256")
            except (PyJWTError, KeyError):
                continue
    if not found:
        raise ValueError("no keys that sign")
    return found


def key_id(token: str) -> str:
    """The id of the key that a token says it was signed by. Raises Unauthorized."""
    import jwt

    if len(token) > TOKEN_CHARS:
        raise refused("It is longer than any token of this kind.")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise refused("It is not a signed JSON Web Token.") from None
    if token.endswith(_REMOVED):
        raise refused("Cloud Run has removed its signature: let the service take requests without its own IAM check.")
    kid = header.get("kid")
    if header.get("alg") != "RS256" or not isinstance(kid, str):
        raise refused("It is not signed by RS256 with a named key.")
    return kid


def caller(
    token: str,
    key: PyJWK | None,
    *,
    audiences: Collection[str],
    accounts: Collection[str],
    issuers: Collection[str] = GOOGLE_ISSUERS,
) -> Caller:
    """Who sent the token, once every claim holds.

    Raises:
        Unauthorized: it was not signed by `key`, is over or not yet valid, or is meant for somebody else.
        Forbidden: it is sound, but of an account that is not one of `accounts`.
    """
    import jwt

    if key is None:
        raise refused("It is signed by a key that its issuer does not publish.")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=list(audiences),
            issuer=list(issuers),
            leeway=LEEWAY,
            options={"require": ["iss", "aud", "iat", "exp"], "enforce_minimum_key_length": True},
        )
    except jwt.InvalidTokenError as exc:
        raise refused(_WHY.get(type(exc).__name__, "Its signature or one of its claims is wrong.")) from None
    email = claims.get("email")
    if not isinstance(email, str) or claims.get("email_verified") is not True or email not in accounts:
        raise Forbidden("This token is not of a service account that may notify here.")
    return Caller(email, str(claims.get("sub", "")))


def unknown_keys() -> Unavailable:
    """For a caller who may well be right: nobody can tell now."""
    return Unavailable("The keys that tokens are signed by cannot be fetched now.")


_WHY: Mapping[str, str] = {
    "ExpiredSignatureError": "It has expired.",
    "ImmatureSignatureError": "It is not valid yet.",
    "InvalidAudienceError": "It is meant for another audience.",
    "InvalidIssuerError": "It is of another issuer.",
    "InvalidSignatureError": "Its signature is wrong.",
}


def refused(why: str) -> Unauthorized:
    """401 with the challenge of RFC 6750 section 3."""
    return Unauthorized(
        f"The OpenID Connect token cannot be accepted. {why}",
        _challenge='Bearer realm="airlock", error="invalid_token"',
    )
