"""Shows one claim: `run.py FILE CLAIM`, where a claim is a function of that file.

The environment says where the gateway is: GATEWAY.
"""

import asyncio
import importlib
import inspect
import sys

if __name__ == "__main__":
    file, claim = sys.argv[1:]
    outcome = getattr(importlib.import_module(file), claim)()
    if inspect.isawaitable(outcome):
        asyncio.run(outcome)
