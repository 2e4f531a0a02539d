"""The suites: what stands before and behind hubgate, and what is done to it while real clients work.

Each function takes the run's options and yields results; `Broken` comes through it when a real component cannot do its part.
"""
import hashlib
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import flows
from flows import Error
from play import Result, attack_flow, patiently, run_flow
from repos import LARGE_BYTES, MINILM_WEIGHTS, POLICY
from world import INFRA, Exits, Gateway, PrivateCa, Script, Server, StandIn, free_ports


@contextmanager
def closing(server):
    try:
        yield server
    finally:
        server.stop()


def store_settings(stack, kind, folder):
    """The gateway's [store] for a kind of store, which is started if it is a server."""
    if kind == "local":
        return {"store.kind": "local", "store.local.path": str(folder / "store")}
    script = Script(kind, folder / kind, free_ports(2))
    stack.callback(script.stop)
    return s3_settings(json.loads(script.said), folder)


def s3_settings(said, folder):
    s3 = {"endpoint": said["endpoint"], "bucket": said["bucket"], "prefix": "hubgate", "region": "us-east-1", "access_key": said["access_key"], "secret_key": said["secret_key"]}
    return {"store.kind": "s3", "spool.dir": str(folder / "spool")} | {f"store.s3.{key}": value for key, value in s3.items()}


def upstream_settings(standin):
    return {"upstream.endpoint": standin.url, "upstream.allowed_hosts": [f"127.0.0.1:{standin.cdn_port}"], "upstream.allow_private": True}


def chosen(run, client):
    return [f for f in flows.flows() if client.name in f.clients and (not run.flow or run.flow in f.name)]


def three_phases(run, client, store, wanted):
    """Cold, warm and offline runs of a client's flows, against a gateway and a store of its own."""
    folder = run.folder / f"{store}-{client.name}"
    results = []
    with ExitStack() as stack:
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos)))
        settings = upstream_settings(standin) | store_settings(stack, store, folder)
        gateway = stack.enter_context(closing(Gateway(run.hubgate, folder, settings, POLICY)))
        exits = stack.enter_context(closing(Exits(folder, gateway.address)))
        for phase in ("cold", "warm", "offline"):
            before = standin.file_bytes() if phase == "warm" else None
            if phase == "offline":
                results.append(only_hubgate(client.name, standin))
                standin.stop()
            results += [run_flow(run, client, flow, phase, gateway, exits) for flow in wanted]
            if phase == "warm":
                after = standin.file_bytes()
                again = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
                results.append(Result(client.name, "(no file bytes from upstream)", phase, 0, f"fetched again: {again}" if again else ""))
        results.append(Result(client.name, "(verify)", "after", 0, gateway.verify()))
    return results


def only_hubgate(client, standin):
    strangers = standin.strangers()
    return Result(client, "(nobody past hubgate)", "after", 0, f"asked the Hub themselves: {strangers}" if strangers else "")


def direct(run):
    """No hubgate: Python's flows straight at the stand-in, which shows whether they expect the right things."""
    folder = run.folder / "direct"
    with ExitStack() as stack:
        # 1.33 takes another port of the same host for the Hub itself: the CDN needs another name.
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos, ["--cdn-host", "localhost"])))
        standin.folder = folder
        exits = stack.enter_context(closing(Exits(folder, standin.address)))
        # Without a gateway in between, Xet must be off by hand; the other clients would leave for it.
        env = {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        for client in run.clients:
            for flow in chosen(run, client):
                if client.name in (*flows.HUB, "tf5", "ds5") and (not isinstance(flow.expect(run.oracle), Error) or flow.name == "missing"):
                    yield run_flow(run, client, flow, "direct", standin, exits, env.items())


def local(run):
    """Every flow of every client on the local store."""
    jobs = [(client, chosen(run, client)) for client in run.clients]
    # The longest first: two at a time then end together.
    jobs = sorted((job for job in jobs if job[1]), key=lambda job: -len(job[1]))
    with ThreadPoolExecutor(run.jobs) as pool:
        for results in pool.map(lambda job: three_phases(run, job[0], run.store, job[1]), jobs):
            yield from results


def on_server(kind):
    def suite(run):
        with ThreadPoolExecutor(run.jobs) as pool:
            for results in pool.map(lambda client: three_phases(run, client, kind, [flows.smoke(client)]), run.clients):
                yield from results

    suite.__doc__ = f"One flow of each client on {kind} over http."
    return suite


def tls(run):
    """One smoke run of each client that can be told of a private CA, over https."""
    folder = run.folder / "tls"
    with ExitStack() as stack:
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos)))
        ca = PrivateCa(folder / "pki")
        settings = upstream_settings(standin) | store_settings(stack, "local", folder)
        gateway = stack.enter_context(closing(Gateway(run.hubgate, folder, settings, POLICY, tls=ca)))
        exits = stack.enter_context(closing(Exits(folder, gateway.address)))
        for client in run.clients:
            # hf-hub 0.4 with rustls has its roots compiled in: no setting reaches it.
            if not client.name.startswith("rust0"):
                yield run_flow(run, client, flows.smoke(client), "tls", gateway, exits, ca.env().items())
        yield only_hubgate("all", standin)


