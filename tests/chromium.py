"""A headless Chromium on a pipe: enough of the DevTools protocol to open pages and hear their complaints."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find():
    """The path of a Chromium on this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


# Chromium reads commands from 3 and writes to 4. A function run after a fork would wake JAX's warning of forks.
WIRE = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One window; a context manager that ends the browser that it started."""

    def __init__(self, path, profile):
        pairs = [os.pipe(), os.pipe()]
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (pairs[0][0], pairs[1][1])]
        self._write, self._read = pairs[0][1], pairs[1][0]
        os.close(pairs[0][0]), os.close(pairs[1][1])

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        start = [sys.executable, "-c", WIRE, *map(str, theirs), path, *flags]
        self._process = subprocess.Popen(start, pass_fds=theirs, **quiet)
        for fd in theirs:
            os.close(fd)
        self._number, self._buffer, self._events, self._session = 0, b"", [], None

    def __enter__(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write), os.close(self._read)

    def _next(self, deadline):
        """The next message, or None at the deadline."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                return None
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, seconds=60, **parameters):
        """Send a command, and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + seconds
        while (answer := self._next(deadline)) is not None:
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._events.append(answer)
        raise TimeoutError(f"{method} had no answer in {seconds} s")

    def open(self, url, seconds=60):
        """Load a page; return what went wrong in it: errors of scripts and of the console, and failed requests."""
        self._events.clear()
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + seconds
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            event = self._next(deadline)
            assert event is not None, f"{url} did not load in {seconds} s"
            self._events.append(event)
        self.ask("new Promise(done => setTimeout(done, 50))")  # what scripts do after loading
        return [wrong for event in self._events if (wrong := complaint(event))]

    def ask(self, expression):
        """Evaluate JavaScript in the page, and return its value."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


def complaint(event):
    """What an event complains about, or None."""
    method, values = event.get("method"), event.get("params", {})
    if method == "Runtime.exceptionThrown":
        return f"exception: {values['exceptionDetails'].get('text')}"
    if method == "Runtime.consoleAPICalled" and values["type"] in ("error", "assert"):
        return f"console: {[part.get('value') for part in values['args']]}"
    if method == "Log.entryAdded" and values["entry"]["level"] == "error":
        return f"log: {values['entry']['text']} {values['entry'].get('url', '')}"
    if method == "Network.loadingFailed" and not values.get("canceled"):
        return f"request failed: {values['errorText']}"
    if method == "Network.responseReceived" and values["response"]["status"] >= 400:
        return f"{values['response']['status']}: {values['response']['url']}"
    return None
