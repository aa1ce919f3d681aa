#!/usr/bin/env python3
"""Builds every test of the workspace, and runs two test programs at a time.

Cargo runs one program after the other, and much of their time is waiting. The longest programs begin first. The
output of a program is shown when it has failed; of the others the result and the time are shown.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

CARGO_TEST = ["cargo", "test", "--locked"]
EVERYTHING = ["--workspace", "--all-features"]
# What a request allocates without the feature `metrics`, which all other tests have.
WITHOUT_METRICS = ["-p", "tower-sticky-benches", "--no-default-features", "--test", "allocations"]
# The programs that take the longest, in the order in which they are begun. All others follow.
LONGEST = ["session_data", "doc tests", "memory", "gateway", "in_process"]
AT_ONCE = 2
# What must be over a second after a fault is over then, and browsers need both cores: nothing else may take the time.
ALONE = ["chaos", "load", "clients"]
# Longer than any program takes on a slow machine: one that hangs is ended, and has failed.
LIMIT_SECONDS = 1200


def test_programs():
    """The test programs, each with the directory of its package, as Cargo would run it."""
    command = [*CARGO_TEST, *EVERYTHING, "--no-run", "--message-format=json-render-diagnostics"]
    build = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    for line in build.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            directory = os.path.dirname(message["manifest_path"])
            yield message["target"]["name"], [message["executable"]], directory


def run(job):
    """Runs one program. Returns its name, exit code, output and time in seconds."""
    name, command, directory = job
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nended after {LIMIT_SECONDS} seconds\n".encode()
    took = time.monotonic() - begun
    text = output.decode(errors="replace")
    results = [line for line in text.splitlines() if line.startswith("test result")]
    if process.returncode != 0:
        print(text, flush=True)
    print(f"{took:6.1f} s  {name}: {'; '.join(results) or 'no result'}", flush=True)
    return name, process.returncode, results


def main():
    here = os.getcwd()
    jobs = list(test_programs())
    jobs.append(("doc tests", [*CARGO_TEST, *EVERYTHING, "--doc"], here))
    jobs.append(("allocations without metrics", [*CARGO_TEST, *WITHOUT_METRICS], here))
    jobs.sort(key=lambda job: LONGEST.index(job[0]) if job[0] in LONGEST else len(LONGEST))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(run, (job for job in jobs if job[0] not in ALONE)))
    ended += [run(job) for job in jobs if job[0] in ALONE]
    failed = [name for name, code, results in ended if code != 0 or not results]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    print(f"{len(ended)} test programs passed")


main()
