#!/usr/bin/env python3
"""Fails if a source file includes a rung of the ladder (docs/architecture.md) that it must not know.

usage: check_ladder.py [REPOSITORY]
"""
import pathlib
import re
import sys

# Rung -> the rungs whose headers it may include besides its own.
BELOW = {
    "core": [],
    "kernels": ["core"],
    "ops": ["core", "kernels"],
    "nn": ["core", "kernels", "ops"],
    "policies": ["core"],
    "cost": ["core", "kernels", "ops"],
    "models": ["core", "kernels", "ops", "nn"],
    "data": ["core"],
    "train": ["core", "kernels", "ops", "nn", "policies", "cost", "models", "data"],
    "cli": ["core", "kernels", "ops", "nn", "policies", "cost", "models", "data", "train"],
}
WITHOUT_TORCH = {"core", "kernels", "policies", "data"}

OWN_INCLUDE = re.compile(r'^\s*#\s*include\s*["<]bitdial/([^/">]+)/([^">]+)[">]')
TORCH_INCLUDE = re.compile(r'^\s*#\s*include\s*["<](torch|ATen|c10)/')


def problems_of(path, rung, lines):
    allowed = {rung, *BELOW[rung]}
    for number, line in enumerate(lines, start=1):
        match = OWN_INCLUDE.match(line)
        if match and match[1] not in allowed:
            yield f"{path}:{number}: {rung} must not include bitdial/{match[1]}/{match[2]}"
        if TORCH_INCLUDE.match(line) and rung in WITHOUT_TORCH:
            yield f"{path}:{number}: {rung} builds without LibTorch and must not include it"


def main(root):
    problems, files = [], 0
    for folder in sorted((root / "bitdial").glob("*")):
        if not folder.is_dir():
            continue
        if folder.name not in BELOW:
            problems.append(f"{folder}: not a rung of the ladder; name what it may include in {__file__}")
            continue
        for path in sorted([*folder.rglob("*.h"), *folder.rglob("*.cpp")]):
            files += 1
            lines = path.read_text(encoding="utf-8").splitlines()
            problems += problems_of(path.relative_to(root), folder.name, lines)
            if path.suffix == ".h" and "#pragma once" not in lines:
                problems.append(f"{path.relative_to(root)}: no #pragma once")
    print("\n".join(problems) if problems else f"{files} files include only what their rung may know")
    return 1 if problems or not files else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
