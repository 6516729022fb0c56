"""The OpenAPI document that the program prints, and what is wrong with a value by its schemas.

The environment says where the program is: PROGRAM.
"""

import json
import os
import subprocess

from openapi_schema_validator import OAS30Validator

_PRINTED = subprocess.run([os.environ["PROGRAM"], "openapi"], capture_output=True, check=True, timeout=20).stdout
DOCUMENT = json.loads(_PRINTED)


def faults(schema, value, what):
    # References are to the components of the same document.
    validator = OAS30Validator({**schema, "components": DOCUMENT["components"]})
    return [f"{what}: {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


def faults_of(name, value):
    return faults({"$ref": f"#/components/schemas/{name}"}, value, name)
