"""curl as a person or a shell script uses it: python curl.py get|head|range|conditional|refused JSON

The last line on stdout is JSON, as in flows.py.
"""
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote


def curl(*words):
    done = subprocess.run(["curl", "-sS", "-L", "--max-time", "60", *words], capture_output=True)
    sys.stderr.buffer.write(done.stderr)
    if done.returncode:
        raise SystemExit(f"curl exited with {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def url(ask, name):
    return f"{os.environ['HF_ENDPOINT']}/{ask['repo']}/resolve/{quote(ask['revision'], safe='')}/{quote(name)}"


def headers(text):
    """The last block of a dump, after redirects: the status and the headers by lower-case name."""
    block = text.decode("latin-1").strip().split("\r\n\r\n")[-1].split("\r\n")
    return int(block[0].split()[1]), {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in block[1:])}


def get(ask):
    files = {}
    for name in ask["files"]:
        target = Path(os.environ["HF_HOME"]) / "download"
        curl("--fail-with-body", "-o", str(target), url(ask, name))
        files[name] = hashlib.sha256(target.read_bytes() if target.exists() else b"").hexdigest()
        target.unlink(missing_ok=True)
    return files, None


def head(ask):
    found = {}
    for name in ask["files"]:
        status, fields = headers(curl("-I", url(ask, name)))
        found[name] = {"status": status, "size": int(fields["content-length"]), "commit": fields["x-repo-commit"]}
    return {}, found


def range_(ask):
    parts = []
    for start, length in ask["ranges"]:
        parts.append(hashlib.sha256(curl("-f", "-r", f"{start}-{start + length - 1}", url(ask, ask["files"][0]))).hexdigest())
    return {}, {"parts": parts}


def conditional(ask):
    _, fields = headers(curl("-I", url(ask, ask["files"][0])))
    again = curl("-o", os.devnull, "-w", "%{http_code}", "-H", f"If-None-Match: {fields['etag']}", url(ask, ask["files"][0]))
    return {}, {"status": int(again)}


def refused(ask):
    """--fail-with-body would hide nothing: the body is what a person sees."""
    body = curl("-w", "\n%{http_code}", url(ask, ask["files"][0])).decode()
    raise SystemExit(body)


def main():
    action = {"get": get, "head": head, "range": range_, "conditional": conditional, "refused": refused}[sys.argv[1]]
    try:
        files, value = action(json.loads(sys.argv[2]))
    except (Exception, SystemExit) as error:
        print(json.dumps({"ok": False, "error": type(error).__name__, "text": str(error)}), flush=True)
        raise
    print(json.dumps({"ok": True, "files": files, "value": value}))


if __name__ == "__main__":
    main()
