"""A workload that reads the bucket itself: MODEL_BASE_URL, MODEL_BUCKET and MODEL_PREFIX say where, boto3's own variables
who. Prints one JSON object. Usage: bucket.py fetch|http|rights|facts [REPO [FOLDER]]
"""
import csv
import io
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

BASE, BUCKET, PREFIX = (os.environ[f"MODEL_{name}"] for name in ("BASE_URL", "BUCKET", "PREFIX"))
MARKER = ".hubgate-commit"


def client():
    import boto3
    from botocore.config import Config

    return boto3.client("s3", endpoint_url=BASE, config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}))


def keep(folder, path, body):
    file = Path(folder) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)


def fetch(repo, folder):
    """One commit's files by boto3: the marker is the same before and after."""
    s3, below = client(), f"{PREFIX}/{repo}/"
    before = s3.get_object(Bucket=BUCKET, Key=below + MARKER)["Body"].read()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=below):
        for key in (found["Key"] for found in page.get("Contents", [])):
            path = key.removeprefix(below)
            if path != MARKER and not path.startswith("@"):
                keep(folder, path, s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    after = s3.get_object(Bucket=BUCKET, Key=below + MARKER)["Body"].read()
    return {"same": before == after, "marker": json.loads(before)}


def url(path):
    return f"{BASE}/{BUCKET}/{urllib.parse.quote(f'{PREFIX}/{path}')}"


def http(repo, folder):
    """The same over plain HTTP, without any key: the catalogue names the files."""
    with urllib.request.urlopen(url("manifest.csv")) as answer:
        rows = list(csv.DictReader(io.TextIOWrapper(answer, "utf-8")))
    paths = [row["path"] for row in rows if row["repo"] == repo]
    for path in paths:
        with urllib.request.urlopen(url(f"{repo}/{path}")) as answer:
            keep(folder, path, answer.read())
    return {"files": len(paths)}


def facts(repo):
    """What the copies say of themselves."""
    s3, below, said = client(), f"{PREFIX}/{repo}/", {}
    for found in s3.list_objects_v2(Bucket=BUCKET, Prefix=below)["Contents"]:
        path = found["Key"].removeprefix(below)
        if path != MARKER:
            said[path] = s3.head_object(Bucket=BUCKET, Key=found["Key"])["Metadata"]
    return said


def outcome(work):
    from botocore.exceptions import ClientError

    try:
        answer = work()
        if isinstance(answer, dict) and answer.get("Errors"):
            return answer["Errors"][0]["Code"]
        return "ok"
    except ClientError as error:
        return error.response["Error"]["Code"]
    except urllib.error.HTTPError as error:
        return str(error.code)


def rights(repo):
    """What this key may do, and what anybody may do without one."""
    s3, file = client(), f"{PREFIX}/{repo}/config.json"
    plain = lambda path, method="GET": urllib.request.urlopen(urllib.request.Request(f"{BASE}/{BUCKET}{path}", b"x" if method == "PUT" else None, method=method))
    tries = {
        "read": lambda: s3.get_object(Bucket=BUCKET, Key=file),
        "list": lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{PREFIX}/{repo}/"),
        "write": lambda: s3.put_object(Bucket=BUCKET, Key=file, Body=b"mine"),
        "write beside": lambda: s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{repo}/mine", Body=b"mine"),
        "upload": lambda: s3.create_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}/{repo}/mine"),
        "copy": lambda: s3.copy_object(Bucket=BUCKET, Key=f"{PREFIX}/{repo}/mine", CopySource={"Bucket": BUCKET, "Key": file}),
        "delete": lambda: s3.delete_object(Bucket=BUCKET, Key=file),
        "delete many": lambda: s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": file}]}),
        "read the store": lambda: s3.get_object(Bucket=BUCKET, Key="hubgate/layout.json"),
        "list the store": lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix="hubgate/"),
        "list the bucket": lambda: s3.list_objects_v2(Bucket=BUCKET),
        "change the policy": lambda: s3.put_bucket_policy(Bucket=BUCKET, Policy="{}"),
        "plain read": lambda: plain(f"/{file}"),
        "plain write": lambda: plain(f"/{file}", "PUT"),
        "plain delete": lambda: plain(f"/{file}", "DELETE"),
        "plain list": lambda: plain(f"/?list-type=2&prefix={PREFIX}/"),
        "plain read of the store": lambda: plain("/hubgate/layout.json"),
    }
    return {name: outcome(work) for name, work in tries.items()}


print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
