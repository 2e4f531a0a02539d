"""The clients, their flows, and what each flow must end with.

A flow is an action of a client program, its argument, and what must come of it: files by their sha256, a value,
or an error whose class and text on stderr are known. What is expected is computed from the stand-in (repos.py).
"""
import hashlib
import json
import math
import struct
from dataclasses import dataclass, field

from repos import HIDDEN_REASON, ODD_NAME, REFUSED_REASON, minilm_token_ids, rows_digest
from world import CACHE, CLIENT, CLIENT_TOKEN, HERE

HUB = ("hub240", "hub133", "hub036", "hub023")
TINY, NESTED, LARGE, FORBIDDEN = "acme/tiny", "acme/nested", "extra/large", "extra/forbidden"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
RANGES = [[2_000_000, 1000], [0, 10], [2_999_990, 10]]
MISSING = ("EntryNotFoundError", "RemoteEntryNotFoundError")


@dataclass
class Client:
    """A way to run an action: the command before `ACTION JSON`, and what its environment needs."""

    name: str
    command: list
    env: dict = field(default_factory=dict)
    prefix: str = ""


@dataclass
class Files:
    """Exactly these files, each with this sha256."""

    files: dict


@dataclass
class Value:
    """Exactly this value."""

    value: object


@dataclass
class Error:
    """Fails with one of these classes (any when empty); each text stands on stderr, and in the exception's own
    message where `said`: stderr has the whole chain of causes, the message is what a user reads first."""

    classes: tuple = ()
    texts: tuple = ()
    said: bool = False


@dataclass
class Flow:
    name: str
    clients: tuple
    action: str
    ask: object  # a dict, or a function of the oracle that gives one
    expect: object  # a function of the oracle
    env: dict = field(default_factory=dict)
    # What the client is known to try outside: hosts that the proxy may have refused.
    exits: tuple = ()


def clients():
    venv = CACHE / "venv"
    found = [Client(name, [venv / name / "bin/python", HERE / "py/flows.py"]) for name in (*HUB, "tf5", "ds5")]
    rust = CACHE / "rust-clients/debug"
    found += [
        Client("js", ["node", HERE / "js/flows.mjs"]),
        Client("rust1", [rust / "hf-hub-1"]),
        Client("rust0-sync", [rust / "hf-hub-0"], prefix="sync-"),
        Client("rust0-tokio", [rust / "hf-hub-0"], prefix="tokio-"),
        Client("curl", [venv / "hub240/bin/python", HERE / "py/curl.py"]),
    ]
    found += [Client(name, [venv / "hub240/bin/python", HERE / "py/replay.py"]) for name in ("vllm", "tgi", "llama")]
    return found


def files(repo, *names, revision="main", kind="model"):
    """Expects these files of a repo; without names, all of them."""
    return lambda oracle: Files(oracle.files(repo, revision, kind, names))


def entries(oracle, repo, names=None):
    wanted = [e for e in oracle.tree(repo) if names is None or e["path"] in names]
    return {e["path"]: {"size": e["size"], "sha256": e["lfs"]["oid"] if e.get("lfs") else None} for e in wanted}


def root_listing(oracle):
    """What `ls` shows of the root: its files, and the folders of the others."""
    tree = oracle.tree(TINY)
    rows = [(e["path"], "file", e["size"]) for e in tree if "/" not in e["path"]]
    rows += [(name, "directory", 0) for name in {e["path"].split("/")[0] for e in tree if "/" in e["path"]}]
    return Value({"entries": [list(row) for row in sorted(rows)]})


def parts(oracle):
    content = oracle.content(TINY, "sub/dir/weights.bin")
    return Value({"parts": [hashlib.sha256(content[start : start + length]).hexdigest() for start, length in RANGES]})


def tensors(oracle, *keys):
    """What the header of the tiny model's weights says."""
    content = oracle.content(TINY, "model.safetensors")
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    everything = {"files": ["model.safetensors"], "tensors": len(shapes), "parameters": sum(math.prod(shape) for shape in shapes)}
    return Value({key: everything[key] for key in keys})


