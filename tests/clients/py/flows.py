"""The Python clients' actions: one process does one thing, as a user's script would.

    python flows.py ACTION JSON

Runs under every environment of envs/: huggingface_hub 0.23 to 2.4, transformers, datasets. The library reads
HF_ENDPOINT and HF_HOME from the environment; nothing here tells it where the gateway is. The last line on
stdout is JSON: {"ok": true, "files": {path: sha256}, "value": ...} or {"ok": false, "error": class, "text": ...}.
An exception is then left uncaught, so that stderr shows exactly what a user's script would show.
"""
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def digest_below(root):
    """Every file below a snapshot or local folder, without the client's own bookkeeping."""
    root = Path(root)
    return {
        path.relative_to(root).as_posix(): sha256(path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {".cache", ".huggingface"} & set(path.relative_to(root).parts)
    }


def where(ask):
    """The keyword arguments that name a repo at a revision."""
    return {"repo_id": ask["repo"], "revision": ask.get("revision"), "repo_type": ask.get("kind", "model")}


def download(ask):
    from huggingface_hub import hf_hub_download

    files = {}
    for name in ask["files"]:
        path = hf_hub_download(filename=name, **where(ask))
        files[name] = sha256(Path(path).read_bytes())
    return files, None


def snapshot(ask):
    from huggingface_hub import snapshot_download

    return digest_below(snapshot_download(**where(ask))), None


def local_dir(ask):
    from huggingface_hub import hf_hub_download, snapshot_download

    folder = Path(os.environ["HF_HOME"]) / "local"
    for name in ask.get("files", []):
        hf_hub_download(filename=name, local_dir=folder, **where(ask))
    if not ask.get("files"):
        snapshot_download(local_dir=folder, **where(ask))
    return digest_below(folder), None


def info(ask):
    from huggingface_hub import HfApi

    found = HfApi().repo_info(**where(ask))
    return {}, {"id": found.id, "sha": found.sha, "names": sorted(s.rfilename for s in found.siblings or [])}


def list_files(ask):
    from huggingface_hub import HfApi

    return {}, {"names": sorted(HfApi().list_repo_files(**where(ask)))}


def tree(ask):
    from huggingface_hub import HfApi

    found = HfApi().list_repo_tree(
        path_in_repo=ask.get("path"), recursive=ask.get("recursive", True), expand=ask.get("expand", False), **where(ask)
    )
    entries = {}
    for entry in found:
        if hasattr(entry, "size"):
            entries[entry.path] = {"size": entry.size, "sha256": entry.lfs["sha256"] if entry.lfs else None}
    return {}, {"entries": entries}


def paths_info(ask):
    from huggingface_hub import HfApi

    found = HfApi().get_paths_info(paths=ask["files"], **where(ask))
    return {}, {"entries": {e.path: {"size": e.size, "sha256": e.lfs["sha256"] if e.lfs else None} for e in found}}


def refs(ask):
    from huggingface_hub import HfApi

    found = HfApi().list_repo_refs(ask["repo"], repo_type=ask.get("kind", "model"))
    return {}, {
        "branches": {ref.name: ref.target_commit for ref in found.branches},
        "tags": {ref.name: ref.target_commit for ref in found.tags},
    }


def commits(ask):
    from huggingface_hub import HfApi

    return {}, {"commits": [c.commit_id for c in HfApi().list_repo_commits(**where(ask))]}


def exists(ask):
    from huggingface_hub import HfApi

    api = HfApi()
    files = {name: api.file_exists(filename=name, **where(ask)) for name in ask["files"]}
    return {}, {"repo": api.repo_exists(ask["repo"], repo_type=ask.get("kind", "model")), "files": files}


def auth_check(ask):
    from huggingface_hub import HfApi

    HfApi().auth_check(ask["repo"], repo_type=ask.get("kind", "model"))
    return {}, {"allowed": True}


def whoami(ask):
    from huggingface_hub import HfApi

    found = HfApi().whoami(token=ask["token"])
    return {}, {"name": found["name"], "type": found["type"]}


def fs_path(ask, path=""):
    prefix = "" if ask.get("kind", "model") == "model" else ask["kind"] + "s/"
    return f"{prefix}{ask['repo']}@{ask['revision'].replace('/', '%2F')}/{path}".rstrip("/")


def fs_ls(ask):
    from huggingface_hub import HfFileSystem

    root = fs_path(ask)
    found = HfFileSystem().ls(root, detail=True)
    return {}, {"entries": sorted((e["name"][len(root) + 1 :], e["type"], e["size"]) for e in found)}


def fs_range(ask):
    """Reads through an fsspec file as pandas and datasets do: a middle, the head, and the tail."""
    from huggingface_hub import HfFileSystem

    parts = []
    with HfFileSystem().open(fs_path(ask, ask["files"][0]), "rb", block_size=1024) as file:
        for start, length in ask["ranges"]:
            file.seek(start)
            parts.append(sha256(file.read(length)))
    return {}, {"parts": parts}


def fs_glob(ask):
    from huggingface_hub import HfFileSystem

    root = fs_path(ask)
    return {}, {"names": sorted(name[len(root) + 1 :] for name in HfFileSystem().glob(fs_path(ask, ask["pattern"])))}


def safetensors_metadata(ask):
    from huggingface_hub import get_safetensors_metadata

    found = get_safetensors_metadata(**where(ask))
    return {}, {
        "files": sorted(found.files_metadata),
        "tensors": sum(len(f.tensors) for f in found.files_metadata.values()),
        "parameters": sum(found.parameter_count.values()),
    }


def cli(ask):
    """The `hf` command of this environment; what it prints on stderr is passed on as it is."""
    command = Path(sys.executable).with_name("hf")
    if not command.exists():
        command = command.with_name("huggingface-cli")
    words = [str(command), "download", ask["repo"], *ask.get("files", [])]
    if ask.get("revision"):
        words += ["--revision", ask["revision"]]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{command.name} download exited with {done.returncode}: {done.stdout}")
    # Newer versions print "path: ..." or a decorated line; the path is the last word that exists.
    paths = [Path(word) for word in done.stdout.replace("path=", " ").split() if word.startswith("/") and Path(word).exists()]
    if not paths:
        raise SystemExit(f"{command.name} download printed no path: {done.stdout!r}")
    if paths[-1].is_dir():
        return digest_below(paths[-1]), None
    return {ask["files"][0]: sha256(paths[-1].read_bytes())}, None


def transformers_config(ask):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(ask["repo"], revision=ask.get("revision", "main"))
    return {}, {"model_type": config.model_type, "hidden_size": config.hidden_size}


def transformers_tokenizer(ask):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ask["repo"], revision=ask.get("revision", "main"))
    return {}, {"ids": tokenizer("A gateway proves what it served.")["input_ids"]}


