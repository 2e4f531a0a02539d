"""Replays the request sequences of programs that are too large to install: vLLM, TGI and llama.cpp.

    python replay.py vllm|tgi|llama JSON

Plain http.client, so that what goes out is what stands here: method, path, headers and their order of calls as
recorded from (vLLM) or read in (TGI, llama.cpp) the real programs. Redirects are followed as each of them does.
The last line on stdout is JSON, as in flows.py.
"""
import hashlib
import http.client
import json
import os
import ssl
import sys
from urllib.parse import quote, urlsplit

UA_HUB = "unknown/None; hf_hub/2.4.0; python/3.11.7; transformers/5.23.0"
UA_ROUTER = "unknown/None; hf-hub/0.4.2; rust/unknown"
UA_LLAMA = "llama-cpp/b7000"


class Unexpected(Exception):
    pass


class Hub:
    """One keep-alive connection to the endpoint."""

    def __init__(self, agent):
        url = urlsplit(os.environ["HF_ENDPOINT"])
        self.prefix, self.agent = url.path.rstrip("/"), agent
        if url.scheme == "https":
            self.connection = http.client.HTTPSConnection(url.netloc, timeout=30, context=ssl.create_default_context())
        else:
            self.connection = http.client.HTTPConnection(url.netloc, timeout=30)

    def ask(self, method, path, want=(200,), **headers):
        """One request, its redirects followed within this endpoint; the answer must have a wanted status."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        path = self.prefix + path
        for _ in range(5):
            self.connection.request(method, path, headers={"User-Agent": self.agent, "Accept": "*/*", **names})
            answer = self.connection.getresponse()
            body = answer.read()
            if answer.status not in (301, 302, 303, 307, 308):
                break
            path = answer.headers["Location"]
            if not path.startswith("/"):
                raise Unexpected(f"{method} {path}: sent away from the endpoint")
        if answer.status not in want:
            raise Unexpected(f"{method} {path}: {answer.status} {answer.headers.get('X-Error-Message')} {body[:200]!r}")
        return answer, body

    def json(self, path):
        return json.loads(self.ask("GET", path)[1])

    def file(self, repo, commit, name):
        """HEAD then GET, the second checked against what the first announced."""
        path = f"/{repo}/resolve/{commit}/{quote(name)}"
        answer, _ = self.ask("HEAD", path, Accept_Encoding="identity")
        announced = answer.headers.get("X-Linked-Size") or answer.headers.get("Content-Length")
        _, body = self.ask("GET", path)
        if int(announced) != len(body):
            raise Unexpected(f"{name}: announced {announced} bytes, got {len(body)}")
        return hashlib.sha256(body).hexdigest()

    def missing(self, repo, commit, name):
        answer, _ = self.ask("HEAD", f"/{repo}/resolve/{commit}/{quote(name)}", want=(404,), Accept_Encoding="identity")
        if answer.headers.get("X-Error-Code") != "EntryNotFound":
            raise Unexpected(f"{name}: 404 without EntryNotFound, so the loader would not take it for an optional file")

    def probe_and_get(self, repo, revision, name):
        """hf-hub 0.4's way: one byte for the metadata, then an open range."""
        path = f"/{repo}/resolve/{revision.replace('/', '%2F')}/{name}"
        answer, _ = self.ask("GET", path, want=(206,), Range="bytes=0-0")
        size = int(answer.headers["Content-Range"].rsplit("/", 1)[1])
        for needed in ("ETag", "X-Repo-Commit"):
            if not answer.headers.get(needed):
                raise Unexpected(f"{name}: no {needed} on the one-byte answer")
        _, body = self.ask("GET", path, want=(206,), Range="bytes=0-")
        if size != len(body):
            raise Unexpected(f"{name}: announced {size} bytes, got {len(body)}")
        return hashlib.sha256(body).hexdigest()


def vllm(ask):
    hub, repo = Hub(UA_HUB), ask["repo"]
    commit = hub.json(f"/api/models/{repo}")["sha"]
    hub.json(f"/api/models/{repo}/tree/main?recursive=true&expand=false")
    files = {"config.json": hub.file(repo, commit, "config.json")}
    if hub.json(f"/api/models/{repo}/revision/main")["sha"] != commit:
        raise Unexpected("the model's info and its main revision disagree")
    hub.json(f"/api/models/{repo}/tree/main?recursive=false&expand=false")
    tree = hub.json(f"/api/models/{repo}/tree/{commit}?recursive=true&expand=false")
    for entry in tree:
        if entry["path"].endswith(".safetensors"):
            files[entry["path"]] = hub.file(repo, commit, entry["path"])
    hub.missing(repo, commit, "model.safetensors.index.json")
    return files, None


def tgi(ask):
    """The launcher is Python; the router is Rust on hf-hub 0.4.2 over tokio."""
    launcher, router, repo = Hub(UA_HUB), Hub(UA_ROUTER), ask["repo"]
    info = launcher.json(f"/api/models/{repo}")
    weights = [s["rfilename"] for s in info["siblings"] if s["rfilename"].endswith(".safetensors")]
    files = {name: launcher.file(repo, "main", name) for name in weights}
    if router.json(f"/api/models/{repo}/revision/main")["sha"] != info["sha"]:
        raise Unexpected("the launcher and the router see different commits")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        files[name] = router.probe_and_get(repo, "main", name)
    return files, None


def llama(ask):
    """`llama-cli -hf repo`: the default branch from /refs, the whole tree in one page, then by commit."""
    hub, repo = Hub(UA_LLAMA), ask["repo"]
    branches = {b["name"]: b["targetCommit"] for b in hub.json(f"/api/models/{repo}/refs")["branches"]}
    commit = branches["main"]
    files = {}
    for entry in hub.json(f"/api/models/{repo}/tree/{commit}?recursive=true"):
        oid = (entry.get("lfs") or {}).get("oid", "")
        if entry["type"] == "file" and len(oid) == 64 and set(oid) <= set("0123456789abcdef"):
            files[entry["path"]] = hub.file(repo, commit, entry["path"])
    if not files:
        raise Unexpected("the tree shows no file with a digest")
    return files, None


def main():
    try:
        files, value = {"vllm": vllm, "tgi": tgi, "llama": llama}[sys.argv[1]](json.loads(sys.argv[2]))
    except Exception as error:
        print(json.dumps({"ok": False, "error": type(error).__name__, "text": str(error)}), flush=True)
        raise
    print(json.dumps({"ok": True, "files": files, "value": value}))


if __name__ == "__main__":
    main()
