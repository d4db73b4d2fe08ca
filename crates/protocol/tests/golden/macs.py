"""Writes the signed golden files from scratch, sharing no code with the crate: run it here, with python3.

Python's sorted, compact JSON is RFC 8785 for what stands in these files (ASCII keys, plain numbers).
"""
import hashlib
import hmac
import json

PSK = b"a fleet secret of ample length"
CLIENT = "3f2a9c0d5e6b478182930a1b2c3d4e5f"
DEVICE = "01936f3e-0c1a-7d5b-9a3e-5c8f1e2d3b4a"
NONCE = "00112233445566778899aabbccddeeff"
TIME = "2026-01-31T12:00:00.123Z"


def mac(first, body, *middle):
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text = "\n".join([first, CLIENT, NONCE, *middle, hashlib.sha256(canonical.encode()).hexdigest()])
    return hmac.new(PSK, text.encode(), "sha256").hexdigest()


def write(name, value):
    with open(name + ".json", "w", encoding="utf-8") as file:
        file.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")


def request(name, body):
    proof = {"method": "psk-hmac-sha256", "nonce": NONCE, "timestamp": TIME}
    proof["mac"] = mac("iot-agent/registration/v1", body, TIME)
    write(name, body | {"proof": proof})


def reply(name, body):
    body = body | {"nonce": NONCE}
    write(name, body | {"mac": mac("iot-agent/registration-reply/v1", body)})


# serde_json's maps are sorted: metadata's keys stand in that order on the wire.
METADATA = {"load": 0.1, "rack": 7, "site": "Zürich", "tags": ["a", None]}
request("registration-request", {"client_id": CLIENT, "device_name": "pump 3", "org_id": "acme",
                                 "metadata": METADATA, "agent_version": "0.1.0"})
request("registration-request-again", {"client_id": CLIENT, "device_id": DEVICE, "agent_version": "0.1.0"})
reply("registration-reply", {"device_id": DEVICE})
reply("registration-reply-clock", {"error": "clock", "server_time": TIME})
reply("registration-reply-replay", {"error": "replay"})
reply("registration-reply-taken", {"error": "device_id_taken", "message": "this id belongs to another client"})
write("registration-request-plain", {"client_id": CLIENT, "device_secret": PSK.decode()})
write("registration-reply-plain", {"device_id": DEVICE})