def ask(repo=TINY, *names, revision="main", **more):
    return {"repo": repo, "revision": revision, "files": list(names), **more}


def at_commit(*names):
    return lambda oracle: ask(TINY, *names, revision=oracle.commit(TINY))


def facts(oracle, *keys):
    everything = {"id": TINY, "sha": oracle.commit(TINY), "names": oracle.names(TINY)}
    return Value({key: everything[key] for key in keys})


def error(*texts, classes=(), said=False):
    return lambda oracle: Error(classes, texts, said)


def heads(oracle):
    sizes = {e["path"]: e["size"] for e in oracle.tree(TINY)}
    return Value({n: {"status": 200, "size": sizes[n], "commit": oracle.commit(TINY)} for n in ("config.json", "model.safetensors", "empty.txt")})


def hub_flows():
    def download(name, request, expect, on=HUB, **more):
        return Flow(name, on, "download", request, expect, **more)

    flows = [
        download("regular", ask(TINY, "config.json"), files(TINY, "config.json")),
        download("lfs", ask(TINY, "model.safetensors"), files(TINY, "model.safetensors")),
        download("empty", ask(TINY, "empty.txt"), files(TINY, "empty.txt")),
        download("nested", ask(TINY, "sub/dir/notes.txt", "sub/dir/weights.bin"), files(TINY, "sub/dir/notes.txt", "sub/dir/weights.bin")),
        download("odd-name", ask(TINY, ODD_NAME), files(TINY, ODD_NAME)),
        download("missing", ask(TINY, "no-such-file.json"), error(classes=MISSING)),
        download("hidden", ask("extra/hidden", "old.pkl"), error(HIDDEN_REASON, classes=MISSING, said=True)),
        download("large", ask(LARGE, "weights.bin"), files(LARGE, "weights.bin")),
        download("hf-transfer", ask(LARGE, "weights.bin"), files(LARGE, "weights.bin"), on=("hub036",), env={"HF_HUB_ENABLE_HF_TRANSFER": "1"}),
        download("branch-slash", ask(TINY, "config.json", revision="feature/x"), files(TINY, "config.json", revision="feature/x")),
        download("tag", ask(TINY, "config.json", revision="v1.0"), files(TINY, "config.json", revision="v1.0")),
        download("pr", ask(TINY, "config.json", revision="refs/pr/1"), files(TINY, "config.json", revision="refs/pr/1")),
        download("sha", at_commit("config.json", "model.safetensors"), files(TINY, "config.json", "model.safetensors")),
        download("legacy-id", ask("tiny", "config.json"), files(TINY, "config.json")),
        download("dataset", ask("extra/table", "data/train.csv", kind="dataset"), files("extra/table", "data/train.csv", kind="dataset")),
        download("space", ask("acme/demo", "index.html", kind="space"), files("acme/demo", "index.html", kind="space")),
        Flow("snapshot", HUB, "snapshot", ask(), files(TINY)),
        Flow("snapshot-tag", HUB, "snapshot", ask(revision="v1.0"), files(TINY, revision="v1.0")),
        Flow("snapshot-sha", HUB, "snapshot", at_commit(), files(TINY)),
        Flow("local-dir", HUB, "local-dir", ask(), files(TINY)),
        Flow("local-dir-file", HUB, "local-dir", ask(TINY, "sub/dir/weights.bin"), files(TINY, "sub/dir/weights.bin")),
        Flow("info", HUB, "info", ask(), lambda oracle: facts(oracle, "id", "sha", "names")),
        Flow("list", HUB, "list", ask(), lambda oracle: facts(oracle, "names")),
        Flow("tree", HUB, "tree", ask(), lambda oracle: Value({"entries": entries(oracle, TINY)})),
        Flow("tree-expand", HUB, "tree", ask(expand=True), lambda oracle: Value({"entries": entries(oracle, TINY)})),
        Flow("tree-sub", HUB, "tree", ask(path="sub/dir"), lambda oracle: Value({"entries": entries(oracle, TINY, ("sub/dir/notes.txt", "sub/dir/weights.bin"))})),
        Flow("paths-info", HUB, "paths-info", ask(TINY, "config.json", "model.safetensors", "no-such-file"), lambda oracle: Value({"entries": entries(oracle, TINY, ("config.json", "model.safetensors"))})),
        Flow("refs", HUB, "refs", ask(), lambda oracle: Value({"branches": {b: oracle.commit(TINY, b) for b in ("main", "feature/x")}, "tags": {"v1.0": oracle.commit(TINY, "v1.0")}})),
        Flow("commits", HUB, "commits", ask(), lambda oracle: Value({"commits": oracle.commits(TINY)})),
        Flow("exists", HUB, "exists", ask(TINY, "config.json", "no-such-file"), lambda oracle: Value({"repo": True, "files": {"config.json": True, "no-such-file": False}})),
        Flow("whoami", HUB, "whoami", ask(token=CLIENT_TOKEN), lambda oracle: Value(CLIENT)),
        Flow("auth-check", HUB[:3], "auth-check", ask(), lambda oracle: Value({"allowed": True})),
        Flow("fs-ls", HUB, "fs-ls", ask(), root_listing),
        Flow("fs-range", HUB, "fs-range", ask(TINY, "sub/dir/weights.bin", ranges=RANGES), parts),
        Flow("fs-glob", HUB, "fs-glob", ask(pattern="**/*.bin"), lambda oracle: Value({"names": [n for n in oracle.names(TINY) if n.endswith(".bin")]})),
        Flow("safetensors", HUB, "safetensors", ask(), lambda oracle: tensors(oracle, "files", "tensors", "parameters")),
        Flow("cli-repo", HUB, "cli", ask(), files(TINY)),
        Flow("cli-file", HUB, "cli", ask(TINY, "model.safetensors"), files(TINY, "model.safetensors")),
    ]
    return flows


