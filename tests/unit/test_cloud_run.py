"""deploy/cloud-run against the code and what Cloud Run takes; its two commands against a gcloud that takes notes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.platforms import CLOUD_RUN, must_last
from pipeline.settings import QueueKind, Settings
from tests.servers.process import need
from tests.unit.test_compose import parses

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "cloud-run"
VALUES = {
    "PROJECT": "acme-prod",
    "REGION": "europe-west1",
    "NUMBER": "123456789012",
    "SQL": "acme-prod:europe-west1:airlock",
    "IMAGE": "europe-west1-docker.pkg.dev/acme-prod/airlock/airlock:1",
}
SERVICES = ("api.service.yaml", "worker.service.yaml")
JOBS = ("migrate.job.yaml", "signatures.job.yaml")


def filled(name: str) -> str:
    """The file as deploy.sh fills it in."""
    return re.sub(r"\$\{([A-Z]+)\}", lambda match: VALUES[match[1]], (FOLDER / name).read_text())


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled(name))
    return found


def pod_of(name: str) -> dict[str, Any]:
    """The part that has the containers."""
    template: dict[str, Any] = loaded(name)["spec"]["template"]["spec"]
    return template if name in SERVICES else dict(template["template"]["spec"])


def ours(name: str) -> dict[str, Any]:
    """The container that runs our image."""
    return next(one for one in pod_of(name)["containers"] if one["image"] == VALUES["IMAGE"])


def environment_of(name: str) -> dict[str, str]:
    return {
        entry["name"]: entry.get("value", "postgresql://u:p@/n?host=/cloudsql/x") for entry in ours(name).get("env", [])
    }


# --- Against the code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SERVICES, "migrate.job.yaml"])
def test_every_variable_is_a_setting_and_every_command_exists(name: str) -> None:
    known = {f"AIRLOCK_{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"\bAIRLOCK_[A-Z][A-Z_]*[A-Z]\b", (FOLDER / name).read_text())) <= known
    parses(ours(name)["args"])


@pytest.mark.parametrize("name", SERVICES)
def test_the_settings_can_be_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in environment_of(name).items():
        monkeypatch.setenv(variable, value)
    settings = Settings()
    must_last(settings, CLOUD_RUN)
    assert settings.queue is QueueKind.PUBSUB
    assert settings.scans is (name == "worker.service.yaml")
    # Ten seconds are given behind SIGTERM.
    assert settings.drain_seconds + 1 < 10
    if settings.scans:
        assert settings.clamd_url == "tcp://127.0.0.1:3310"


def test_every_address_that_is_pushed_to_is_a_route_that_takes_a_token() -> None:
    from ingest_api import notifications, tasks

    routes = {route.path for module in (notifications, tasks) for route in module.router.routes}  # type: ignore[attr-defined]
    pushed = {
        flags["--push-endpoint"] for flags in (loaded(f"{name}.subscription.yaml") for name in ("run", "landed"))
    } | {loaded(f"{name}.schedule.yaml")["--uri"] for name in ("sweep", "reconcile")}
    for url in pushed:
        host, path = re.fullmatch(
            r"https://([a-z-]+)-123456789012\.europe-west1\.run\.app(/[^?]*)(?:\?.*)?", url
        ).groups()  # type: ignore[union-attr]
        assert path in routes
        assert f"{host.removeprefix('airlock-')}.service.yaml" in SERVICES
    for name in ("run.subscription", "landed.subscription"):
        flags = loaded(f"{name}.yaml")
        told = environment_of("api.service.yaml")
        assert flags["--push-auth-token-audience"] == told["AIRLOCK_PUSH_AUDIENCES"]
        assert flags["--push-auth-service-account"] == told["AIRLOCK_PUSH_ACCOUNTS"]
    for name in ("sweep.schedule", "reconcile.schedule"):
        flags = loaded(f"{name}.yaml")
        told = environment_of("worker.service.yaml")
        assert flags["--oidc-token-audience"] == told["AIRLOCK_PUSH_AUDIENCES"]
        assert flags["--oidc-service-account-email"] == told["AIRLOCK_PUSH_ACCOUNTS"]


# --- Against Cloud Run: "YAML reference", "Container health checks", "Memory limits" and "CPU limits" of its guide ---

SERVICE_ANNOTATIONS = {"run.googleapis.com/ingress", "run.googleapis.com/invoker-iam-disabled"}
REVISION_ANNOTATIONS = {
    "autoscaling.knative.dev/minScale",
    "autoscaling.knative.dev/maxScale",
    "run.googleapis.com/execution-environment",
    "run.googleapis.com/startup-cpu-boost",
    "run.googleapis.com/cpu-throttling",
    "run.googleapis.com/cloudsql-instances",
    "run.googleapis.com/container-dependencies",
}
CONTAINER_FIELDS = {
    *("name", "image", "command", "args", "env", "ports", "resources", "startupProbe", "livenessProbe", "volumeMounts"),
}
LEAST_MEMORY = {"1": 512, "2": 512, "4": 2048, "8": 4096}  # MiB, second generation


def mebibytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([MG])i", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "G" else 1)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_one_that_cloud_run_takes(name: str) -> None:
    service = loaded(name)
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    assert service["metadata"]["name"] == f"airlock-{name.partition('.')[0]}"
    assert service["metadata"]["annotations"].keys() <= SERVICE_ANNOTATIONS
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    assert annotations.keys() <= REVISION_ANNOTATIONS
    assert all(
        isinstance(value, str) for value in [*annotations.values(), *service["metadata"]["annotations"].values()]
    )
    assert int(annotations["autoscaling.knative.dev/minScale"]) <= int(annotations["autoscaling.knative.dev/maxScale"])
    pod = pod_of(name)
    assert pod.keys() <= {"serviceAccountName", "containerConcurrency", "timeoutSeconds", "containers", "volumes"}
    assert 1 <= pod["containerConcurrency"] <= 1000
    assert 1 <= pod["timeoutSeconds"] <= 3600
    assert sum("ports" in container for container in pod["containers"]) == 1
    names = {container["name"] for container in pod["containers"]}
    needed = json.loads(annotations.get("run.googleapis.com/container-dependencies", "{}"))
    assert {one for each in needed.items() for one in (each[0], *each[1])} <= names
    # Who is waited for must say when it is there.
    for one in {one for others in needed.values() for one in others}:
        assert "startupProbe" in next(container for container in pod["containers"] if container["name"] == one)


@pytest.mark.parametrize("name", [*SERVICES, *JOBS])
def test_each_container_is_one_that_cloud_run_takes(name: str) -> None:
    pod = pod_of(name)
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    used: set[str] = set()
    for container in pod["containers"]:
        assert container.keys() <= CONTAINER_FIELDS
        limits = container["resources"]["limits"]
        assert mebibytes(limits["memory"]) >= LEAST_MEMORY[limits["cpu"]]
        for kind in ("startupProbe", "livenessProbe"):
            probe = container.get(kind)
            if probe is None:
                continue
            assert probe["timeoutSeconds"] <= probe["periodSeconds"] <= 240
            assert kind != "startupProbe" or probe["failureThreshold"] * probe["periodSeconds"] <= 240
            assert sum(way in probe for way in ("httpGet", "tcpSocket", "grpc")) == 1
        mounts = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
        assert len(mounts) == len(container.get("volumeMounts", []))
        used |= {mount["name"] for mount in container.get("volumeMounts", [])}
    assert used == volumes.keys()
    # A secret is mounted as a folder of its own: two in one place would hide each other.
    assert all(sum(kind in volume for kind in ("secret", "csi", "emptyDir")) == 1 for volume in volumes.values())


def test_the_health_checks_ask_what_is_served() -> None:
    from ingest_api.health import router

    paths = {route.path for route in router.routes}  # type: ignore[attr-defined]
    for name in SERVICES:
        for kind in ("startupProbe", "livenessProbe"):
            assert ours(name)[kind]["httpGet"]["path"] in paths


def test_the_scanner_sits_beside_with_the_limits_that_are_checked() -> None:
    pod = pod_of("worker.service.yaml")
    clamd = next(container for container in pod["containers"] if container["name"] == "clamd")
    told = environment_of("worker.service.yaml")
    conf = next(mount["mountPath"] for mount in clamd["volumeMounts"] if mount["name"] == "clamd")
    assert told["AIRLOCK_CLAMD_CONF"] == f"{conf}/clamd.conf"
    assert f"--config-file={conf}/clamd.conf" in clamd["args"]
    text = (ROOT / "deploy/compose/clamd.conf").read_text()
    signatures = next(mount["mountPath"] for mount in clamd["volumeMounts"] if mount["name"] == "signatures")
    assert re.search(rf"^DatabaseDirectory {signatures}$", text, re.MULTILINE)
    assert "../compose/clamd.conf" in (FOLDER / "deploy.sh").read_text()


@pytest.mark.parametrize("name", ["run.subscription.yaml", "landed.subscription.yaml"])
def test_a_subscription_is_within_pubsubs_bounds(name: str) -> None:
    flags = loaded(name)
    assert 10 <= flags["--ack-deadline"] <= 600
    assert 5 <= flags["--max-delivery-attempts"] <= 100
    assert flags["--max-retry-delay"] == "600s"
    assert flags["--expiration-period"] == "never"
    # While a document is worked on, its message is pushed again and again: the service must not give up before.
    assert pod_of("worker.service.yaml")["timeoutSeconds"] >= 600


# --- Roles ----------------------------------------------------------------------------------------------------------


def grants() -> list[tuple[str, str, str, str]]:
    lines = [line.partition("#")[0].split() for line in (FOLDER / "roles.txt").read_text().splitlines()]
    return [(kind, resource, who, role) for kind, resource, who, role in filter(None, lines)]


def test_each_account_has_what_its_containers_use_and_nothing_else() -> None:
    users = {name: pod_of(name)["serviceAccountName"].partition("@")[0] for name in (*SERVICES, *JOBS)}
    for name, account in users.items():
        secrets = {
            entry["valueFrom"]["secretKeyRef"]["name"]
            for container in pod_of(name)["containers"]
            for entry in container.get("env", [])
            if "valueFrom" in entry
        } | {volume["secret"]["secretName"] for volume in pod_of(name).get("volumes", []) if "secret" in volume}
        granted = {resource for kind, resource, who, _ in grants() if (kind, who) == ("secret", account)}
        assert granted == secrets, name
        buckets = set(re.findall(r"acme-prod-(airlock-[a-z]+)", filled(name)))
        granted = {resource for kind, resource, who, _ in grants() if (kind, who) == ("bucket", account)}
        assert granted == buckets, name
        topics = set(re.findall(r"pubsub://acme-prod/(airlock-[a-z]+)", filled(name)))
        granted = {resource for kind, resource, who, _ in grants() if (kind, who) == ("topic", account)}
        assert granted == topics, name
    # Whoever signs tokens may do nothing, and nobody may do everything.
    assert not [who for _, _, who, _ in grants() if who == "airlock-push"]
    assert not [role for *_, role in grants() if re.search(r"roles/(owner|editor|viewer)$|[aA]dmin$", role)]
    assert {resource for kind, resource, *_ in grants() if kind == "project"} == {"-"}
    assert {role for kind, _, _, role in grants() if kind == "project"} == {"roles/cloudsql.client"}
    # The API reads what is served and changes none of it.
    assert [role for _, resource, who, role in grants() if (resource, who) == ("airlock-serving", "airlock-api")] == [
        "roles/storage.objectViewer"
    ]


# --- The two commands -------------------------------------------------------------------------------------------------

GCLOUD = """#!/bin/sh
# Writes down what it was asked, and knows nothing but what was made before.
printf '%s\\n' "$*" >>"$LOG"
case " $* " in
*" projects describe "*) echo 123456789012 ;;
*" describe "*) [ -n "${THERE:-}" ] ;;
*" notifications list "*) [ -z "${THERE:-}" ] || echo "topic: //pubsub/projects/x/topics/airlock-landed" ;;
*" versions access "*) cat "$SECRET" ;;
*" add-iam-policy-binding "*) echo "a policy that nobody reads" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Mapping[str, str]:
    """A copy of the files, and a gcloud in front of any other."""
    for folder in ("cloud-run", "compose"):
        shutil.copytree(ROOT / "deploy" / folder, tmp_path / "deploy" / folder)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gcloud").write_text(GCLOUD)
    (programs / "gcloud").chmod(0o755)
    need("openssl", "apt-get install openssl")
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "SECRET": str(tmp_path / "deploy/compose/clamd.conf"),
        "TMPDIR": str(tmp_path),
        "PROJECT": VALUES["PROJECT"],
        "REGION": VALUES["REGION"],
        "SQL": VALUES["SQL"],
        "IMAGE": VALUES["IMAGE"],
    }


