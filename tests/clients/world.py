"""The processes of one run: the stand-in Hub, hubgate, the proxy without an exit, S3 servers, squid.

Everything listens on loopback at ports that the kernel picks, lives in one folder, and ends with `close`.
A process that does not become ready raises with the end of its log.
"""
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INFRA = ROOT / "tests" / "infra"
CACHE = Path(os.environ.get("CI_CACHE", ROOT / ".cache"))
READY_SECONDS = 30
# What our own processes see: no proxy, no token, nothing of the caller's HF_ or HUBGATE_ settings.
CLEAN = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ} | {"HOME": "/nonexistent"}
# For requests of the driver itself: straight, whatever proxy the caller's environment names.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# A client that every hubgate here knows, beside those who give no token or one of the Hub's; and what it is to whoami.
CLIENT_TOKEN, CLIENT = "hg_of_the_clients", {"name": "clients", "type": "user"}


class Broken(Exception):
    """A real component could not do its part: the run fails, nothing is skipped."""


def free_ports(count=1):
    """Ports nobody uses, consecutive: some servers take PORT and PORT+1."""
    while True:
        probes = [socket.socket() for _ in range(count)]
        try:
            probes[0].bind(("127.0.0.1", 0))
            first = probes[0].getsockname()[1]
            for offset, probe in enumerate(probes[1:], 1):
                probe.bind(("127.0.0.1", first + offset))
            return first
        except (OSError, OverflowError):
            continue
        finally:
            for probe in probes:
                probe.close()


def fetch(url, data=None, method=None, opener=DIRECT):
    """Body of an answer of our own servers."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {}, method=method)
    with opener.open(request, timeout=30) as answer:
        return answer.read()


class Server:
    """A child process with its log."""

    def __init__(self, name, command, folder, env=None):
        self.name, self.log = name, Path(folder) / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.output = self.log.open("ab")
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT, env=env or CLEAN, cwd=folder
        )

    def wait(self, probe):
        """Until the probe gives something true; raises when the process dies or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if found := probe():
                    return found
            except (OSError, ValueError, urllib.error.URLError):
                pass
            time.sleep(0.05)
        state = "ended with " + str(self.process.returncode) if self.process.poll() is not None else f"not ready after {READY_SECONDS} s"
        self.stop()
        raise Broken(f"{self.name}: {state}; the end of {self.log}:\n{self.tail()}")

    def tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.output.close()


class Script:
    """A server of tests/infra with its own start and stop."""

    def __init__(self, name, folder, *words):
        self.name, self.folder = name, Path(folder)
        # To a file, not a pipe: the server inherits it and would hold a pipe open.
        self.folder.mkdir(parents=True, exist_ok=True)
        told, said = self.folder.with_suffix(".out"), self.folder.with_suffix(".err")
        with told.open("wb") as out, said.open("wb") as err:
            code = subprocess.call([INFRA / f"{name}.sh", "start", folder, *map(str, words)], stdout=out, stderr=err, env=CLEAN | {"CI_CACHE": str(CACHE)})
        if code:
            raise Broken(f"{name} did not start:\n{said.read_text(errors='replace')}")
        self.said = told.read_text()

    def stop(self):
        subprocess.run([INFRA / f"{self.name}.sh", "stop", self.folder], env=CLEAN, check=False)


class StandIn:
    """The stand-in Hub: its two origins, its control listener, and what it counted."""

    def __init__(self, binary, folder, repos, extra=()):
        listen, cdn, control = (free_ports() for _ in range(3))
        words = [binary, "--listen", f"127.0.0.1:{listen}", "--cdn-listen", f"127.0.0.1:{cdn}", "--control", f"127.0.0.1:{control}"]
        self.port, self.cdn_port = listen, cdn
        self.control = f"http://127.0.0.1:{control}"
        self.address = f"127.0.0.1:{listen}"
        self.server = Server("standin", [*words, *repos, *extra], folder)
        self.ready = self.server.wait(self._first_line)
        self.url = f"http://127.0.0.1:{listen}"

    def _first_line(self):
        for line in self.server.log.read_text().splitlines():
            if line.startswith("{"):
                return json.loads(line)
        return None

    def counters(self):
        return json.loads(fetch(self.control + "/-/standin/counters"))

    def strangers(self):
        """Who asked it past hubgate: clients take any address of 127.0.0.1 without a proxy, so the proxy sees none of that."""
        agents = {dict(request["headers"]).get("user-agent", "(no user-agent)") for request in self.counters()["recent"]}
        return ", ".join(sorted(agent for agent in agents if not agent.startswith("hubgate/")))

    def file_bytes(self):
        """Bytes of file content that it has sent so far, by file."""
        return self.counters()["file_bytes"]

    def fault(self, kind, **narrowed):
        """Sets one; see the stand-in's faults.rs for the kinds."""
        fetch(self.control + "/-/standin/faults", {"fault": kind, **narrowed})

    def faults(self):
        return json.loads(fetch(self.control + "/-/standin/faults"))

    def clear_faults(self):
        fetch(self.control + "/-/standin/faults", method="DELETE")

    def stop(self):
        self.server.stop()