def transformers_weights(ask):
    """What AutoModel does before it needs torch: finds the weights through transformers, then opens them."""
    from safetensors.numpy import load_file
    from transformers.utils import cached_file

    path = cached_file(ask["repo"], "model.safetensors", revision=ask.get("revision", "main"))
    tensors = load_file(path)
    value = {"tensors": len(tensors), "parameters": int(sum(t.size for t in tensors.values()))}
    return {"model.safetensors": sha256(Path(path).read_bytes())}, value


def rows(found):
    """A digest of rows that does not depend on how the library stores them."""
    lines = [json.dumps(row, sort_keys=True) for row in found]
    return {}, {"rows": len(lines), "digest": sha256("\n".join(lines).encode())}


def datasets_load(ask):
    from datasets import load_dataset

    return rows(load_dataset(ask["repo"], revision=ask.get("revision"), split="train"))


def datasets_stream(ask):
    from datasets import load_dataset

    return rows(load_dataset(ask["repo"], revision=ask.get("revision"), split="train", streaming=True))


ACTIONS = {
    "download": download,
    "snapshot": snapshot,
    "local-dir": local_dir,
    "info": info,
    "list": list_files,
    "tree": tree,
    "paths-info": paths_info,
    "refs": refs,
    "commits": commits,
    "exists": exists,
    "auth-check": auth_check,
    "whoami": whoami,
    "fs-ls": fs_ls,
    "fs-range": fs_range,
    "fs-glob": fs_glob,
    "safetensors": safetensors_metadata,
    "cli": cli,
    "config": transformers_config,
    "tokenizer": transformers_tokenizer,
    "weights": transformers_weights,
    "load": datasets_load,
    "stream": datasets_stream,
}


def main():
    action, ask = ACTIONS[sys.argv[1]], json.loads(sys.argv[2])
    try:
        files, value = action(ask)
    except BaseException as error:
        print(json.dumps({"ok": False, "error": type(error).__name__, "text": str(error)}), flush=True)
        raise
    print(json.dumps({"ok": True, "files": files, "value": value}))


if __name__ == "__main__":
    main()
