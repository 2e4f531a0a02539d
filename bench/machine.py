"""What the bench reads of the machine: CPU time and peak memory of server processes, and what the machine is.

A server may be several processes (nginx's workers): all of them count.
"""
import os
import platform
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid):
    """A process and all below it."""
    found = [pid]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    for child in children:
        found += family(int(child))
    return found


def cpu_seconds(pid):
    """User and system time of a server so far."""
    total = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def forget_peak(pid):
    """Starts the peak of memory anew."""
    for one in family(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def peak_mib(pid):
    """Highest resident memory since then, of all processes together."""
    total = 0
    for one in family(pid):
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1])
    return total / 1024


def machine_cpu():
    """CPU seconds that the whole machine has used so far, idle time left out."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


class Load:
    """How busy the machine was with anything that is not the bench: what makes numbers noisy."""

    def __init__(self, servers):
        self.servers, self.began = servers, time.monotonic()
        self.spent_before = self.spent()

    def spent(self):
        """CPU seconds of all processes but us, our clients and our servers."""
        times = os.times()
        ours = times.children_user + times.children_system + times.user + times.system
        return machine_cpu() - ours - sum(cpu_seconds(pid) for pid in self.servers)

    def others(self):
        """Cores that others used since the start, on average."""
        return max(0.0, (self.spent() - self.spent_before) / max(time.monotonic() - self.began, 1e-9))


def description():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown CPU")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // (1 << 20)
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition("/")[2]
    return f"{os.cpu_count()} cores {model}, {memory} GiB, {platform.system()} {platform.release()}, nginx {nginx}"
