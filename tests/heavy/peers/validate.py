"""Checks a description of an interface by OpenAPI."""

import json
import sys

from openapi_spec_validator import validate

with open(sys.argv[1], encoding="utf-8") as file:
    validate(json.load(file))
