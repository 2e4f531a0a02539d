"""The cells of the bench: what is started, what is asked of both sides, and how what came back is checked.

Rounds interleave the sides and turn their order around each time. Every timed body of a large file is checked
by a CRC-64 that an untimed pass has tied to the file's sha256, before and after; curl's, which throw the body
away, by their size, and the fill behind them by the manifest and one more such pass.
"""
import base64
import json
import os
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path

import machine
from table import Row, Side
from world import CACHE, CLEAN, Broken, Gateway, Script, Server, StandIn, fetch, free_ports

BENCH = Path(__file__).resolve().parent
CAPPED = 100_000_000
SMALL_BYTES = 1024
CONNECTIONS = 64
LATENCY_MS = 100
FOOTER_BYTES = 64 * 1024
POLICY = {"policy.toml": '[licenses]\nallow = ["apache-2.0"]\n\n[[allow]]\nname = "bench"\nrepo = "bench/*"\n'}
BIG, SMALL = "bench/big", "bench/small"
MANY, HUGE = "bench/many", "bench/huge"
MANY_FILES, HUGE_BYTES = 500, 2 << 30


def noise(seed):
    """Some 4 KB of text that hardly compresses: Python's clients ask for gzip."""
    return base64.b64encode(random.Random(seed).randbytes(3000)).decode()