def minilm(run):
    """The real files of all-MiniLM-L6-v2 through transformers, and one client of each other ecosystem."""
    repo = flows.MINILM
    content = run.oracle.content(repo, "model.safetensors")
    said = (len(content), hashlib.sha256(content).hexdigest())
    yield Result("-", "(the weights are the real ones)", "before", 0, "" if said == MINILM_WEIGHTS else f"{said}, expected {MINILM_WEIGHTS}")
    whole = flows.Flow("minilm", ("hub240", "hub023", "js", "rust1"), "snapshot", flows.ask(repo), flows.files(repo))
    wanted = {"tf5": [f for f in flows.framework_flows() if "tf5" in f.clients]}
    for client in run.clients:
        for_it = wanted.get(client.name, [whole] if client.name in whole.clients else [])
        if for_it:
            yield from three_phases(run, client, "local", for_it)


def refusal(run):
    """Only the refusals, cold: the stderr of an uncaught script, for every client."""
    folder = run.folder / "refusal"
    with ExitStack() as stack:
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos)))
        gateway = stack.enter_context(closing(Gateway(run.hubgate, folder, upstream_settings(standin) | store_settings(stack, "local", folder), POLICY)))
        exits = stack.enter_context(closing(Exits(folder, gateway.address)))
        for client in run.clients:
            for flow in flows.refusal_flows():
                if client.name in flow.clients:
                    yield run_flow(run, client, flow, "cold", gateway, exits)
        yield only_hubgate("all", standin)
        asked = [path for path in standin.counters()["paths"] if "forbidden" in path or "other/unknown" in path]
        yield Result("hubgate", "(nothing asked of a denied repo)", "cold", 0, f"asked upstream: {asked}" if asked else "")


def egress(run):
    """The upstream through squid alone, with basic auth: an http and an https origin, an http and an https proxy."""
    for origin in ("http", "https"):
        for proxy in ("http", "https"):
            yield from through_squid(run, origin, proxy)
        yield from nobody_behind_squid(run, origin)
    yield from wrong_password(run)


@contextmanager
def behind_squid(run, folder, origin, proxy, password="egress-secret"):
    """A stand-in that only squid's resolver knows by name, and hubgate with squid as its egress proxy."""
    with ExitStack() as stack:
        words = ["--hub-host", "hub.test", "--cdn-host", "cdn.hub.test"] + (["--tls-dir", str(folder / "origin")] if origin == "https" else [])
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos, words)))
        port = free_ports(2)
        squid = Script("squid", folder / "squid", port, standin.port, standin.cdn_port)
        stack.callback(squid.stop)
        settings = {
            "upstream.endpoint": f"{origin}://hub.test:{standin.port}",
            "upstream.allowed_hosts": [f"cdn.hub.test:{standin.cdn_port}"],
            "upstream.proxy": f"{proxy}://localhost:{port if proxy == 'http' else port + 1}",
            "upstream.proxy_user": "egress",
            "upstream.proxy_password": password,
        }
        authorities = ([folder / "origin/ca.pem"] if origin == "https" else []) + ([folder / "squid/proxy-ca.pem"] if proxy == "https" else [])
        if authorities:
            (folder / "ca.pem").write_text("".join(path.read_text() for path in authorities))
            settings["upstream.ca_file"] = str(folder / "ca.pem")
        gateway = stack.enter_context(closing(Gateway(run.hubgate, folder, settings | store_settings(stack, "local", folder), POLICY)))
        exits = stack.enter_context(closing(Exits(folder, gateway.address)))
        yield standin, gateway, exits


def through_squid(run, origin, proxy):
    folder, phase = run.folder / f"squid-{origin}-{proxy}", f"{origin} via {proxy}"
    with behind_squid(run, folder, origin, proxy) as (standin, gateway, exits):
        for client in flows.clients():
            if client.name in ("hub240", "hub023"):
                yield run_flow(run, client, flows.smoke(client), phase, gateway, exits)
        gateway.stop()  # squid logs a tunnel when it ends
        yield Result("hubgate", "(only through squid)", phase, 0, bypasses(standin, folder / "squid/access.log", origin))


def nobody_behind_squid(run, origin):
    """The Hub is gone. squid lets the request pass and says so, which is no refusal of squid's: 503, ask again."""
    folder = run.folder / f"squid-{origin}-gone"
    client = next(c for c in flows.clients() if c.name == "curl")
    expect = flows.error("the origin cannot be reached by the egress proxy", "503")
    flow = flows.Flow("hub-gone", ("curl",), "refused", flows.ask(flows.TINY, "config.json"), expect)
    with behind_squid(run, folder, origin, "http") as (standin, gateway, exits):
        standin.stop()
        yield run_flow(run, client, flow, f"{origin}, nobody there", gateway, exits)