class Exits:
    """The proxy of the clients' environment. It lets nobody out and remembers who tried."""

    def __init__(self, folder, gateway):
        self.port, self.log = free_ports(), Path(folder) / "exits.jsonl"
        self.server = Server("exits", [sys.executable, INFRA / "exits.py", self.port, self.log, gateway], folder)
        self.server.wait(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() or self.log.exists())
        self.url = f"http://127.0.0.1:{self.port}"

    def attempts(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self):
        self.server.stop()


def toml(value):
    """JSON's strings, numbers and booleans are TOML's."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


class Gateway:
    """hubgate before an upstream, with the policy that the flows expect."""

    def __init__(self, binary, folder, settings, policy, tls=None):
        self.folder = Path(folder)
        self.port = free_ports()
        settings = {**settings, "server.listen": f"127.0.0.1:{self.port}"}
        scheme, opener = "http", DIRECT
        if tls:
            settings |= {"server.tls.cert": str(tls.cert), "server.tls.key": str(tls.key)}
            context = ssl.create_default_context(cafile=tls.ca)
            scheme, opener = "https", urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.address, self.binary, self.opener = f"127.0.0.1:{self.port}", binary, opener
        (self.folder / "policy").mkdir(parents=True, exist_ok=True)
        for name, text in policy.items():
            (self.folder / "policy" / name).write_text(text)
        settings["auth.clients"] = [{"name": CLIENT["name"], "token_sha256": hashlib.sha256(CLIENT_TOKEN.encode()).hexdigest()}]
        settings |= {"policy.dir": str(self.folder / "policy"), "policy.contact": "ml-platform@example.com", "log.format": "json"}
        self.config = self.folder / "config.toml"
        self.config.write_text("".join(f"{key} = {toml(value)}\n" for key, value in sorted(settings.items())))
        self.server = None
        self.start()

    def start(self):
        self.server = Server("hubgate", [self.binary, "serve", "--config", self.config], self.folder)
        self.server.wait(lambda: fetch(self.url + "/-/readyz", opener=self.opener) is not None)

    def asked(self):
        """The access lines so far. Lines are written behind the answers: of a stopped hubgate they are all."""
        lines = [json.loads(line) for line in self.server.log.read_text().splitlines()]
        return [line for line in lines if "request_id" in line and line.get("route") != "own"]

    def verify(self):
        """`hubgate verify`: what the store and the manifest say of each other. Its output when they disagree."""
        done = subprocess.run([self.binary, "verify", "--config", self.config], capture_output=True, text=True, env=CLEAN, cwd=self.folder)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def stop(self):
        self.server.stop()


class PrivateCa:
    """A CA that no client knows, and a certificate of it for 127.0.0.1."""

    def __init__(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = folder / "names"
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
        for words in (
            ["req", "-x509", *ec, "-days", "30", "-subj", "/CN=hubgate test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", folder / "ca.key", "-out", self.ca],
            ["req", *ec, "-subj", "/CN=127.0.0.1", "-keyout", self.key, "-out", folder / "csr.pem"],
            ["x509", "-req", "-in", folder / "csr.pem", "-CA", self.ca, "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "30", "-extfile", names, "-out", self.cert],
        ):
            done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
            if done.returncode:
                raise Broken(f"openssl {words[0]}: {done.stderr}")

    def env(self):
        """How each ecosystem is told of a private CA."""
        ca = str(self.ca)
        return {"SSL_CERT_FILE": ca, "REQUESTS_CA_BUNDLE": ca, "CURL_CA_BUNDLE": ca, "NODE_EXTRA_CA_CERTS": ca}


def client_env(gateway_url, exits, home, more=(), keep=False):
    """A workload's environment: HF_ENDPOINT is all that it knows of hubgate. `home` is emptied unless kept."""
    home = Path(home)
    if not keep:
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    proxies = {name: exits.url for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")}
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "HF_HOME": str(home),
        "HF_ENDPOINT": gateway_url,
        **proxies,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        # Two known habits that have nothing to do with the gateway: the CLI's look at the package index, and
        # the download counter of datasets at S3.
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "NODE_PACKAGES": str(CACHE / "node"),
        **dict(more),
    }
