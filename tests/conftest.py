"""Servers that tests share: each starts once a session, when a test first asks for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.servers.gcs_double import GCSDouble, gcs_double
from tests.servers.mariadb import Installation, installation
from tests.servers.moto import Moto, moto
from tests.servers.postgres import Cluster, cluster
from tests.servers.pubsub import PubSub, pubsub
from tests.servers.rabbitmq import rabbitmq
from tests.servers.redis import redis
from tests.servers.seaweedfs import S3Server, seaweedfs


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that tests share: use key prefixes or databases of your own."""
    with redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A RabbitMQ that tests share: use queue names of your own."""
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL that tests share: make a database of your own."""
    with cluster(tmp_path_factory.mktemp("postgres")) as server, server.started():
        yield server


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A MariaDB that tests share: make a database of your own."""
    with installation(tmp_path_factory.mktemp("mariadb")) as server, server.started():
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One SeaweedFS for the whole run; its credentials are in the environment, where the SDK looks for them."""
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment().items():
            environment.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GCSDouble]:
    """One double for the whole run; its key file is in the environment, where the SDK looks for it."""
    with gcs_double(tmp_path_factory.mktemp("gcs")) as double, pytest.MonkeyPatch.context() as environment:
        for name, value in double.environment().items():
            environment.setenv(name, value)
        yield double


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """One moto for the whole run: S3 whose events reach SQS."""
    with moto(tmp_path_factory.mktemp("moto")) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment().items():
            environment.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def pubsub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSub]:
    """One Pub/Sub emulator for the whole run, where there is one."""
    with pubsub(tmp_path_factory.mktemp("pubsub")) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment().items():
            environment.setenv(name, value)
        yield server


@pytest.fixture(autouse=True, scope="session")
def _quiet_logs() -> None:
    """What a failing test needs to know is in its assertion; a thousand INFO lines above it are not."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