def run(command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=CLEAN, **more)
    if done.returncode:
        raise Broken(f"{command[0]} failed: {' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


class Bench:
    """Everything that the cells share: the folder, the stand-in Hub with its files, and the client programs."""

    def __init__(self, args, binaries):
        self.args, self.work, self.size = args, args.work, args.size
        self.hubgate, self.reader = binaries / "hubgate", binaries / "bench-reader"
        self.running = []
        folder = self.work / "repo"
        folder.mkdir()
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Bench\n")
        self.small = json.dumps({"padding": "x" * (SMALL_BYTES - 15)}).encode()
        (folder / "config.json").write_bytes(self.small)
        repos = ["--repo", f"model:{SMALL}={folder}", "--generated", f"model:{BIG}/model.safetensors={self.size}@7"]
        if "sync" in args.cells:
            many = self.work / "many"
            many.mkdir()
            (many / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Many\n")
            for number in range(MANY_FILES - 1):
                (many / f"part-{number:03}.json").write_text(json.dumps({"part": number, "padding": noise(number)}))
            repos += ["--repo", f"model:{MANY}={many}", "--generated", f"model:{HUGE}/model.safetensors={HUGE_BYTES}@9"]
        self.standin = StandIn(binaries / "hub-standin", self.work / "standin", repos)
        self.running.append(self.standin)
        self.big_url = f"/{BIG}/resolve/{self.commit(BIG)}/model.safetensors"
        self.small_url = f"/{SMALL}/resolve/{self.commit(SMALL)}/config.json"
        tree = json.loads(fetch(f"{self.standin.url}/api/models/{BIG}/tree/main"))
        self.sha256 = next(entry["lfs"]["oid"] for entry in tree if entry["path"] == "model.safetensors")
        self.crc64 = None
        self.footer_sha256 = None

    def commit(self, repo):
        return json.loads(fetch(f"{self.standin.url}/api/models/{repo}"))["sha"]

    def stop(self):
        for server in reversed(self.running):
            server.stop()

    def start(self, server):
        self.running.append(server)
        return server

    def end(self, server):
        self.running.remove(server)
        server.stop()

    def gateway(self, name, store=None):
        """A hubgate with a store of its own; its access lines go to a file."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        hosts = [self.standin.address, f"127.0.0.1:{self.standin.cdn_port}"]
        settings = {"upstream.endpoint": self.standin.url, "upstream.allowed_hosts": hosts, "upstream.allow_private": True}
        settings |= store or {"store.local.path": str(folder / "store")}
        return self.start(Gateway(self.hubgate, folder, settings, POLICY))

    def nginx(self, name, conf, **words):
        folder = self.work / name
        (folder / "root").mkdir(parents=True)
        text = (BENCH / conf).read_text()
        for word, value in words.items():
            text = text.replace(f"@{word.upper()}@", value)
        (folder / "given.conf").write_text(text)
        port = free_ports()
        server = self.start(Script("nginx", folder, folder / "given.conf", port))
        server.url = f"http://127.0.0.1:{port}"
        return server

    def read(self, url, connections=1, sha256=False, byte_range=None):
        """All connections' answers; raises unless each is the whole file."""
        words = [self.reader, "--connections", connections, *(["--sha256"] if sha256 else []), *(["--range", byte_range] if byte_range else []), url]
        report = json.loads(run(words))
        for answer in report["answers"]:
            if byte_range:
                continue
            if answer["status"] != 200 or answer["bytes"] != self.size:
                raise Broken(f"{url}: status {answer['status']}, {answer['bytes']} bytes")
            if sha256 and answer["sha256"] != self.sha256:
                raise Broken(f"{url}: sha256 {answer['sha256']} is not {self.sha256}")
            if sha256:
                self.crc64 = self.crc64 or answer["crc64"]
            if self.crc64 and answer["crc64"] != self.crc64:
                raise Broken(f"{url}: another body: CRC-64 {answer['crc64']}, not {self.crc64}")
        return report

    def upstream_requests(self):
        return self.standin.counters()["requests"]

    def cap(self, bytes_per_second):
        fetch(self.standin.control + "/-/standin/rate", {"origin": "cdn", "bytes_per_second": bytes_per_second})


def pid_of(server):
    if isinstance(server, Script):
        return int((server.folder / "pid").read_text())
    return getattr(server, "server", server).process.pid


def pairs(rounds, sides):
    """Interleaved, the order turned around each time."""
    for number in range(rounds):
        yield from sides if number % 2 == 0 else reversed(sides)


def compare(bench, pids, row, measure, per):
    """Fills the sides of a row, each with the CPU that its server used `per` what was done."""
    servers, ours = [pid_of(server) for server in bench.running], pids[row.ours.name]
    load = machine.Load(servers)
    machine.forget_peak(ours)
    for side in pairs(bench.args.rounds, [row.ours, row.peer]):
        measure(side, warm_up=True)
        before = machine.cpu_seconds(pids[side.name])
        value, done = measure(side, warm_up=False)
        spent = machine.cpu_seconds(pids[side.name]) - before
        side.add(value, spent / done * per)
    row.peak_mib, row.others = machine.peak_mib(ours), load.others()
    return row


def warm(bench):
    """A stored file of 1 GiB, read by 1 and by 8; nginx serves the very same file of the disk."""
    gateway = bench.gateway("warm")
    bench.read(gateway.url + bench.big_url, sha256=True)
    nginx = bench.nginx("nginx", "nginx.conf")
    blob = gateway.folder / "store" / "blobs" / "sha256" / bench.sha256[:2] / bench.sha256
    os.link(blob, nginx.folder / "root" / "model.safetensors")
    urls = {"hubgate": gateway.url + bench.big_url, "nginx": nginx.url + "/model.safetensors"}
    pids = {"hubgate": pid_of(gateway), "nginx": pid_of(nginx)}
    bench.read(urls["nginx"], sha256=True)
    before = bench.upstream_requests()
    for readers in (1, 8):

        def measure(side, warm_up, readers=readers):
            report = bench.read(urls[side.name], 1 if warm_up else readers)
            return report["bytes"] / report["seconds"] / 1e6, report["bytes"] / 1e9

        row = Row(f"warm GET of {bench.size >> 20} MiB, {readers} reader{'s'[: readers > 1]}", "MB/s", "s/GB", Side("hubgate"), Side("nginx"), (">=", 1.0))
        yield compare(bench, pids, row, measure, 1)
    for url in urls.values():
        bench.read(url, sha256=True)
    if bench.upstream_requests() != before:
        raise Broken("warm reads asked upstream")
    bench.end(nginx)
    bench.end(gateway)


def oha(url, method, seconds):
    report = json.loads(run([CACHE / "bin" / "oha", "--no-tui", "--output-format", "json", "-m", method, "-c", CONNECTIONS, "-z", f"{seconds}s", url]))
    codes = report["statusCodeDistribution"]
    answers = sum(codes.values())
    if set(codes) != {"200"}:
        raise Broken(f"{method} {url}: {codes}")
    bodies = SMALL_BYTES * answers if method == "GET" else 0
    # Answers cut off by the deadline are in no count, but some of their bytes may be.
    if abs(report["summary"]["totalData"] - bodies) > SMALL_BYTES * CONNECTIONS:
        raise Broken(f"{method} {url}: {report['summary']['totalData']} bytes in {answers} answers")
    return report["summary"]["requestsPerSec"], answers


def small(bench):
    """HEAD and GET of a stored file of 1 KiB by its commit, over 64 connections."""
    gateway = bench.gateway("small")
    nginx = bench.nginx("nginx-small", "nginx.conf")
    (nginx.folder / "root" / "config.json").write_bytes(bench.small)
    urls = {"hubgate": gateway.url + bench.small_url, "nginx": nginx.url + "/config.json"}
    pids = {"hubgate": pid_of(gateway), "nginx": pid_of(nginx)}

    def same():
        for url in urls.values():
            if fetch(url) != bench.small:
                raise Broken(f"{url}: another body")

    same()
    before = bench.upstream_requests()
    for method in ("HEAD", "GET"):

        def measure(side, warm_up, method=method):
            return oha(urls[side.name], method, 1 if warm_up else bench.args.seconds)

        row = Row(f"warm {method} of 1 KiB, {CONNECTIONS} connections", "req/s", "us/request", Side("hubgate"), Side("nginx"), (">=", 0.7))
        yield compare(bench, pids, row, measure, 1e6)
    same()
    if bench.upstream_requests() != before:
        raise Broken("warm requests asked upstream")
    lines = sum(1 for _ in (gateway.folder / "hubgate.log").open("rb"))
    yield Row("access lines written", "", "", Side("hubgate", [lines]))
    bench.end(nginx)
    bench.end(gateway)


def curl(url, *more):
    """Seconds for the whole body, thrown away."""
    said = run(["curl", "-sSfL", *more, "-o", "/dev/null", "-w", "%{time_total} %{size_download}", url]).split()
    return float(said[0]), int(float(said[1]))


def cold(bench):
    """The first reader of a file, from an origin that is capped, and from one that is not."""
    straight = bench.standin.url + bench.big_url
    target = bench.work / "peer"

    def fill(check):
        gateway = bench.gateway("cold")
        try:
            seconds, size = curl(gateway.url + bench.big_url)
            peak, cpu = machine.peak_mib(pid_of(gateway)), machine.cpu_seconds(pid_of(gateway))
            if size != bench.size:
                raise Broken(f"cold fill: {size} bytes")
            if check:
                bench.read(gateway.url + bench.big_url, sha256=True)
            return seconds, cpu / bench.size * 1e9, peak
        finally:
            bench.end(gateway)
            shutil.rmtree(gateway.folder, ignore_errors=True)

    def plain():
        seconds, size = curl(straight)
        if size != bench.size:
            raise Broken(f"straight: {size} bytes")
        return seconds

    def by_hand():
        """What a careful person would do without hubgate: the copy is hashed and on the disk."""
        script = f'curl -sSfL "{straight}" | tee >(sha256sum > "{target}.sum") | dd of="{target}" bs=1M iflag=fullblock conv=fsync status=none; wait'
        began = time.monotonic()
        run(["bash", "-c", "set -o pipefail; " + script])
        seconds = time.monotonic() - began
        if not Path(f"{target}.sum").read_text().startswith(bench.sha256):
            raise Broken("by hand: another sha256")
        target.unlink()
        return seconds

    def rounds(sides):
        peaks = []
        for number, side in enumerate(pairs(bench.args.rounds, list(sides))):
            if side.name == "hubgate":
                seconds, cpu, peak = fill(check=number in (0, len(sides) * bench.args.rounds - 1))
                side.add(seconds, cpu)
                peaks.append(peak)
            else:
                side.add(sides[side]())
        return max(peaks)

    class Key(Side):
        __hash__ = object.__hash__

    fill(check=True)
    ours, peer = Key("hubgate"), Key("curl")
    bench.cap(CAPPED)
    peak = rounds({ours: None, peer: plain})
    bench.cap(0)
    yield Row(f"cold fill of {bench.size >> 20} MiB at 100 MB/s", "s", "s/GB", ours, peer, ("<=", 1.1), peak)

    ours, hand, straight_side = Key("hubgate"), Key("curl|tee|dd"), Key("curl")
    peak = rounds({ours: None, hand: by_hand, straight_side: plain})
    yield Row("cold fill, origin not capped", "s", "s/GB", ours, hand, ("<=", 1.0), peak)
    yield Row("the same, beside plain curl", "s", "s/GB", ours, straight_side)


def s3(bench):
    """The file from MinIO over http: hubgate beside nginx passing the same object on, and MinIO itself."""
    folder = bench.work / "minio"
    minio = bench.start(Script("minio", folder, free_ports(2)))
    said = json.loads(minio.said)
    store = {"store.kind": "s3", "spool.dir": str(bench.work / "spool"), "spool.max_size": "20GB", "store.s3.prefix": "hubgate"}
    store |= {f"store.s3.{key}": said[key] for key in ("endpoint", "bucket", "access_key", "secret_key")}
    gateway = bench.gateway("s3", store)
    bench.read(gateway.url + bench.big_url, sha256=True)
    key = f"local/{said['bucket']}/hubgate/blobs/sha256/{bench.sha256[:2]}/{bench.sha256}"
    shared = run([CACHE / "bin" / "mc", "--config-dir", folder / "mc", "--json", "share", "download", "--expire", "24h", key])
    presigned = json.loads(shared)["share"]
    host, _, rest = presigned.removeprefix("http://").partition("/")
    relay = bench.nginx("relay", "relay.conf", minio=host, object="/" + rest)
    urls = {"hubgate": gateway.url + bench.big_url, "nginx relay": relay.url + "/object", "MinIO": presigned}
    pids = {"hubgate": pid_of(gateway), "nginx relay": pid_of(relay), "MinIO": pid_of(minio)}
    for url in urls.values():
        bench.read(url, sha256=True)
    before = bench.upstream_requests()

    def measure(side, warm_up):
        report = bench.read(urls[side.name])
        return report["bytes"] / report["seconds"] / 1e6, report["bytes"] / 1e9

    for peer, bar in (("nginx relay", (">=", 1.0)), ("MinIO", None)):
        row = Row(f"from MinIO, {bench.size >> 20} MiB, beside {peer}", "MB/s", "s/GB", Side("hubgate"), Side(peer), bar)
        yield compare(bench, pids, row, measure, 1)
    for url in urls.values():
        bench.read(url, sha256=True)
    if bench.upstream_requests() != before:
        raise Broken("warm reads asked upstream")
    for server in (relay, gateway, minio):
        bench.end(server)
    shutil.rmtree(folder, ignore_errors=True)


def shared(bench):
    """Sixteen at once on one cold file; and the footer of a cold file, in round trips to the origin."""
    # The measure of the sixteen bodies below: the origin's own, hashed once.
    bench.read(location(bench), sha256=True)
    counts, peaks = [], []
    for _ in range(max(1, min(3, bench.args.rounds))):
        gateway = bench.gateway("shared")
        before = bench.standin.file_bytes().get(f"{BIG}/model.safetensors", 0)
        bench.read(gateway.url + bench.big_url, 16)
        counts.append((bench.standin.file_bytes()[f"{BIG}/model.safetensors"] - before) / bench.size)
        peaks.append(machine.peak_mib(pid_of(gateway)))
        bench.end(gateway)
        shutil.rmtree(gateway.folder)
    # Less than one can't be: every reader got every byte.
    yield Row("16 readers of one cold file: upstream bytes", "x its size", "", Side("hubgate", counts), bar=("<=", 1.0), peak_mib=max(peaks))

    known, unknown, peaks = Side("hubgate"), Side("hubgate"), []
    bench.cap(CAPPED)
    for _ in range(bench.args.rounds):
        for side in (known, unknown):
            gateway = bench.gateway("footer")
            if side is known:
                # As clients do: HEAD, then what they are after.
                run(["curl", "-sSfI", gateway.url + bench.big_url])
            bench.standin.fault({"kind": "stall_before_headers", "ms": LATENCY_MS})
            report = bench.read(gateway.url + bench.big_url, sha256=True, byte_range=f"bytes=-{FOOTER_BYTES}")
            bench.standin.clear_faults()
            (answer,) = report["answers"]
            footer(bench, answer)
            side.add(answer["seconds"] * 1000 / LATENCY_MS)
            peaks.append(machine.peak_mib(pid_of(gateway)))
            bench.end(gateway)
            shutil.rmtree(gateway.folder)
    bench.cap(0)
    note = f"each round trip to the origin made to take {LATENCY_MS} ms"
    yield Row("footer of a cold file after its HEAD", "round trips", "", known, bar=("<=", 3.0), peak_mib=max(peaks), note=note)
    yield Row("the same of a commit never seen", "round trips", "", unknown, note="repo, README and tree are looked at first")


def footer(bench, answer):
    """The last bytes of the file, once from the origin itself as the measure."""
    if bench.footer_sha256 is None:
        straight = json.loads(run([bench.reader, "--sha256", "--range", f"bytes=-{FOOTER_BYTES}", location(bench)]))
        bench.footer_sha256 = straight["answers"][0]["sha256"]
    if answer["status"] != 206 or answer["bytes"] != FOOTER_BYTES or answer["sha256"] != bench.footer_sha256:
        raise Broken(f"the footer is wrong: {answer}")


def location(bench):
    """Where the origin sends for the large file."""
    return run(["curl", "-sSf", "-o", "/dev/null", "-w", "%{redirect_url}", bench.standin.url + bench.big_url]).strip()


UPLOAD = """
import sys
from pathlib import Path

import boto3

endpoint, bucket, key, secret, prefix, folder = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")
for path in sorted(Path(folder).rglob("*")):
    if path.is_file() and ".cache" not in path.parts:
        s3.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")
"""


def sync(bench):
    """A repo into a bucket under plain keys: `hubgate sync` beside `hf download` and an upload with boto3, once each."""
    minio = bench.start(Script("minio", bench.work / "minio-sync", free_ports(2)))
    # Both write where the shipped policies of the bucket let neither: as the server's root.
    said = json.loads(minio.said) | {"access_key": "root-user", "secret_key": "root-user-secret"}
    policy = bench.work / "sync-policy"
    policy.mkdir()
    for name, text in POLICY.items():
        (policy / name).write_text(text)
    hf, python = CACHE / "venv" / "hub240" / "bin" / "hf", CACHE / "venv" / "deploy" / "bin" / "python"
    for program in (hf, python):
        if not program.exists():
            raise Broken(f"{program} is not there; tests/infra/install.sh python deploy-tools installs it")

    def sent():
        return bench.standin.counters()["bytes"]

    def timed(work):
        before, began = sent(), time.monotonic()
        work()
        return time.monotonic() - began, sent() - before

    def hubgate(repo):
        settings = {
            "upstream.endpoint": bench.standin.url,
            "upstream.allowed_hosts": json.dumps([bench.standin.address, f"127.0.0.1:{bench.standin.cdn_port}"]),
            "upstream.allow_private": "true",
            "upstream.proxy": "none",
            "policy.dir": policy,
            "store.kind": "s3",
            "store.s3.prefix": "hubgate",
            "spool.dir": bench.work / "sync-spool",
            "spool.max_size": "20GB",
            "publish.prefix": "models",
            "publish.repos": json.dumps([repo]),
        }
        settings |= {f"store.s3.{key}": said[key] for key in ("endpoint", "bucket", "access_key", "secret_key")}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        run([bench.hubgate, *words, "sync", "--repo", repo, "--manifest", bench.work / "manifest.csv"], cwd=bench.work)

    def by_hand(repo):
        folder = bench.work / "by-hand"
        env = CLEAN | {"HF_ENDPOINT": bench.standin.url, "HF_HOME": str(bench.work / "hf-home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([hf, "download", repo, "--local-dir", folder], capture_output=True, text=True, env=env)
        if done.returncode:
            raise Broken(f"hf download failed:\n{done.stderr}")
        account = [said[key] for key in ("endpoint", "bucket", "access_key", "secret_key")]
        run([python, "-c", UPLOAD, *account, f"by-hand/{repo}", folder])
        shutil.rmtree(folder)

    for repo, what, size in ((MANY, f"{MANY_FILES} files of 4 KB", None), (HUGE, f"one file of {HUGE_BYTES >> 30} GiB", HUGE_BYTES)):
        ours, our_bytes = timed(lambda: hubgate(repo))
        theirs, their_bytes = timed(lambda: by_hand(repo))
        if size and (our_bytes < size or their_bytes < size):
            raise Broken(f"{repo}: {our_bytes} and {their_bytes} bytes came from the origin, of {size}")
        note = f"bytes that the origin sent: hubgate {our_bytes:,}, by hand {their_bytes:,}; one run; hubgate's is verified, recorded and copied to plain keys too"
        yield Row(f"sync of {what} into MinIO", "s", "", Side("hubgate", [ours]), Side("hf download + boto3", [theirs]), note=note)
    bench.end(minio)
    shutil.rmtree(bench.work / "minio-sync", ignore_errors=True)


def olah(bench):
    """olah from PyPI, another caching mirror of the Hub, beside hubgate on what both have stored."""
    program = CACHE / "venv" / "olah" / "bin" / "olah-cli"
    if not program.exists():
        raise Broken(f"{program} is not there; tests/infra/install.sh olah installs it")
    gateway, folder, port = bench.gateway("beside-olah"), bench.work / "olah", free_ports()
    folder.mkdir()
    here, cdn, mirror = bench.standin.address, f"127.0.0.1:{bench.standin.cdn_port}", f"127.0.0.1:{port}"
    words = ["--host", "127.0.0.1", "--port", port, "--hf-scheme", "http", "--hf-netloc", here, "--hf-lfs-netloc", cdn, "--mirror-scheme", "http"]
    words += ["--mirror-netloc", mirror, "--mirror-lfs-netloc", mirror, "--repos-path", folder / "repos", "--log-path", folder / "logs"]
    server = bench.start(Server("olah", [program, *words], folder))
    server.wait(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
    bases = {"hubgate": gateway.url, "olah": f"http://{mirror}"}
    pids = {"hubgate": pid_of(gateway), "olah": server.process.pid}
    for base in bases.values():
        bench.read(base + bench.big_url, sha256=True)
        if fetch(base + bench.small_url) != bench.small:
            raise Broken(f"{base}: another body")

    def whole(side, warm_up):
        report = bench.read(bases[side.name] + bench.big_url)
        return report["bytes"] / report["seconds"] / 1e6, report["bytes"] / 1e9

    def little(side, warm_up):
        # In one second olah may give no answer at all.
        return oha(bases[side.name] + bench.small_url, "GET", max(5, bench.args.seconds))

    yield compare(bench, pids, Row(f"warm GET of {bench.size >> 20} MiB, 1 reader", "MB/s", "s/GB", Side("hubgate"), Side("olah")), whole, 1)
    yield compare(bench, pids, Row(f"warm GET of 1 KiB, {CONNECTIONS} connections", "req/s", "us/request", Side("hubgate"), Side("olah")), little, 1e6)
    bench.end(server)
    bench.end(gateway)
