"""Prints what distributions of this project need from the package index, for a layer that stays when the code changes.

Usage: python requirements.py [--without PACKAGE]... PYPROJECT...
"""

import argparse
import re
from pathlib import Path

import tomllib


def main() -> None:
    """Reads the files' dependencies and leaves out the project's own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    projects = [tomllib.loads(path.read_text())["project"] for path in arguments.files]
    left_out = {project["name"] for project in projects} | set(arguments.without)
    for requirement in sorted({entry for project in projects for entry in project["dependencies"]}):
        if re.split(r"[\s\[;<>=!~]", requirement, maxsplit=1)[0] not in left_out:
            print(requirement)


if __name__ == "__main__":
    main()
