"""Say in one plain sentence why this machine cannot install posttrain, before an installer says it in a hundred lines.

Runs on the system's Python, of any version: standard library only, and no syntax newer than Python 3.0.
Usage: python3 scripts/check_machine.py FREE_GIB [VERSION]   (VERSION, such as 3.10, stands in for the running one)
"""

# ruff: noqa: UP031
import os
import shutil
import sys

OLDEST, NEWEST = (3, 11), (3, 14)


def problem(version, free_bytes, needed_gib):
    """The sentence to print, or None if the machine will do."""
    name = "%d.%d" % version
    if version < OLDEST:
        return "posttrain needs Python 3.11 to 3.14, and this is Python %s: run `make PYTHON=python3.11 ...`." % name
    if version > NEWEST:
        return "posttrain's libraries stop at Python 3.14, and this is %s: run `make PYTHON=python3.14 ...`." % name
    if free_bytes < needed_gib * 2**30:
        free = free_bytes / 2.0**30
        return "Installing needs %g GiB of free disk space, and only %.1f GiB are free here." % (needed_gib, free)
    return None


def main(arguments):
    version = sys.version_info[:2]
    if len(arguments) > 1:
        version = tuple(int(part) for part in arguments[1].split("."))
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sentence = problem(version, shutil.disk_usage(folder).free, float(arguments[0]))
    if sentence:
        sys.stderr.write(sentence + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
