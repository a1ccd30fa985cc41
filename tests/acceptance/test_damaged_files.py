"""Every damaged or hostile file, offered to its loader in a process of its own."""

import subprocess
import sys

from glasslib.results import REPO


def test_every_file_is_refused_by_name_and_none_takes_two_gigabytes():
    command = [sys.executable, "-W", "ignore", "-m", "glasslib.bench.damaged_files"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=REPO)
    assert run.returncode == 0, run.stderr[-2000:]
    *not_refused, counted, peak = run.stdout.splitlines()
    assert not_refused == []
    assert int(counted.split()[0]) >= 200
    assert int(peak.split()[-1]) < 2_000_000_000
