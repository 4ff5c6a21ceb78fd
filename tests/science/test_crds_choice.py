"""The same choice as ``crds.getreferences``, for any header and rules with ``|``, ``*``, globs, N/A, OMIT and UseAfter.

The observatory ``tobs`` of crds needs nothing else; ``jwst`` needs stdatamodels and is asked if ``make peers`` was run,
or of the interpreter that SHEARLINE_JWST_PYTHON names.
"""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from crds_cache import Cache, match

from tasks.errors import NoReferenceError
from tasks.products.references import MODEL_KEYWORDS
from tasks.science.crds_rules import load_context

HOUSE = Path(__file__).parents[2]
JWST_PYTHON = Path(os.environ.get("SHEARLINE_JWST_PYTHON", HOUSE / ".peers" / "jwst" / "bin" / "python"))
PEER = Path(__file__).parents[1] / "crds_peer.py"
MANY = 10_000

VALUES = {
    "DETECTOR": ["MIRIMAGE", "MIRIFULONG", "MIRIFUSHORT"],
    "SUBARRAY": ["FULL", "SUB64", "SUB128", "BRIGHTSKY"],
    "READPATT": ["FAST", "SLOW", "5.0", "T"],
}
PATTERNS = ["*", "N/A", "FULL|SUB64", "SUB*", "SUB64|SUB128|BRIGHTSKY", "MIRIFU*", "FAST|SLOW", "5.0|T"]
DATES = ["2020-01-01 00:00:00", "2022-03-04 05:06:07", "2022-03-04 05:06:07.500", "2024-06-01 00:00:00"]
N_CONTEXTS = 40
OBSERVATORIES = {
    "tobs": ("TINSTR", "tfilekind", {key: key for key in (*VALUES, "INSTRUME", "DATE-OBS", "TIME-OBS")}),
    "jwst": (
        "MIRI",
        "mask",
        {
            "INSTRUME": "META.INSTRUMENT.NAME",
            "DETECTOR": "META.INSTRUMENT.DETECTOR",
            "SUBARRAY": "META.SUBARRAY.NAME",
            "READPATT": "META.EXPOSURE.READPATT",
            "DATE-OBS": "META.OBSERVATION.DATE",
            "TIME-OBS": "META.OBSERVATION.TIME",
        },
    ),
}


def random_cases(rng):
    cases, serial = {}, 0
    for _ in range(rng.randint(1, 9)):
        key = tuple(rng.choice(values + [one for one in PATTERNS if fits(one, values)]) for values in VALUES.values())
        if rng.random() < 0.15:
            cases[key] = rng.choice(["N/A", "OMIT"])
            continue
        dates = {}
        for date in rng.sample(DATES, rng.randint(1, len(DATES))):
            serial += 1
            dates[date] = f"file_{serial}.fits" if rng.random() < 0.9 else rng.choice(["N/A", "OMIT"])
        cases[key] = dates
    return cases


def fits(pattern, values):
    return pattern in ("*", "N/A") or any(value.startswith(pattern.split("|")[0].rstrip("*")) for value in values)


def random_conditions(rng, names):
    detector, subarray, pattern = (names[key] for key in VALUES)
    conditions = {}
    if rng.random() < 0.3:
        conditions["rmap_relevance"] = rng.choice([f'({subarray} != "SUB64")', f'({detector} == "MIRIMAGE")'])
    if rng.random() < 0.2:
        conditions["rmap_omit"] = f'({subarray} == "SUB128")'
    if rng.random() < 0.3:
        conditions["parkey_relevance"] = {pattern.lower(): f'({detector} == "MIRIMAGE")'}
    if rng.random() < 0.2:
        conditions["substitutions"] = {subarray: {"FULL": "N/A"}}
    if rng.random() < 0.3:
        conditions["reffile_required"] = rng.choice(["YES", "NO"])
    return conditions


