"""The publish view on a real MinIO: hubgate with its shipped bucket policy, workloads with theirs, and the shipped hook
with the real cosign. What a workload fetched is then loaded by transformers and safetensors.
"""
import hashlib
import json
import shutil
import subprocess
import urllib.parse
from contextlib import ExitStack
from pathlib import Path

import flows
from play import Result
from repos import POLICY
from suites import closing, s3_settings, upstream_settings
from world import CACHE, CLEAN, HERE, ROOT, Broken, Gateway, Script, StandIn, fetch, free_ports

MODEL, DATA = flows.TINY, "datasets/extra/table"
PREFIX = "mirrors/hf"
COSIGN = CACHE / "bin" / "cosign"
LOAD = """
import json, sys
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, local_files_only=True)
AutoTokenizer.from_pretrained(folder, local_files_only=True)
print(json.dumps({"type": config.model_type, "tensors": len(load_file(folder + "/model.safetensors"))}))
"""


def ran(command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=180, **more)
    return done.returncode, done.stdout + done.stderr


class Workload:
    """Processes that know the bucket, and nothing of hubgate."""

    def __init__(self, endpoint):
        self.env = CLEAN | {
            "MODEL_BASE_URL": endpoint, "MODEL_BUCKET": "models", "MODEL_PREFIX": PREFIX, "NO_PROXY": "127.0.0.1",
            "AWS_ACCESS_KEY_ID": "workload", "AWS_SECRET_ACCESS_KEY": "workload-secret-key", "AWS_DEFAULT_REGION": "us-east-1",
        }

    def ask(self, *words):
        code, said = ran([CACHE / "venv/s3/bin/python", HERE / "py/bucket.py", *words], env=self.env)
        try:
            return json.loads(said) if code == 0 else said
        except ValueError:
            return said


def files(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).rglob("*") if path.is_file()}


def differs(found, expected):
    return "" if found == expected else f"found {found}, expected {expected}"


def hook(folder):
    """The shipped hook with a key of its own; env(1) gives it the real cosign."""
    (folder / "sboms").mkdir()
    key = folder / "cosign.key"
    key.with_suffix(".key.password").write_text("pass word")
    code, said = ran([COSIGN, "generate-key-pair"], cwd=folder, env=CLEAN | {"COSIGN_PASSWORD": "pass word"})
    if code:
        raise Broken(f"cosign makes no key: {said}")
    path = f"PATH={COSIGN.parent}:{CLEAN['PATH']}"
    return ["/usr/bin/env", path, str(ROOT / "deploy/hooks/sbom-and-attest.sh"), str(folder / "sboms"), str(key)]


