"""Plays one flow: a client's process in a fresh environment, and everything that is wrong with what it did."""
import json
import subprocess
import time
from dataclasses import dataclass

from flows import Error, Files
from world import client_env

FLOW_SECONDS = 180


@dataclass
class Result:
    client: str
    flow: str
    phase: str
    seconds: float
    problem: str = ""  # empty: passed


def run_flow(run, client, flow, phase, gateway, exits, more_env=(), own=None):
    """One process of a client, and everything that is wrong with what it did. It begins with nothing of its own,
    unless `own` is the phase whose cache it goes on with."""
    ask = flow.ask(run.oracle) if callable(flow.ask) else flow.ask
    expected = flow.expect(run.oracle)
    home = gateway.folder / "home" / f"{flow.name}-{own or phase}"
    env = client_env(gateway.url, exits, home, {**client.env, **flow.env, **dict(more_env)}, keep=own is not None)
    before, start = len(exits.attempts()), time.monotonic()
    command = [*map(str, client.command), client.prefix + flow.action, json.dumps(ask)]
    try:
        done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, errors="replace", timeout=FLOW_SECONDS)
        problem = judge(expected, done)
    except subprocess.TimeoutExpired:
        problem = f"not finished after {FLOW_SECONDS} s"
    left = sorted({attempt["host"].rsplit(":", 1)[0] for attempt in exits.attempts()[before:]} - set(flow.exits))
    if left:
        problem = (problem + "; " if problem else "") + f"tried to leave: {', '.join(left)}"
    return Result(client.name, flow.name, phase, time.monotonic() - start, problem)


def judge(expected, done):
    """What is wrong with a finished client, or nothing."""
    lines = done.stdout.strip().splitlines()
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        return f"exit {done.returncode} without an answer; stderr ends: {done.stderr[-1500:]}"
    if isinstance(expected, Error):
        if said["ok"]:
            return f"succeeded, but should have been refused: {said}"
        if expected.classes and said["error"] not in expected.classes:
            return f"{said['error']}, expected {' or '.join(expected.classes)}: {said['text'][:800]}"
        if expected.said and not all(text in said["text"] for text in expected.texts):
            return f"the exception does not say {list(expected.texts)}: {said['text'][:800]}"
        missing = [text for text in expected.texts if text not in done.stderr]
        return f"stderr does not say {missing}; it ends: {done.stderr[-1500:]}" if missing else ""
    if not said["ok"]:
        return f"{said['error']}: {said['text'][:800]}; stderr ends: {done.stderr[-1500:]}"
    if isinstance(expected, Files):
        got, wanted = said["files"], expected.files
        wrong = [f"{name}: {'missing' if name not in got else 'another sha256'}" for name in wanted if got.get(name) != wanted[name]]
        return "; ".join(wrong + [f"{name}: not asked for" for name in got if name not in wanted])
    if said["value"] != expected.value:
        return f"got {json.dumps(said['value'])[:700]}, expected {json.dumps(expected.value)[:700]}"
    return ""


def attack_flow(run, client, flow, gateway, exits, phase, keep=False):
    """A download that may fail but must not succeed with other bytes; `keep` goes on with the client's own cache."""
    home = gateway.folder / "home" / "attack"
    env = client_env(gateway.url, exits, home, {**client.env, **flow.env}, keep=keep)
    start = time.monotonic()
    command = [*map(str, client.command), flow.action, json.dumps(flow.ask)]
    try:
        done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, errors="replace", timeout=FLOW_SECONDS)
        said = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return Result(client.name, "resume", phase, time.monotonic() - start, f"not finished after {FLOW_SECONDS} s")
    except (IndexError, ValueError):
        return Result(client.name, "resume", phase, time.monotonic() - start, f"no answer; stderr ends: {done.stderr[-800:]}")
    wrong = said["ok"] and said["files"] != flow.expect(run.oracle).files
    return Result(client.name, "resume", phase, time.monotonic() - start, "ended with a WRONG FILE" if wrong else "")


def patiently(attempt, seconds=90):
    """The first good result, or the last bad one: hubgate slows down refetches of a digest that was wrong."""
    deadline = time.monotonic() + seconds
    while (result := attempt()).problem and time.monotonic() < deadline:
        time.sleep(2)
    return result