def write_rules(root, observatory):
    """Write many contexts, each with random rules and conditions of its own."""
    instrument, kind, names = OBSERVATORIES[observatory]
    cache = Cache(root, observatory, instrument_key=names["INSTRUME"])
    parkey = (tuple(names[key] for key in VALUES), (names["DATE-OBS"], names["TIME-OBS"]))
    for number in range(1, N_CONTEXTS + 1):
        rng = random.Random(number)
        rule = cache.write_rmap(
            instrument, kind, match(random_cases(rng)), parkey=parkey, serial=number, **random_conditions(rng, names)
        )
        types = {kind.upper(): "N/A" if number == 2 else "OMIT" if number == 3 else rule}
        imap = cache.write_imap(instrument, types, serial=number)
        cache.write_pmap({instrument: imap}, f"{observatory}_{number:04d}.pmap")
    for number in range(1, 9 * len(DATES) + 1):
        (cache.references / f"file_{number}.fits").write_bytes(b"x")
    config = {"observatory": observatory, "operational_context": cache.context, "bad_files_list": []}
    cache.write_server_config(repr(config | {"last_synced": "never", "force_remote_mode": False}))
    (root / "config" / observatory / "ref_cache_subdir_mode").write_text("flat")
    return cache


class Sides:
    """Both of them, over the same cache."""

    def __init__(self, root, observatory, python):
        self.instrument, self.kind, self.names = OBSERVATORIES[observatory]
        self.cache = write_rules(root, observatory)
        self.rules = [
            load_context(self.cache.read, observatory, f"{observatory}_{number:04d}.pmap")
            for number in range(1, N_CONTEXTS + 1)
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRDS_")}
        self.process = subprocess.Popen(
            [python, PEER, root, observatory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip

    def close(self):
        self.process.communicate()

    def ask(self, number, header):
        parameters = {self.names[key]: value for key, value in header.items()}
        question = {"context": self.rules[number].context, "type": self.kind, "header": parameters}
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def ours(self, number, header):
        try:
            found = self.rules[number].select(self.kind, header, keywords=MODEL_KEYWORDS)
        except NoReferenceError:
            return "NONE"
        return "OMIT" if "mitted" in found.reason or "omit" in found.reason else found.name


def random_header(rng, instrument):
    odd = ["OTHER", "N/A", "", "ANY", "UNDEFINED", "full", "5", "fast", "True"]
    header = {"INSTRUME": instrument}
    for key, values in VALUES.items():
        kind = rng.choice(["known", "odd", "missing"])
        if kind != "missing":
            header[key] = rng.choice(values if kind == "known" else odd)
    kind = rng.choice(["near", "anywhen", "missing"])
    if kind != "missing":
        near = datetime.fromisoformat(rng.choice(DATES))
        near += timedelta(seconds=rng.choice([0, -1, 1, -0.001, 0.499, 86400 * 30]))
        anywhen = datetime(2019, 1, 1) + timedelta(microseconds=rng.randrange(7 * 365 * 86400 * 10**6))
        moment = near if kind == "near" else anywhen
        header["DATE-OBS"] = moment.strftime("%Y-%m-%d")
        header["TIME-OBS"] = moment.strftime(rng.choice(["%H:%M:%S", "%H:%M:%S.%f"]))
    return header


@pytest.fixture(params=["tobs", "jwst"])
def sides(request, tmp_path):
    if request.param == "jwst" and not JWST_PYTHON.exists():
        pytest.skip("needs the jwst package in an environment of its own: make peers")
    both = Sides(tmp_path, request.param, str(JWST_PYTHON) if request.param == "jwst" else sys.executable)
    yield both
    both.close()


def test_ten_thousand_random_headers_get_the_same_reference(sides):
    rng = random.Random(1)
    cases = [(rng.randrange(N_CONTEXTS), random_header(rng, sides.instrument)) for _ in range(MANY)]
    with ThreadPoolExecutor(1) as thread:
        # the other side answers while this one chooses
        asking = thread.submit(lambda: [sides.ask(*case) for case in cases])
        ours = [sides.ours(*case) for case in cases]
        seen = [sides.answer() for _ in cases]
        asking.result()
    differ = [case for case, *answers in zip(cases, ours, seen, strict=True) if answers[0] != answers[1]]
    assert differ == []
    selected = [answer for answer in seen if answer.endswith(".fits")]
    assert len(selected) > MANY / 10
    assert len(set(selected)) > 15
    assert {"NONE", "N/A", "OMIT"} <= set(seen)