def wrong_password(run):
    """A wrong password is tried once, because accounts get locked, and the client reads whose fault it is."""
    folder = run.folder / "squid-407"
    client = next(c for c in flows.clients() if c.name == "curl")
    flow = flows.Flow("wrong-password", ("curl",), "refused", flows.ask(flows.TINY, "config.json"), flows.error("egress proxy refuses"))
    with behind_squid(run, folder, "http", "http", "mistyped") as (standin, gateway, exits):
        yield run_flow(run, client, flow, "first", gateway, exits)
        yield run_flow(run, client, flow, "second", gateway, exits)
        tries = (folder / "squid/access.log").read_text().count("TCP_DENIED/407")
        yield Result("hubgate", "(one 407 ends the tries)", "after", 0, "" if tries == 1 else f"squid refused the account {tries} times")
        arrived = standin.counters()["requests"]
        yield Result("hubgate", "(nothing past the proxy)", "after", 0, f"the stand-in got {arrived} requests" if arrived else "")


def bypasses(standin, access_log, origin):
    """What the stand-in got that squid did not carry: of an http origin squid sees requests, of an https one tunnels."""
    lines = [line.split() for line in Path(access_log).read_text().splitlines()]
    # time, elapsed, client, result/status, bytes, method, URL, user, ...
    carried = [line for line in lines if (line[5] == "CONNECT") == (origin == "https") and line[3].startswith("TCP_") and "DENIED" not in line[3]]
    strangers = [line for line in carried if line[7] != "egress"]
    arrived = standin.counters()["requests" if origin == "http" else "connections"]
    if strangers:
        return f"squid carried requests without the account: {strangers[:3]}"
    if not carried or len(carried) != arrived:
        return f"squid carried {len(carried)}, the stand-in got {arrived}"
    return ""


def s3throttle(run):
    """huggingface_hub 0.23.5 gets its file although S3 takes it at a quarter of the origin's speed."""
    folder = run.folder / "s3throttle"
    speed = LARGE_BYTES // 8
    client = next(c for c in flows.clients() if c.name == "hub023")
    flow = next(f for f in flows.hub_flows() if f.name == "large")
    with ExitStack() as stack:
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos)))
        standin.fault({"kind": "slow", "bytes_per_second": speed}, path="*weights.bin*")
        script = Script("minio", folder / "minio", free_ports(2))
        stack.callback(script.stop)
        said = json.loads(script.said)
        relay, target = free_ports(), said["endpoint"].rsplit(":", 1)[1]
        slow = stack.enter_context(closing(Server("throttle", [sys.executable, INFRA / "throttle.py", relay, target, speed // 4], folder)))
        said["endpoint"] = f"http://127.0.0.1:{relay}"
        slow.wait(lambda: socket.create_connection(("127.0.0.1", relay), 1).close() or True)
        gateway = stack.enter_context(closing(Gateway(run.hubgate, folder, upstream_settings(standin) | s3_settings(said, folder), POLICY)))
        exits = stack.enter_context(closing(Exits(folder, gateway.address)))
        yield run_flow(run, client, flow, "throttled", gateway, exits)
        yield Result("hubgate", "(verify)", "after", 0, gateway.verify())


def resume(run):
    """One flipped byte and a cut before the end, then an honest origin: no client may end with a wrong file."""
    folder = run.folder / "resume"
    flow = next(f for f in flows.hub_flows() if f.name == "large")
    for client in run.clients:
        if client.name not in flows.HUB:
            continue
        with ExitStack() as stack:
            own = folder / client.name
            standin = stack.enter_context(closing(StandIn(run.standin, own, run.repos)))
            gateway = stack.enter_context(closing(Gateway(run.hubgate, own, upstream_settings(standin) | store_settings(stack, "local", own), POLICY)))
            exits = stack.enter_context(closing(Exits(own, gateway.address)))
            # The first answer lies early and breaks off late; the fill's own resumption then brings the honest
            # rest, so the digest is wrong. What follows is honest throughout.
            standin.fault({"kind": "flip_byte", "at": 20_000_000}, path="extra/large/weights.bin", origin="cdn", times=1)
            standin.fault({"kind": "cut_after", "bytes": LARGE_BYTES - 5_000_000}, path="extra/large/weights.bin", origin="cdn", times=1)
            yield attack_flow(run, client, flow, gateway, exits, "attacked")
            struck = [fault["struck"] for fault in standin.faults()]
            standin.clear_faults()
            yield attack_flow(run, client, flow, gateway, exits, "again", keep=True)
            yield Result(client.name, "(the attack took place)", "after", 0, "" if all(struck) else f"faults struck {struck} times")
            # In the end a patient user with a fresh cache gets the honest file, and the store never kept the other.
            yield patiently(lambda: run_flow(run, client, flow, "honest", gateway, exits))
            yield Result(client.name, "(verify)", "after", 0, gateway.verify())


SUITES = {
    "direct": direct,
    "local": local,
    "minio": on_server("minio"),
    "versitygw": on_server("versitygw"),
    "tls": tls,
    "squid": egress,
    "minilm": minilm,
    "resume": resume,
    "s3throttle": s3throttle,
    "refusal": refusal,
}
