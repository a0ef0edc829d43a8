"""A rerankd on a free port, for tests and load tests.

Standard library only: it runs before anything is installed.
"""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

# Loading the embedded model takes seconds; the rest is room for a busy machine.
START_SECONDS = 120
# Above the server's own --drain-timeout-ms, so that a drain that hangs is seen as one.
STOP_SECONDS = 45


@contextlib.contextmanager
def running(binary, *flags):
    """Yields the URL of a server that is ready; on leaving, drains it and demands exit code 0."""
    with started(binary, *flags) as (url, _):
        yield url


@contextlib.contextmanager
def started(binary, *flags):
    """The same, and the server's process."""
    with tempfile.NamedTemporaryFile(prefix="rerankd-", suffix=".log") as log:
        # A file, not a pipe: nobody has to drain it while the clients run.
        command = [os.path.abspath(binary), "serve", "--port", "0", *flags]
        process = subprocess.Popen(command, stderr=log)
        try:
            address = _until(process, log.name, lambda: _address(log.name))
            _until(process, log.name, lambda: _is_ready(address))
            yield f"http://{address}", process
            process.send_signal(signal.SIGTERM)
            code = process.wait(STOP_SECONDS)
            assert code == 0, f"after SIGTERM the server exited with {code}\n{_tail(log.name)}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _until(process, log, check):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server exited with {process.returncode}\n{_tail(log)}")
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"the server is not ready after {START_SECONDS} s\n{_tail(log)}")


def _address(log):
    """The port the system chose is only in the log."""
    for line in pathlib.Path(log).read_text().splitlines(keepends=True):
        # The last line may be half written.
        if line.startswith("{") and line.endswith("\n"):
            event = json.loads(line)
            if event.get("message") == "listening":
                return event["address"]
    return None


def _is_ready(address):
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    finally:
        connection.close()
    assert status in (200, 503), f"/health said {status}; while a model loads only 503 is right"
    return status == 200


def _tail(log):
    return "\n".join(pathlib.Path(log).read_text().splitlines()[-20:])