def framework_flows():
    table = "datasets-server.127.0.0.1"
    return [
        Flow("config", ("tf5",), "config", ask(MINILM), lambda oracle: Value({"model_type": "bert", "hidden_size": 384})),
        Flow("tokenizer", ("tf5",), "tokenizer", ask(MINILM), lambda oracle: Value({"ids": minilm_token_ids()})),
        Flow("weights", ("tf5",), "weights", ask(MINILM), files(MINILM, "model.safetensors")),
        Flow("csv", ("ds5",), "load", ask("extra/table"), lambda oracle: Value(rows_digest()), exits=(table,)),
        Flow("stream-csv", ("ds5",), "stream", ask("extra/table"), lambda oracle: Value(rows_digest()), exits=(table,)),
        Flow("stream-parquet", ("ds5",), "stream", ask("extra/columns"), lambda oracle: Value(rows_digest()), exits=(table,)),
    ]


def other_flows():
    js, one, zero = ("js",), ("rust1",), ("rust0-sync", "rust0-tokio")
    two = ("config.json", "model.safetensors", "empty.txt", "sub/dir/weights.bin")
    return [
        Flow("download", js + one + zero, "download", ask(TINY, *two), files(TINY, *two)),
        Flow("odd-name", js + one, "download", ask(TINY, ODD_NAME), files(TINY, ODD_NAME)),
        Flow("large", js + one + zero, "download", ask(LARGE, "weights.bin"), files(LARGE, "weights.bin")),
        Flow("pr", js + one + zero, "download", ask(TINY, "config.json", revision="refs/pr/1"), files(TINY, "config.json", revision="refs/pr/1")),
        Flow("branch-slash", one + zero, "download", ask(TINY, "config.json", revision="feature/x"), files(TINY, "config.json", revision="feature/x")),
        Flow("sha", js + one + zero, "download", at_commit("config.json"), files(TINY, "config.json")),
        Flow("missing", one + zero, "download", ask(TINY, "no-such-file"), error("no-such-file")),
        Flow("missing", js, "download", ask(TINY, "no-such-file"), error("EntryNotFound")),
        Flow("cache", js, "cache", ask(TINY, "model.safetensors", "config.json"), files(TINY, "model.safetensors", "config.json")),
        # The JavaScript client cuts a name at its `#`, with the real Hub as well.
        Flow("snapshot", js, "snapshot", ask(NESTED), files(NESTED)),
        Flow("snapshot", one, "snapshot", ask(), files(TINY)),
        Flow("info", js, "info", ask(), lambda oracle: facts(oracle, "id", "sha")),
        Flow("info", one, "info", ask(), lambda oracle: facts(oracle, "id", "sha")),
        Flow("info", zero, "info", ask(), lambda oracle: facts(oracle, "sha", "names")),
        Flow("list", js + one, "list", ask(), lambda oracle: facts(oracle, "names")),
        Flow("list-pr", js + one, "list", ask(revision="refs/pr/1"), lambda oracle: Value({"names": oracle.names(TINY, "refs/pr/1")})),
        Flow("exists", js, "exists", ask(TINY, "config.json", "no-such-file"), lambda oracle: Value({"files": {"config.json": True, "no-such-file": False}})),
        Flow("safetensors", js, "safetensors", ask(), lambda oracle: tensors(oracle, "tensors", "parameters")),
        Flow("get", ("curl",), "get", ask(TINY, *two), files(TINY, *two)),
        Flow("large", ("curl",), "get", ask(LARGE, "weights.bin"), files(LARGE, "weights.bin")),
        Flow("head", ("curl",), "head", ask(TINY, "config.json", "model.safetensors", "empty.txt"), heads),
        Flow("range", ("curl",), "range", ask(TINY, "sub/dir/weights.bin", ranges=RANGES), parts),
        Flow("conditional", ("curl",), "conditional", ask(TINY, "model.safetensors"), lambda oracle: Value({"status": 304})),
        Flow("start", ("vllm",), "vllm", ask(), files(TINY, "config.json", "model.safetensors")),
        Flow("start", ("tgi",), "tgi", ask(), files(TINY, "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")),
        Flow("start", ("llama",), "llama", ask(), files(TINY, "model.safetensors", "sub/dir/weights.bin")),
    ]


