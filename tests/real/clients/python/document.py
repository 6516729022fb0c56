"""The OpenAPI document as tools read it: it is valid, it tells the truth, and clients can be made from it."""

import importlib
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from common import GATEWAY
from openapi_spec_validator import OpenAPIV30SpecValidator
from schemas import DOCUMENT, faults


# The gateway of these tests is started with it.
ADMIN_KEY = "an-admin-key-of-some-length"
# What holders of keys ask about themselves. Here nobody has one.
OWN = "/api/me"


def _operations():
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                yield method.upper(), path, operation


def _is_sound(found):
    assert not found, "\n" + "\n".join(found)


def _asked(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "x-admin-key": ADMIN_KEY}
    request = urllib.request.Request(GATEWAY + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _json_schema(answer):
    return answer["content"]["application/json"]["schema"]


def _examples():
    """Operations that take a body, each with its example."""
    for method, path, operation in _operations():
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        schema = content["application/json"]["schema"]
        named = schema.get("$ref", "").rsplit("/", 1)[-1]
        example = DOCUMENT["components"]["schemas"].get(named, schema).get("example")
        yield method, path, operation, schema, example


def the_program_prints_what_the_service_serves():
    assert _asked("GET", "/openapi.json") == (200, DOCUMENT)


def the_document_is_valid():
    assert DOCUMENT["openapi"].startswith("3.0.")
    _is_sound([f"{'/'.join(map(str, error.path))}: {error.message[:300]}"
               for error in OpenAPIV30SpecValidator(DOCUMENT).iter_errors()])


def every_operation_with_a_body_has_an_example_that_fits_its_schema():
    examples = list(_examples())
    assert len(examples) >= 6
    found = [f"{path} has no example" for _, path, _, _, example in examples if example is None]
    for _, path, _, schema, example in examples:
        if example is not None:
            found += faults(schema, example, path)
    _is_sound(found)


def every_example_is_answered_as_the_document_says():
    found = []
    for method, path, operation, _, example in _examples():
        if example is None or "{" in path or "passthrough" in path or path.startswith(OWN):
            continue
        status, answer = _asked(method, path, example)
        if status != 200:
            found.append(f"{path}: {status} {answer}")
        else:
            found += faults(_json_schema(operation["responses"]["200"]), answer, path)
    _is_sound(found)


def lists_are_answered_as_the_document_says():
    found = []
    for method, path, operation in _operations():
        is_json = "application/json" in operation["responses"]["200"]["content"]
        if method == "GET" and "{" not in path and is_json and not path.startswith(OWN):
            status, answer = _asked(method, path)
            assert status == 200, path
            found += faults(_json_schema(operation["responses"]["200"]), answer, path)
    _is_sound(found)


def errors_are_answered_as_the_document_says():
    found = []
    for method, path, operation, _, _ in _examples():
        if "{" in path:
            continue
        status, answer = _asked(method, path, {"model": 3, "messages": 3})
        told = operation["responses"].get(str(status))
        if status < 400 or told is None:
            found.append(f"{path}: {status} is not in the document")
        else:
            found += faults(_json_schema(told), answer, path)
    _is_sound(found)


def a_client_is_generated_for_every_operation_and_works():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "document.json").write_text(json.dumps(DOCUMENT))
        # It would put the code into good order with programs that are not here.
        (folder / "config.yaml").write_text("post_hooks: []\n")
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
        command += ["--path", "document.json", "--config", "config.yaml", "--output-path", "made"]
        outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50)
        assert outcome.returncode == 0, outcome.stderr

        made = {path.stem for path in (folder / "made" / "api").glob("*/*.py")}
        missing = [operation["operationId"] for _, _, operation in _operations()
                   if operation["operationId"] not in made]
        assert not missing, f"not generated: {missing}\n{outcome.stdout}\n{outcome.stderr}"
        sys.path.insert(0, str(folder))
        _uses_the_generated_client()


def _uses_the_generated_client():
    make = importlib.import_module("made").Client
    find = lambda name: importlib.import_module(f"made.api.{name}")  # noqa: E731
    models = importlib.import_module("made.models")
    with make(base_url=GATEWAY) as client:
        assert find("facade.ping").sync(client=client).body == "pong"
        assert "echo" in [tag.name for tag in find("facade.tags").sync(client=client).models]
        message = models.Message(role=models.Role.USER, content="Dzień dobry")
        body = models.ChatRequest(model="echo", messages=[message], stream=False)
        answer = find("facade.chat").sync(client=client, body=body)
        assert answer.choices[0].to_dict()["message"]["content"] == "Dzień dobry"
