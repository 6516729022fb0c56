"""What the claims share: clients for the gateway, and a look at its figures."""

import os
import time
import urllib.request

import openai

GATEWAY = os.environ["GATEWAY"]
TEXT = "Zażółć gęślą jaźń, proszę!"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]


def client(path="/v1", **options):
    return openai.OpenAI(base_url=GATEWAY + path, api_key="any", **{"max_retries": 0, "timeout": 20, **options})


def async_client(**options):
    return openai.AsyncOpenAI(base_url=GATEWAY + "/v1", api_key="any", max_retries=0, timeout=20, **options)


def echo(client, trouble=None, **options):
    """A chat with the echo model, which makes the trouble that it is asked for."""
    extra = {"echo": trouble} if trouble else None
    return client.chat.completions.create(model="echo", messages=MESSAGES, extra_body=extra, **options)


def slow(words=400):
    """What it takes to have an answer of many seconds."""
    messages = [{"role": "user", "content": "word " * words}]
    return {"model": "echo", "messages": messages, "stream": True, "extra_body": {"echo": {"delay_ms": 50}}}


def figure(name):
    """The sum of a figure over all of its labels that are asked for, as `name{label="value"` or the bare name."""
    name, _, labels = name.partition("{")
    with urllib.request.urlopen(GATEWAY + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [label for label in labels.rstrip("}").split(",") if label]
    found = [line for line in lines if line.partition("{")[0].split()[0] == name and all(w in line for w in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def eventually(what, holds, within=3):
    until = time.monotonic() + within
    while not holds():
        assert time.monotonic() < until, f"not within {within} s: {what}"
        time.sleep(0.01)


def is_quiet():
    return figure("llm_proxy_streams_open") == 0


def requests_with(status):
    return figure(f'llm_proxy_requests_total{{endpoint="/v1/chat/completions",status="{status}"}}')


def raised(kind, call):
    """The error that a call must raise."""
    try:
        outcome = call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}"
        return error
    raise AssertionError(f"no {kind.__name__}, but {outcome}")
