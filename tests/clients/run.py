#!/usr/bin/env python3
"""Runs real Hub clients against hubgate before the stand-in Hub, and prints what passed.

    tests/clients/run.py [--suite local]... [--client hub240]... [--flow snapshot]

Needs Python 3.11 and what tests/infra/install.sh installs. A component that cannot start fails the run.
The last line is `N passed, N failed`; the exit code is 1 if anything failed.
"""
import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import flows
import repos
from again import again
from bucket import bucket
from play import Result
from suites import SUITES as CLIENT_SUITES
from suites import closing
from world import Broken, StandIn

SUITES = CLIENT_SUITES | {"bucket": bucket, "again": again}


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hubgate", type=Path, default=Path("target/release/hubgate"), help="the binary")
    parser.add_argument("--standin", type=Path, default=Path("target/release/hub-standin"), help="the stand-in Hub's binary")
    parser.add_argument("--suite", action="append", choices=sorted(SUITES), help="repeatable; default: all but `direct`, which needs no hubgate")
    parser.add_argument("--client", action="append", help="only these clients; repeatable")
    parser.add_argument("--flow", default="", help="in the suite `local`, only flows whose name has this in it")
    parser.add_argument("--store", default="local", choices=("local", "minio", "versitygw"), help="of the suite `local`")
    parser.add_argument("--jobs", type=int, default=2, help="clients at a time")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs, stores and client caches")
    return parser.parse_args()


def prepare(run):
    """Adds to the options what all suites share: the folder, the repos, the clients, the oracle's own stand-in."""
    run.hubgate, run.standin = run.hubgate.resolve(), run.standin.resolve()
    # Squid drops its rights and must reach its folder; the names inside are short because some servers limit paths.
    run.folder = Path(tempfile.mkdtemp(prefix="hubgate-clients-"))
    run.folder.chmod(0o755)
    run.repos = repos.make(run.folder / "repos")
    known = {client.name: client for client in flows.clients()}
    unknown = set(run.client or ()) - set(known)
    if unknown:
        raise Broken(f"no client {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    run.clients = [known[name] for name in run.client or known]
    truth = StandIn(run.standin, run.folder / "oracle", run.repos)
    run.oracle = repos.Oracle(truth.url)
    return truth


def short(text, most=1600):
    """Its start and its end: the cause and what a person would see last."""
    return text if len(text) <= most else f"{text[: most // 2]} [...] {text[-most // 2 :]}"


def table(results):
    """One line a client and flow, one column a phase."""
    rows = {}
    for result in results:
        rows.setdefault((result.client, result.flow), []).append(result)
    for (client, flow), cells in rows.items():
        shown = "  ".join(f"{cell.phase} {'ok' if not cell.problem else 'FAILED'} {cell.seconds:.1f}s" for cell in cells)
        print(f"  {client:12} {flow:34} {shown}")


def main():
    run = options()
    failed, passed = [], 0
    truth = None
    try:
        truth = prepare(run)
        with closing(truth):
            for name in run.suite or [name for name in SUITES if name != "direct"]:
                start, results = time.monotonic(), []
                print(f"== {name}: {' '.join(SUITES[name].__doc__.split())}", flush=True)
                try:
                    for result in SUITES[name](run):
                        results.append(result)
                        if result.problem:
                            print(f"  FAILED {result.client} {result.flow} {result.phase}: {short(result.problem)}", flush=True)
                except Broken as error:
                    results.append(Result("-", name, "start", 0, str(error)))
                    print(f"  FAILED to run: {error}", flush=True)
                if not results:
                    results.append(Result("-", name, "start", 0, "nothing ran"))
                    print("  FAILED: nothing ran; no flow or client matches", flush=True)
                table(results)
                failed += [(name, result) for result in results if result.problem]
                passed += sum(not result.problem for result in results)
                print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
    except Broken as error:
        print(f"FAILED to start: {error}")
        failed.append(("start", error))
    finally:
        if run.keep or failed:
            print(f"logs, stores and client caches: {getattr(run, 'folder', 'none')}")
        elif getattr(run, "folder", None):
            shutil.rmtree(run.folder, ignore_errors=True)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
