"""Clients that kept their own cache: what they ask the second time, and what they do without hubgate.

What a client remembers is made of what hubgate told it: etags, commits, which files are not there. Elsewhere each
run begins with an empty cache, and nothing of that would be seen.
"""
from contextlib import ExitStack

import flows
from play import Result, run_flow
from repos import POLICY
from suites import closing, only_hubgate, store_settings, upstream_settings
from world import Exits, Gateway, StandIn


def again(run):
    """Clients with their own cache: hf-hub's 304, what transformers knows to be missing, and hubgate stopped."""
    folder = run.folder / "again"
    plays = {"rust1": ("download", not_modified), "tf5": ("tokenizer", not_missed_again), "hub240": ("snapshot", None), "hub133": ("snapshot", None)}
    with ExitStack() as stack:
        standin = stack.enter_context(closing(StandIn(run.standin, folder, run.repos)))
        settings = upstream_settings(standin) | store_settings(stack, "local", folder)
        gateway = stack.enter_context(closing(Gateway(run.hubgate, folder, settings, POLICY)))
        exits = stack.enter_context(closing(Exits(folder, gateway.address)))
        for client in run.clients:
            if client.name in plays:
                name, judged = plays[client.name]
                flow = next(f for f in flows.flows() if client.name in f.clients and f.name == name)
                yield from twice(run, client, flow, gateway, exits, judged)
        yield only_hubgate("all", standin)


def twice(run, client, flow, gateway, exits, judged):
    """The flow, the flow again, and once more with hubgate stopped where nobody judges what is asked."""
    before = len(gateway.asked())
    yield run_flow(run, client, flow, "cold", gateway, exits)
    gateway.stop()
    between = len(gateway.asked())
    cold = gateway.asked()[before:]
    if judged:
        gateway.start()
        yield run_flow(run, client, flow, "again", gateway, exits, own="cold")
        gateway.stop()
        problem = judged(cold, gateway.asked()[between:])
        yield Result(client.name, f"({judged.__doc__})", "again", 0, problem)
    else:
        yield run_flow(run, client, flow, "without hubgate", gateway, exits, own="cold")
    gateway.start()


def shown(lines):
    return [f"{line['method']} {line['route']} {line.get('path')} {line['status']}" for line in lines]


def not_modified(cold, later):
    """each file is asked for and not modified"""
    wanted = {line["path"] for line in cold if line["method"] == "GET" and line["status"] == 200}
    unchanged = {line["path"] for line in later if line["status"] == 304}
    sent = [line for line in later if line["bytes"]]
    return "" if wanted and wanted == unchanged and not sent else f"cold {shown(cold)}, again {shown(later)}"


def not_missed_again(cold, later):
    """what is missing is not asked for again"""
    missing = {line["path"] for line in cold if line["route"] == "resolve" and line["status"] == 404}
    asked = [line for line in later if line["route"] == "resolve" and line.get("path") in missing]
    return "" if missing and later and not asked else f"missing {sorted(missing)}, again {shown(later)}"
