#!/usr/bin/env python3
"""Fails where the deb and the rpm would not install what `make install` put into a folder: `files.py FOLDER`."""

import pathlib
import sys
import tomllib

BINARY = "target/release/iot-agent"
top = pathlib.Path(__file__).resolve().parent.parent
metadata = tomllib.loads((top / "crates/agent/Cargo.toml").read_text())["package"]["metadata"]


def installed(folder):
    """Path: (mode, content), the program's content left out."""
    files = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name = str(path.relative_to(folder))
            files[name] = (path.stat().st_mode & 0o7777, None if name == "usr/bin/iot-agent" else path.read_bytes())
    return files


def packed(assets):
    return {dest.lstrip("/"): (int(mode, 8), None if source == BINARY else (top / "crates/agent" / source).read_bytes())
            for source, dest, mode in assets}


wanted = installed(pathlib.Path(sys.argv[1]))
if "etc/iot-agent/config.yaml" not in wanted:
    sys.exit(f"nothing was installed in {sys.argv[1]}")
rpm = metadata["generate-rpm"]["assets"]
bad = 0
for kind, files in (("deb", packed(metadata["deb"]["assets"])),
                    ("rpm", packed((a["source"], a["dest"], a["mode"]) for a in rpm))):
    for name in sorted(wanted.keys() | files.keys()):
        if wanted.get(name) != files.get(name):
            print(f"{kind}: {name} is not as `make install` has it; see crates/agent/Cargo.toml", file=sys.stderr)
            bad = 1
kept = {"/" + name for name in wanted if name.startswith("etc/")}
if set(metadata["deb"]["conf-files"]) != kept or {a["dest"] for a in rpm if a.get("config") == "noreplace"} != kept:
    print("not each file in /etc is one that an upgrade leaves alone", file=sys.stderr)
    bad = 1
sys.exit(bad)
