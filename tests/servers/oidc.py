"""An OpenID Connect issuer of our own: signs tokens as Google does, and publishes its keys."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

AUDIENCE = "https://airlock.example/v1/notifications"
ACCOUNT = "pusher@acme.iam.gserviceaccount.com"
KID = "key-1"


class Issuer:
    """Holds private keys by their id. `published` is what its address answers; `down` has it answer 503."""

    def __init__(self) -> None:
        self.keys: dict[str, RSAPrivateKey] = {}
        self.published: dict[str, Any] = {"keys": []}
        self.asked = 0
        self.down = False
        self.url = ""
        self.rotate(KID)

    def rotate(self, *kids: str) -> None:
        """Sign by these keys from now on, and publish them and no others."""
        for kid in kids:
            self.keys.setdefault(kid, generate_private_key(65537, 2048))
        self.published = {"keys": [self.jwk(kid) for kid in kids]}

    def jwk(self, kid: str) -> dict[str, Any]:
        """The public half of a key."""
        public = RSAAlgorithm.to_jwk(self.keys[kid].public_key(), as_dict=True)
        return {**public, "kid": kid, "alg": "RS256", "use": "sig"}

    def token(self, *, kid: str = KID, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token that is right but for the changes; a claim that is None is left out."""
        now = int(time.time())
        claims = {
            "iss": "https://accounts.google.com",
            "aud": AUDIENCE,
            "azp": "113774264463038321964",
            "sub": "113774264463038321964",
            "email": ACCOUNT,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.keys[kid], "RS256", {"kid": kid, **(headers or {})})


@contextlib.contextmanager
def issuer() -> Iterator[Issuer]:
    """An issuer with one key, until the block ends."""
    made = Issuer()

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked += 1
            body = json.dumps(made.published).encode()
            self.send_response(503 if made.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        made.url = f"http://127.0.0.1:{server.server_port}/certs"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