def run(command: str, machine: Mapping[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    script = Path(machine["TMPDIR"]) / "deploy/cloud-run/deploy.sh"
    return subprocess.run(
        [str(script), command], env={**machine, **more}, capture_output=True, text=True, timeout=60, cwd="/"
    )


def asked(machine: Mapping[str, str]) -> list[str]:
    return Path(machine["LOG"]).read_text().splitlines()


def test_set_up_makes_everything_once_and_grants_every_role(machine: Mapping[str, str]) -> None:
    done = run("set-up", machine, DATABASE_URL="postgresql://u:p@/n?host=/cloudsql/x")
    assert done.returncode == 0, done.stderr
    calls = asked(machine)
    for what in (
        "service-accounts",
        "storage buckets",
        "pubsub topics",
        "pubsub subscriptions",
        "scheduler jobs",
        "secrets",
    ):
        assert [call for call in calls if f"{what} create " in call], what
    accounts = {call.split()[-1] for call in calls if "service-accounts create " in call}
    assert {who for *_, who, _ in grants() if not who.startswith("@")} <= accounts
    bound = [call for call in calls if "add-iam-policy-binding" in call]
    assert len(bound) == len(grants())
    for _, resource, who, role in grants():
        member = f"{who.strip('@')}@acme-prod.iam" if not who.startswith("@") else f"service-123456789012{who}.iam"
        assert [call for call in bound if f"--member=serviceAccount:{member}" in call and f"--role={role}" in call], who
        assert resource == "-" or [call for call in bound if resource in call], resource
    flags = [word for call in calls for word in call.split() if word.startswith("--flags-file=")]
    assert len(flags) == 5
    # No secret went over a command line, and nothing is left of them here.
    assert "u:p@" not in "\n".join(calls)
    assert not [path for path in Path(machine["TMPDIR"]).iterdir() if path.name.startswith("tmp.")]


def test_set_up_again_changes_nothing_that_is_there(machine: Mapping[str, str]) -> None:
    done = run("set-up", machine, THERE="yes")
    assert done.returncode == 0, done.stderr
    made = [call for call in asked(machine) if re.search(r" (create|versions add) ", call)]
    assert made == []
    changed = Path(machine["SECRET"])
    again = changed.with_name("other")
    again.write_text("MaxFiles 1\n")
    done = run("set-up", {**machine, "SECRET": str(again)}, THERE="yes")
    assert done.returncode == 0, done.stderr
    made = [call for call in asked(machine) if re.search(r" (create|versions add) ", call)]
    assert [call.split(" --")[-2] for call in made if "airlock-clamd-conf" in call]
    assert len(made) == 1


def test_set_up_stops_before_it_keeps_a_secret_that_is_none(machine: Mapping[str, str]) -> None:
    done = run("set-up", machine)
    assert done.returncode != 0
    assert "the URL of the database" in done.stderr
    assert not [call for call in asked(machine) if "secrets create airlock-database-url" in call]


def test_release_migrates_before_it_starts_what_needs_it(machine: Mapping[str, str]) -> None:
    done = run("release", machine)
    assert done.returncode == 0, done.stderr
    steps = [
        next(
            name
            for name in ("submit", "jobs replace", "jobs execute airlock-migrate", "services replace")
            if name in call
        )
        for call in asked(machine)
        if "projects describe" not in call
    ]
    assert steps == ["submit", "jobs replace", "jobs execute airlock-migrate", "services replace", "services replace"]


@pytest.mark.parametrize("missing", ["PROJECT", "REGION", "SQL"])
def test_what_is_missing_is_said(machine: Mapping[str, str], missing: str) -> None:
    done = run("release", {name: value for name, value in machine.items() if name != missing})
    assert done.returncode != 0
    assert missing in done.stderr
    assert run("nonsense", machine).returncode != 0


def test_the_script_is_sound() -> None:
    checker = need("shellcheck", "apt-get install shellcheck")
    done = subprocess.run([checker, str(FOLDER / "deploy.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
