#!/usr/bin/env bash
# submitit tells a preemption from the end of a job's time by the job's age: it "has timed out" after
# min(0.8 * time, time - 10 minutes). For jobs of up to 10 minutes that is zero or less, so every preemption, even in the
# job's first second, counts as a time-out; after max_num_timeout (3) of them the job is not queued again. The default
# time is 5 minutes, so the defaults are in that range.
#
# Seen 2026-11-28 with submitit 1.5.4, Python 3.11.7 (minutes asked for: whether a job that just began has timed out):
#   5 True
#   10 True
#   11 False
# A guess that fails: "a job preempted in its first second was preempted, however short its time".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check submitit==1.5.4
cat > "$folder/probe.py" <<'PY'
import logging

from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission

logging.disable(logging.CRITICAL)
for minutes in (5, 10, 11):
    job = DelayedSubmission(print)
    job.set_timeout(minutes, 3)
    print(minutes, SignalHandler(None, None, job).has_timed_out())
PY
found=$("$folder/venv/bin/python" "$folder/probe.py")
echo "$found"
test "$found" = "5 True
10 True
11 False"
