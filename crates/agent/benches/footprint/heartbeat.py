"""A heartbeat as a script of an afternoon: what the agent is compared with.

Usage: heartbeat.py PORT CA_FILE
"""

import json
import sys
import time
from datetime import datetime, timezone

import paho.mqtt.client as mqtt

INTERVAL_S = 10

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="script", protocol=mqtt.MQTTv5)
client.tls_set(ca_certs=sys.argv[2])
client.connect("localhost", int(sys.argv[1]), keepalive=30)
client.loop_start()
began = time.monotonic()
seq = 0
while True:
    seq += 1
    beat = {
        "device_id": "script",
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "status": "1",
        "seq": seq,
        "run_id": "3f0c9c2e6d0e4c5b9b1d1d6a7f2b8c90",
        "uptime_s": int(time.monotonic() - began),
        "services": {"heartbeat": "running", "registration": "running"},
        "tunnels": 0,
        "outbox": {"messages": 0, "bytes": 0, "dropped": 0},
    }
    client.publish("peer/script/heartbeat", json.dumps(beat), qos=1)
    time.sleep(INTERVAL_S)
