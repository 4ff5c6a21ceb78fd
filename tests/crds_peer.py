"""Answers with the public ``crds.getreferences`` of whatever Python runs it: questions in, answers out, lines of JSON.

Arguments: folder of the cache, observatory.
"""

import json
import logging
import os
import sys
from pathlib import Path

root, observatory = sys.argv[1:]
os.environ |= {
    "CRDS_PATH": root,
    "CRDS_OBSERVATORY": observatory,
    "CRDS_SERVER_URL": "https://crds-serverless-mode.stsci.edu",
    "CRDS_READONLY_CACHE": "1",
}

import crds  # noqa: E402 (it reads the environment)
from crds.core.exceptions import CrdsError  # noqa: E402

logging.getLogger("CRDS").setLevel(logging.CRITICAL)

for line in sys.stdin:
    question = json.loads(line)
    kind = question["type"]
    try:
        found = crds.getreferences(
            question["header"], reftypes=[kind], context=question["context"], observatory=observatory
        ).get(kind, "OMIT")
    except (CrdsError, TypeError):
        # the latter where an N/A without dates and a file with dates match equally well: it takes both for the path
        found = "NONE"
    answer = "N/A" if found == "NOT FOUND n/a" else Path(found).name
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
