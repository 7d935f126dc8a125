"""Runs one command in a process of its own and writes down its time, memory, and when it printed what.

    python measure.py RECORD.json LOG.txt COMMAND [ARGUMENT ...]

Standard library only, and run as a small process: Linux counts the memory of the process that starts a command into
the peak of that command, so that a large one must not start it. Each line of the log begins with the seconds since
the start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def main() -> int:
    """Run, and return the command's exit code."""
    record_path, log_path, *command = sys.argv[1:]
    start_time, start = time.time(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if process.stdout is None:
        return 1
    with open(log_path, "w", encoding="utf-8") as log:
        for raw in process.stdout:
            text = raw.decode("utf-8", "replace").rstrip().rpartition("\r")[2]  # a progress bar writes over itself
            log.write(f"{time.perf_counter() - start:10.3f} {text}\n")
            log.flush()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    record = {
        "command": command,
        "exit_code": code,
        "start_time": start_time,
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_MB": round(usage.ru_maxrss / 1024, 1),
        "load_average": os.getloadavg()[0],
    }
    if code == 0:
        with open(record_path + ".part", "w", encoding="utf-8") as handle:
            json.dump(record, handle, indent=1)
        os.replace(record_path + ".part", record_path)
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
