"""Imported, before anything else, by the process that worker processes are forked from."""

import os

from tasks.workers.preload import MODULES, load

load(MODULES, os.getppid())
