#!/bin/sh
# A heartbeat as a shell loop: a connection for each message. Usage: heartbeat.sh PORT CA_FILE
seq=0
while :; do
    seq=$((seq + 1))
    now=$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)
    mosquitto_pub -V mqttv5 -q 1 -h localhost -p "$1" --cafile "$2" -t peer/shell/heartbeat -m "{\"device_id\":\"shell\",\
\"timestamp\":\"$now\",\"status\":\"1\",\"seq\":$seq,\"run_id\":\"3f0c9c2e6d0e4c5b9b1d1d6a7f2b8c90\",\"uptime_s\":$((seq * 10)),\
\"services\":{\"heartbeat\":\"running\",\"registration\":\"running\"},\"tunnels\":0,\
\"outbox\":{\"messages\":0,\"bytes\":0,\"dropped\":0}}"
    sleep 10
done