def refusal_flows():
    """An uncaught script's stderr must say why, whatever the client makes of a refusal (PROTOCOL: 5.3-5.5)."""
    why, said = error(REFUSED_REASON), error(REFUSED_REASON, said=True)
    flows = [
        Flow("refused-file", HUB + ("js", "rust1"), "download", ask(FORBIDDEN, "config.json"), said),
        Flow("refused-snapshot", HUB + ("js", "rust1"), "snapshot", ask(FORBIDDEN), said),
        Flow("refused-info", HUB + ("js", "rust1"), "info", ask(FORBIDDEN), said),
        Flow("refused-cli", HUB, "cli", ask(FORBIDDEN), why),
        Flow("refused", ("tf5",), "config", ask(FORBIDDEN), said),
        Flow("refused-tokenizer", ("tf5",), "tokenizer", ask(FORBIDDEN), said),
        Flow("refused", ("ds5",), "load", ask(FORBIDDEN), why, exits=("datasets-server.127.0.0.1",)),
        Flow("refused", ("curl",), "refused", ask(FORBIDDEN, "config.json"), error(REFUSED_REASON, "403")),
        # hf-hub 0.4 shows the status and nothing that a server could write.
        Flow("refused", ("rust0-sync", "rust0-tokio"), "download", ask(FORBIDDEN, "config.json"), error("403")),
        Flow("unlicensed", HUB + ("js", "rust1"), "download", ask("acme/no-license", "config.json"), error("licen", said=True)),
        Flow("no-rule", HUB + ("js", "rust1"), "download", ask("other/unknown", "config.json"), error("ml-platform@example.com", said=True)),
    ]
    return flows


def flows():
    return hub_flows() + framework_flows() + other_flows() + refusal_flows()


def smoke(client):
    """One flow for a client: what `minio`, `tls` and `squid` run."""
    names = {"tf5": "tokenizer", "ds5": "csv", "curl": "get", "js": "snapshot", "rust1": "snapshot", "rust0-sync": "download", "rust0-tokio": "download"}
    names |= {"vllm": "start", "tgi": "start", "llama": "start"}
    wanted = names.get(client.name, "snapshot")
    return next(flow for flow in flows() if client.name in flow.clients and flow.name == wanted)
