"""deploy/lambda against the code and against cfn-lint, which knows what CloudFormation takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ingest_api import serverless
from pipeline.platforms import LAMBDA, must_last
from pipeline.settings import QueueKind, Settings
from tests.servers.process import need

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "lambda"
TEMPLATE = FOLDER / "template.yaml"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()


class Tolerant(yaml.SafeLoader):
    """Reads CloudFormation's short forms (`!Ref x`) as what stands behind them."""


def _short(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    match node:
        case yaml.ScalarNode():
            return loader.construct_scalar(node)
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]


Tolerant.add_multi_constructor("!", _short)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Tolerant)
    return loaded


@pytest.fixture(scope="module")
def resources(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = template["Resources"]
    return found


def functions(resources: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::Serverless::Function"}


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    checker = need("cfn-lint", "pip install cfn-lint", str(Path(sys.executable).parent))
    return subprocess.run([checker, "--regions", "eu-west-1", "--", str(path)], capture_output=True, text=True)


def test_cfn_lint_finds_nothing(tmp_path: Path) -> None:
    done = lint(TEMPLATE)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "template.yaml"
    wrong.write_text("Resources: {A: {Type: 'AWS::S3::Bucket', Properties: {Nonsense: 1}}}")
    assert lint(wrong).returncode != 0


def test_nothing_in_it_is_what_cloudformation_does_not_read() -> None:
    # "Format conventions" of its guide: no anchors, no aliases, no merges.
    assert not re.search(r"(^|[\s:\[{,-])[&*][A-Za-z]|<<:", re.sub(r"#.*|\".*?\"", "", TEMPLATE.read_text()))


def test_every_variable_is_a_setting_and_they_can_be_used(
    template: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {f"AIRLOCK_{name.upper()}" for name in Settings.model_fields}
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    assert variables.keys() <= known
    assert set(re.findall(r"\bAIRLOCK_[A-Z][A-Z_]*[A-Z]\b", DOCKERFILE)) <= known
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value).replace("${AWS::AccountId}-${AWS::Region}", "1-eu-west-1"))
    settings = Settings()
    must_last(settings, LAMBDA)
    assert settings.queue is QueueKind.SQS
    assert settings.quarantine_url == "s3://airlock-quarantine-1-eu-west-1"


def test_every_function_is_there(resources: dict[str, dict[str, Any]]) -> None:
    commands = {name: one["ImageConfig"]["Command"] for name, one in functions(resources).items()}
    assert commands.keys() == {"Http", "Worker", "Landing", "Sweep", "Migrate"}
    for (command,) in commands.values():
        module, _, name = command.rpartition(".")
        assert module == "ingest_api.serverless"
        assert callable(getattr(serverless, name))
    assert re.search(r'^CMD \["ingest_api\.serverless\.handler"\]$', DOCKERFILE, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["python", "-m", "awslambdaric"\]$', DOCKERFILE, re.MULTILINE)
    assert re.search(r"^awslambdaric==", (FOLDER / "lambda.lock").read_text(), re.MULTILINE)


def test_a_message_is_hidden_for_as_long_as_a_function_may_take(resources: dict[str, dict[str, Any]]) -> None:
    queues = {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::SQS::Queue"}
    mapped = {
        event["Properties"]["Queue"].partition(".")[0]: (event["Properties"], function)
        for function in functions(resources).values()
        for event in function.get("Events", {}).values()
        if event["Type"] == "SQS"
    }
    assert mapped.keys() == {"Work", "Landed"}
    for name, (event, function) in mapped.items():
        assert queues[name]["VisibilityTimeout"] >= 6 * function["Timeout"]
        assert queues[name]["RedrivePolicy"]["deadLetterTargetArn"] == "Dead.Arn"
        assert event["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert all(queue["SqsManagedSseEnabled"] for queue in queues.values())


@pytest.mark.parametrize("name", ["Quarantine", "Serving"])
def test_no_bucket_is_open(resources: dict[str, dict[str, Any]], name: str) -> None:
    bucket = resources[name]["Properties"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert resources[name]["DeletionPolicy"] == "Retain"
    # A rule that ends current versions would end documents that still wait.
    for rule in bucket["LifecycleConfiguration"]["Rules"]:
        assert not {"Expiration", "ExpirationInDays", "ExpirationDate"} & rule.keys()
    (policy,) = [
        one["Properties"]["PolicyDocument"]["Statement"]
        for one in resources.values()
        if one["Type"] == "AWS::S3::BucketPolicy" and one["Properties"]["Bucket"] == name
    ]
    assert {statement["Effect"] for statement in policy} == {"Deny"}
    assert any(statement["Sid"] == "NothingWithoutTls" for statement in policy)


def test_the_bucket_may_tell_its_queue_and_nobody_else_may(resources: dict[str, dict[str, Any]]) -> None:
    (told,) = resources["Quarantine"]["Properties"]["NotificationConfiguration"]["QueueConfigurations"]
    assert told == {"Event": "s3:ObjectCreated:*", "Queue": "Landed.Arn"}
    assert resources["Quarantine"]["DependsOn"] == "LandedPolicy"
    (statement,) = resources["LandedPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    name = resources["Quarantine"]["Properties"]["BucketName"]
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"].endswith(f":s3:::{name}")
    assert "aws:SourceAccount" in statement["Condition"]["StringEquals"]


# What each call of boto3 asks for ("Actions, resources and condition keys for Amazon S3").
ACTIONS = {
    "put_object": {"s3:PutObject"},
    "create_multipart_upload": {"s3:PutObject"},
    "upload_part": {"s3:PutObject"},
    "upload_part_copy": {"s3:PutObject", "s3:GetObject", "s3:GetObjectVersion"},
    "complete_multipart_upload": {"s3:PutObject"},
    "copy_object": {"s3:PutObject", "s3:GetObject", "s3:GetObjectVersion"},
    "abort_multipart_upload": {"s3:AbortMultipartUpload"},
    "list_parts": {"s3:ListMultipartUploadParts"},
    "list_multipart_uploads": {"s3:ListBucketMultipartUploads"},
    "get_object": {"s3:GetObject", "s3:GetObjectVersion"},
    "head_object": {"s3:GetObject", "s3:GetObjectVersion"},
    "delete_object": {"s3:DeleteObject", "s3:DeleteObjectVersion"},
    "head_bucket": {"s3:ListBucket"},
    "list_objects_v2": {"s3:ListBucket"},
    "list_object_versions": {"s3:ListBucketVersions"},
    "get_bucket_versioning": {"s3:GetBucketVersioning"},
}
# Of `airlock buckets create`, which the template does instead; and what is no call.
NOT_AT_WORK = {
    "create_bucket",
    "put_bucket_cors",
    "delete_bucket_cors",
    "get_bucket_cors",
    "generate_presigned_url",
    "generate_presigned_post",
    "get_paginator",
    "meta",
}


def calls() -> set[str]:
    """The calls that the S3 adapter makes."""
    text = "".join(path.read_text() for path in (ROOT / "pipeline/storage").glob("*.py"))
    return set(re.findall(r"\bclient\.([a-z_0-9]+)", text)) & {*ACTIONS, *NOT_AT_WORK} | set(
        re.findall(r"get_paginator\(\s*\"([a-z_0-9]+)\"", text)
    )


def allowed(role: dict[str, Any], place: str) -> set[str]:
    found: set[str] = set()
    for policy in role["Properties"].get("Policies", []):
        for statement in policy["PolicyDocument"]["Statement"]:
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            if any(place in resource for resource in resources):
                actions = statement["Action"]
                found |= set(actions if isinstance(actions, list) else [actions])
    return found


def test_each_role_has_what_its_functions_do_and_nothing_else(resources: dict[str, dict[str, Any]]) -> None:
    used = calls()
    assert {"copy_object", "head_object", "list_object_versions", "put_object"} <= used
    asks = set().union(*(ACTIONS[call] for call in used - NOT_AT_WORK))
    work, http = resources["WorkRole"], resources["HttpRole"]
    for place in ("airlock-quarantine", "airlock-serving"):
        assert allowed(work, place) == asks, place
    assert allowed(http, "airlock-quarantine") == asks
    # It hands out what is served, and changes none of it.
    assert allowed(http, "airlock-serving") == {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"}
    assert allowed(http, "Work.Arn") == {"sqs:SendMessage", "sqs:GetQueueAttributes"}
    text = TEMPLATE.read_text()
    assert not re.search(r"Action: *\"?(\*|\[\"?\*)", text)
    assert text.count('"s3:*"') == 2  # both in statements that deny
    assert "Policies" not in resources["MigrateRole"]["Properties"]
