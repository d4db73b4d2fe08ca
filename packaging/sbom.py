#!/usr/bin/env python3
"""Writes, in CycloneDX 1.5, what the agent for one target is made of: `sbom.py TARGET BINARY`.

The crates are those that `cargo tree` says are linked; their licences come from `cargo metadata`, their checksums from
Cargo.lock. The same sources and SOURCE_DATE_EPOCH give the same bytes. Ends with an error where anything is missing.
"""

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid

AGENT = "iot-agent"


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(target):
    """The crates that end up in the binary, as (name, version): no macros, no build scripts, nothing of the tests."""
    tree = output("cargo", "tree", "--locked", "--package", AGENT, "--target", target,
                  "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    return {tuple(re.match(r"(\S+) v(\S+)", line).groups()) for line in tree.splitlines() if line}


def purl(name, version):
    return f"pkg:cargo/{name}@{version}"


def component(package, checksum):
    own = package["source"] is None
    made = {
        "type": "library",
        "bom-ref": purl(package["name"], package["version"]),
        "name": package["name"],
        "version": package["version"],
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
        "purl": purl(package["name"], package["version"]),
        "scope": "required",
    }
    if not own:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum[package["name"], package["version"]]}]
        if package.get("repository"):
            made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def toolchain():
    """What is linked in and is no crate: Rust's standard library, and the C library that zig brings."""
    rust = re.search(r"^release: (\S+)", output(os.environ.get("RUSTC", "rustc"), "-vV"), re.M).group(1)
    zig = os.environ["ZIG_VERSION"]
    return [
        {"type": "library", "bom-ref": "rust-std", "name": "std", "version": rust, "scope": "required",
         "licenses": [{"expression": "MIT OR Apache-2.0"}], "purl": f"pkg:generic/rust-std@{rust}"},
        {"type": "library", "bom-ref": "zig-musl", "name": "musl", "version": f"zig-{zig}", "scope": "required",
         "description": f"musl and libunwind as zig {zig} brings them",
         "licenses": [{"expression": "MIT"}], "purl": f"pkg:pypi/ziglang@{zig}"},
    ]


def main(target, binary):
    with open("Cargo.lock", "rb") as lock:
        checksum = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target))
    wanted = linked(target)
    packages = {p["id"]: p for p in metadata["packages"] if (p["name"], p["version"]) in wanted}
    if len(packages) != len(wanted):
        sys.exit(f"cargo tree names {len(wanted)} crates, cargo metadata {len(packages)} of them")
    ref = {id: purl(p["name"], p["version"]) for id, p in packages.items()}
    root = next(id for id, p in packages.items() if p["name"] == AGENT)

    components = sorted((component(p, checksum) for id, p in packages.items() if id != root), key=lambda c: c["purl"])
    components += toolchain()
    edges = []
    for node in metadata["resolve"]["nodes"]:
        if node["id"] in ref:
            normal = {ref[d["pkg"]] for d in node["deps"] if d["pkg"] in ref and any(k["kind"] is None for k in d["dep_kinds"])}
            edges.append({"ref": ref[node["id"]], "dependsOn": sorted(normal)})
    edges.sort(key=lambda e: e["ref"])
    next(e for e in edges if e["ref"] == ref[root])["dependsOn"] += ["rust-std", "zig-musl"]

    with open(binary, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    made_at = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    agent = packages[root]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{AGENT}:{target}:{digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": ref[root],
                "name": AGENT,
                "version": agent["version"],
                "licenses": [{"expression": agent["license"]}],
                "hashes": [{"alg": "SHA-256", "content": digest}],
                "purl": ref[root],
                "properties": [{"name": "cargo:target", "value": target}],
            },
        },
        "components": components,
        "dependencies": edges,
    }
    check(bom, {(p["name"], p["version"]) for p in packages.values()}, checksum)
    json.dump(bom, sys.stdout, indent=1, ensure_ascii=False)
    print()


def check(bom, wanted, checksum):
    """What readers of such a list rely on, and its schema asks for."""
    refs = [c["bom-ref"] for c in bom["components"]] + [bom["metadata"]["component"]["bom-ref"]]
    assert len(refs) == len(set(refs)), "a bom-ref is there twice"
    for edge in bom["dependencies"]:
        assert {edge["ref"], *edge["dependsOn"]} <= set(refs), f"{edge['ref']} depends on what is not listed"
    for part in bom["components"]:
        assert part["name"] and part["version"] and part["licenses"][0]["expression"], f"{part} says too little"
        for found in part.get("hashes", []):
            assert re.fullmatch("[0-9a-f]{64}", found["content"]), f"{part['name']} has no SHA-256"
    reached, todo = set(), [bom["metadata"]["component"]["bom-ref"]]
    edges = {e["ref"]: e["dependsOn"] for e in bom["dependencies"]}
    while todo:
        if (ref := todo.pop()) not in reached:
            reached.add(ref)
            todo += edges.get(ref, [])
    assert reached == set(refs), f"nothing depends on {sorted(set(refs) - reached)}"
    assert wanted <= set(checksum), "a crate is not in Cargo.lock"


main(*sys.argv[1:])