def bucket(run):
    """Publishes to a real MinIO, for workloads that read the bucket with boto3 and plain HTTP; hooks with real cosign."""
    folder = run.folder / "bucket"
    folder.mkdir()
    with ExitStack() as stack:
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos)))
        script = Script("minio", folder / "minio", free_ports(2))
        stack.callback(script.stop)
        said = json.loads(script.said)
        settings = upstream_settings(standin) | s3_settings(said, folder)
        settings |= {"publish.prefix": PREFIX, "publish.repos": [MODEL, DATA], "hooks.commit_complete": hook(folder)}
        gateway = stack.enter_context(closing(Gateway(run.hubgate, folder, settings, POLICY)))
        hubgate = lambda *words: ran([run.hubgate, *words, "--config", gateway.config], env=CLEAN, cwd=folder)
        result = lambda flow, problem, phase="bucket": Result("workload", flow, phase, 0, problem)

        for kind, repo in (("model", MODEL), ("dataset", DATA.removeprefix("datasets/"))):
            for name in run.oracle.names(repo, kind=kind):
                fetch(f"{gateway.url}/{'datasets/' if kind == 'dataset' else ''}{repo}/resolve/main/{urllib.parse.quote(name)}")
        code, told = hubgate("publish")
        yield Result("hubgate", "publish", "bucket", 0, "" if code == 0 else told)
        workload = Workload(said["endpoint"])
        commit, expected = run.oracle.commit(MODEL), run.oracle.files(MODEL)

        fetched = workload.ask("fetch", MODEL, folder / "boto3")
        right = isinstance(fetched, dict) and fetched["same"] and fetched["marker"]["commit"] == commit
        yield result("boto3", differs(files(folder / "boto3"), expected) if right else f"{fetched}")
        yield result("dataset", differs(workload.ask("fetch", DATA, folder / "data") and files(folder / "data"), run.oracle.files("extra/table", kind="dataset")))
        yield result("facts", differs(workload.ask("facts", MODEL), {
            path: {"sha256": sha256, "commit": commit, "repo": MODEL, "license": "apache-2.0"} for path, sha256 in expected.items()
        }))

        denied = {name: "AccessDenied" for name in ("write", "write beside", "upload", "copy", "delete", "delete many", "read the store", "list the store", "list the bucket", "change the policy")}
        plain = {name: "403" for name in ("plain read", "plain write", "plain delete", "plain list", "plain read of the store")}
        yield result("rights", differs(workload.ask("rights", MODEL), {"read": "ok", "list": "ok"} | denied | plain))
        mc = [CACHE / "bin/mc", "--config-dir", folder / "minio/mc", "anonymous", "set-json", ROOT / "policy/bucket/anonymous.json", "local/models"]
        code, told = ran(mc)
        if code:
            raise Broken(f"mc: {told}")
        yield result("rights with plain HTTP", differs(workload.ask("rights", MODEL), {"read": "ok", "list": "ok"} | denied | plain | {"plain read": "ok"}))
        yield result("plain HTTP", differs(workload.ask("http", MODEL, folder / "http"), {"files": len(expected)}) or differs(files(folder / "http"), expected))
        for way in ("boto3", "http"):
            code, told = ran([CACHE / "venv/tf5/bin/python", "-c", LOAD, folder / way], env=CLEAN | {"HF_HUB_OFFLINE": "1"})
            # Libraries have their own lines to say.
            loaded = [json.loads(line) for line in told.splitlines() if line.startswith("{")] if code == 0 else []
            yield result(f"load ({way})", "" if loaded and loaded[0]["tensors"] else told)

        yield from attested(folder, commit, expected)
        code, told = hubgate("publish", "--unpublish", MODEL)
        yield Result("hubgate", "unpublish", "bucket", 0, "" if code == 0 else told)
        gone = workload.ask("fetch", MODEL, folder / "gone")
        yield result("unpublished", "" if "NoSuchKey" in str(gone) else f"{gone}")
        gateway.stop()
        yield Result("hubgate", "(verify)", "after", 0, gateway.verify())


def attested(folder, commit, expected):
    """The hook's work, as an auditor checks it: cosign's verdict, the schema, the digests, and a changed SBOM."""
    place = folder / "sboms/models" / MODEL / commit
    verify = [ROOT / "deploy/hooks/verify.sh", place, folder / "cosign.pub"]
    env = CLEAN | {"PATH": f"{COSIGN.parent}:{CLEAN['PATH']}"}
    code, told = ran(verify, env=env)
    yield Result("auditor", "cosign verifies", "hook", 0, "" if code == 0 else told)
    if code:
        return
    check = "import sys\nfrom cyclonedx.schema import SchemaVersion\nfrom cyclonedx.validation.json import JsonStrictValidator\nprint(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()) or 'valid')"
    code, told = ran([CACHE / "venv/s3/bin/python", "-c", check, place / "sbom.cdx.json"], env=CLEAN)
    yield Result("auditor", "CycloneDX 1.6", "hook", 0, "" if told.strip() == "valid" else told)
    components = json.loads((place / "sbom.cdx.json").read_text())["components"]
    yield Result("auditor", "digests", "hook", 0, differs({it["name"]: it["hashes"][0]["content"] for it in components}, expected))
    for name in ("sbom.cdx.json", "commit.json"):
        changed = folder / "changed"
        shutil.copytree(place, changed)
        text = (changed / name).read_text()
        (changed / name).write_text(text.replace("config.json", "config.js0n", 1))
        code, _ = ran([verify[0], changed, verify[2]], env=env)
        yield Result("auditor", f"changed {name}", "hook", 0, "" if code else "it verifies all the same")
        shutil.rmtree(changed)
