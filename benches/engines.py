#!/usr/bin/env python3
"""What managed engines cost and whether they keep their promises, with a real llama-server.

    eval "$(tests/real/setup.sh)"
    benches/engines.py --gguf FILE [--gateway target/release/llm-proxy-api] [--kills 100]

FILE is any model that loads fast, in GGUF; the prompts assume that a word takes one to five tokens. Needs Python 3.10,
nothing else. Prints a Markdown table.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

WORD = "word "


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Asker:
    """One caller with one connection."""

    def __init__(self, port, key=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self.headers = {"content-type": "application/json"}
        if key:
            self.headers["authorization"] = f"Bearer {key}"

    def chat(self, model, words, tokens=4, stream=False):
        content = WORD * words
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": content}], "stream": stream}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if stream and "authorization" in self.headers:
            # llama-server closes the connection after a stream, and does not say so.
            self.connection.close()
        return answer.status, answer.headers.get("x-llm-variant"), text


class Gateway:
    """The gateway with two models: one in two sizes, one in one."""

    def __init__(self, options):
        self.folder = tempfile.mkdtemp(prefix="engines-")
        gguf = pathlib.Path(self.folder, "model.gguf")
        gguf.symlink_to(pathlib.Path(options.gguf).resolve())
        args = ["-m", str(gguf), "-t", "1", "--offline"]
        models = {"tiny": {"variants": [{"context": 512}, {"context": 4096}]}, "other": {"variants": [{"context": 2048}]}}
        provider = {"type": "llamacpp", "binary": options.llama_server, "args": args, "models": models}
        pathlib.Path(self.folder, "models.json").write_text(json.dumps({"providers": {"local": provider}}))
        self.port = free_port()
        self.log = open(pathlib.Path(self.folder, "log"), "w+")
        variables = {name: value for name, value in os.environ.items() if not name.startswith("LLM_PROXY_API_")}
        variables |= {
            "LLM_PROXY_API_LISTEN": f"127.0.0.1:{self.port}",
            "LLM_PROXY_API_MODELS_CONFIG": "models.json",
            "LLM_PROXY_API_LOG_FILENAME": "",
            "LLM_PROXY_API_LOG_LEVEL": "llm_proxy_api::engine=info",
        }
        self.process = subprocess.Popen([options.gateway], cwd=self.folder, env=variables, stdout=self.log, stderr=self.log)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.005)

    def said(self):
        return pathlib.Path(self.folder, "log").read_text()

    def engines(self):
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.folder in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


def milliseconds(begun):
    return (time.perf_counter() - begun) * 1000


def overhead(options):
    gateway = Gateway(options)
    asker = Asker(gateway.port)
    asker.chat("tiny", 2)
    pid = gateway.engines()[0]
    line = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    variables = pathlib.Path(f"/proc/{pid}/environ").read_text().split("\0")
    key = next(variable.partition("=")[2] for variable in variables if variable.startswith("LLAMA_API_KEY="))
    port = int(line[line.index("--port") + 1])
    told = []
    for kind, stream in [("whole", False), ("stream", True)]:
        direct = Asker(port, key)
        through_ms, direct_ms = [], []
        for _ in range(300):
            for one, times in [(asker, through_ms), (direct, direct_ms)]:
                begun = time.perf_counter()
                status, _, text = one.chat("tiny", 2, stream=stream)
                assert status == 200, text
                times.append(milliseconds(begun))
        through, straight = statistics.median(through_ms), statistics.median(direct_ms)
        told.append(f"{kind} {through - straight:.2f} ms ({through:.2f} against {straight:.2f})")
    gateway.end()
    return ", ".join(told), "< 0.3 ms"


def switch(options):
    gateway = Gateway(options)
    asker = Asker(gateway.port)
    beyond_ms = []
    for number in range(20):
        model = ["tiny", "other"][number % 2]
        time.sleep(0.3)
        begun = time.perf_counter()
        status, _, text = asker.chat(model, 2)
        assert status == 200, text
        whole_ms = milliseconds(begun)
        load_ms = int(gateway.said().rsplit("load_ms=", 1)[1].split()[0])
        begun = time.perf_counter()
        asker.chat(model, 2)
        beyond_ms.append(whole_ms - load_ms - milliseconds(begun))
    gateway.end()
    # The first one stops nothing.
    return f"{statistics.median(beyond_ms[1:]):.0f} ms, the end of the old engine included", "stop + < 100 ms"


def turns(options):
    gateway = Gateway(options)
    waits, faults = [], []

    def caller(model, words):
        asker = Asker(gateway.port)
        for _ in range(250):
            begun = time.perf_counter()
            status, _, text = asker.chat(model, words)
            waits.append(milliseconds(begun))
            if status != 200:
                faults.append(text)

    callers = [("tiny", 2), ("tiny", 300), ("other", 2), ("other", 200)]
    threads = [threading.Thread(target=caller, args=which) for which in callers]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    starts = gateway.said().count("The engine is started")
    gateway.end()
    told = f"{len(faults)} failures of {len(waits)}, {starts} starts, longest wait {max(waits) / 1000:.1f} s"
    return told, "0, starts < a fifth, < 30 s + answer + switch"


def crowd(options):
    gateway = Gateway(options)
    Asker(gateway.port).chat("tiny", 300)
    faults = []

    def caller(words):
        status, _, text = Asker(gateway.port).chat("tiny", words)
        if status != 200:
            faults.append(text)

    chosen = random.Random(7)
    threads = [threading.Thread(target=caller, args=(chosen.randint(1, 780),)) for _ in range(100)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    gateway.end()
    return f"{len(faults)} failures of 100", "0"


def wrong(options):
    gateway = Gateway(options)
    asker, chosen, misses = Asker(gateway.port), random.Random(7), 0
    for number in range(250):
        words = chosen.randint(1, 780)
        status, variant, text = asker.chat("tiny", words)
        assert status == 200, text
        needs_large = json.loads(text)["usage"]["prompt_tokens"] + 4 > 512
        misses += number >= 50 and needs_large and variant != "tiny@4096"
    replans = gateway.said().count("planned anew")
    gateway.end()
    return f"{misses} of 200 on too small a variant, {replans} planned anew", "< 1 %"


def kills(options):
    left, chosen = 0, random.Random(7)
    for _ in range(options.kills):
        gateway = Gateway(options)
        thread = threading.Thread(target=lambda: suppressed(gateway.port), daemon=True)
        thread.start()
        time.sleep(chosen.random() * 0.6)
        gateway.end(signal.SIGKILL)
        until = time.monotonic() + 2
        while gateway.engines() and time.monotonic() < until:
            time.sleep(0.01)
        left += len(gateway.engines())
    return f"{left} engines left after {options.kills} kills", "0"


def suppressed(port):
    try:
        Asker(port).chat("tiny", 2)
    except (OSError, http.client.HTTPException):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--gateway", default="target/release/llm-proxy-api", type=os.path.abspath)
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER", "llama-server"))
    parser.add_argument("--kills", default=100, type=int)
    options = parser.parse_args()
    print("| | seen | to reach |\n|---|---|---|")
    for name, measure in [
        ("added to a warm engine, p50", overhead),
        ("a switch, beyond loading", switch),
        ("four callers, two models, two sizes", turns),
        ("100 at once on a shared context of 4,096", crowd),
        ("random sizes after 50 to warm up", wrong),
        ("`kill -9` at random moments", kills),
    ]:
        seen, wanted = measure(options)
        print(f"| {name} | {seen} | {wanted} |", flush=True)


if __name__ == "__main__":
    main()
