#!/usr/bin/env python3
"""The bench: hubgate beside what people would otherwise put in its place, as ratios in one run.

    bench/run.py [--check] [--rounds 5] [--cells warm,small,cold,s3,shared,sync,olah] [--size 1G]

Builds the release binaries, starts everything on loopback, and prints a Markdown table. See README.md beside it.
"""
import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))

import cells
import machine
import table
from world import CACHE, Broken

CELLS = {"warm": cells.warm, "small": cells.small, "cold": cells.cold, "s3": cells.s3, "shared": cells.shared, "sync": cells.sync, "olah": cells.olah}


def size(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1].upper()] if text[-1].upper() in units else int(text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", default="warm,small,cold,s3,shared", help="of: " + ",".join(CELLS))
    parser.add_argument("--size", type=size, default=1 << 30, help="of the large file")
    parser.add_argument("--seconds", type=int, default=5, help="of each round of small requests")
    parser.add_argument("--work", type=Path, default=CACHE / "bench", help="folder for all files, removed at the end")
    parser.add_argument("--no-build", action="store_true", help="use the release binaries that are there")
    args = parser.parse_args()
    args.cells = args.cells.split(",")
    if unknown := set(args.cells) - set(CELLS):
        parser.error(f"no cells {', '.join(sorted(unknown))}; there are {', '.join(CELLS)}")
    return args


def build():
    command = ["cargo", "build", "--release", "--locked", "--bins", "-p", "hubgate", "-p", "hub-standin", "-p", "bench-reader"]
    subprocess.run(command, check=True, cwd=ROOT)


def main():
    args = arguments()
    if not args.no_build:
        build()
    binaries = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    began, rows, broken = time.monotonic(), [], None
    try:
        bench = cells.Bench(args, binaries)
        try:
            for name in args.cells:
                for row in CELLS[name](bench):
                    rows.append(row)
                    print(" · ".join(cell for cell in row.cells() if cell), row.note, file=sys.stderr, flush=True)
        finally:
            bench.stop()
    except Broken as problem:
        # What was measured before it is shown all the same.
        broken = problem
    finally:
        shutil.rmtree(args.work, ignore_errors=True)
    print(f"\n{machine.description()}; {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {args.rounds} rounds, {time.monotonic() - began:.0f} s\n")
    print(table.markdown(rows))
    for row in rows:
        if row.note:
            print(f"\n{row.cell}: {row.note}")
    missed = [miss for row in rows for miss in row.misses()]
    for miss in missed:
        print(f"missed: {miss}")
    if broken:
        print(f"bench: {broken}", file=sys.stderr)
    return 1 if broken or (missed and args.check) else 0


if __name__ == "__main__":
    sys.exit(main())
