"""A real RabbitMQ node with its own name, folders, cookie, ports and port mapper. About six seconds to start."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import accepts, free_port, need, running

# Debian's `rabbitmq-server` on PATH changes the user and its folders; the script that it wraps does neither.
UNWRAPPED = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@contextlib.contextmanager
def rabbitmq(tmp: Path) -> Iterator[str]:
    """The URL of a broker that ends with the block."""
    how = "apt-get install rabbitmq-server"
    epmd = need("epmd", how)
    server = str(UNWRAPPED) if UNWRAPPED.exists() else need("rabbitmq-server", how)
    folder = tmp / "rabbitmq"
    folder.mkdir(parents=True, exist_ok=True)
    amqp, dist, mapper = free_port(), free_port(), free_port()
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
        "loopback_users = none\n"
        "vm_memory_high_watermark.absolute = 512MB\n"
        "disk_free_limit.absolute = 10MB\n"
    )
    (folder / "enabled_plugins").write_text("[].\n")
    env = {
        "HOME": str(folder),  # the cookie lies here
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"airlock-{os.getpid()}-{amqp}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        # One scheduler thread and no busy waiting: tests share the machine's cores.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
    }
    # A port mapper of our own, in front: the one that Erlang would start by itself outlives it.
    with (
        running([epmd, "-port", str(mapper)], lambda: accepts(mapper), log=tmp / "epmd.log", env=env),
        running([server], lambda: answers(amqp), log=tmp / "rabbitmq.log", env=env),
    ):
        yield f"amqp://guest:guest@127.0.0.1:{amqp}//"


def answers(port: int) -> bool:
    """Whether a broker on that loopback port opens a connection: the port alone listens a little too early."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
        sock.settimeout(2)
        sock.sendall(b"AMQP\x00\x00\x09\x01")
        return sock.recv(1) == b"\x01"  # a method frame: connection.start
    return False
