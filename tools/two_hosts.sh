#!/usr/bin/env bash
# Train on two machines that are simulated by network namespaces, with a slow link that loses packets; then cut the link.
#
#     sudo tools/two_hosts.sh [FOLDER]
#
# Needs root, iproute2 (ip, tc) and a Python environment in which `python -m detector` works. Prints whether the run on two
# machines ends, its time, the bytes that crossed the link, and the message after the link is cut.
# Environment: DELAY (default 5ms), LOSS (default 0.1%), RATE (default 200mbit), STEPS (default 20), PYTHON.
set -euo pipefail
folder=$(realpath -m "${1:-$(mktemp -d)}")
python=${PYTHON:-python} delay=${DELAY:-5ms} loss=${LOSS:-0.1%} rate=${RATE:-200mbit} steps=${STEPS:-20}
export OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=wire
mkdir -p "$folder"

clean_up() {
    kill "${first:-}" "${second:-}" 2>/dev/null || true
    ip netns del detector-0 2>/dev/null || true
    ip netns del detector-1 2>/dev/null || true
}
trap clean_up EXIT
clean_up
ip netns add detector-0
ip netns add detector-1
ip link add wire netns detector-0 type veth peer name wire netns detector-1
for host in 0 1; do
    ip -n detector-$host addr add 10.77.0.$((host + 1))/24 dev wire
    ip -n detector-$host link set lo up
    ip -n detector-$host link set wire up
    ip netns exec detector-$host tc qdisc add dev wire root netem delay "$delay" loss "$loss" rate "$rate"
done

# train HOST OUT STEPS: one process of a run on one of the two machines
train() {
    exec ip netns exec "detector-$1" "$python" -m torch.distributed.run --nnodes 2 --node-rank "$1" --nproc-per-node 1 \
        --master-addr 10.77.0.1 --master-port 29500 -m detector train --data scenes --model pico --weights none \
        --batch 4 --set input_size=96 --set steps="$3" --set evaluations=1 --set save_every=0.05 --no-report --device cpu \
        --out "$2"
}

echo "link: delay $delay, loss $loss, rate $rate"
start=$SECONDS
(train 0 "$folder/two" "$steps") >"$folder/two-0.log" 2>&1 & first=$!
(train 1 "$folder/two" "$steps") >"$folder/two-1.log" 2>&1 & second=$!
wait $first && wait $second && echo "two machines: $steps steps in $((SECONDS - start)) s"
grep "^step" "$folder/two-0.log"
sent=$(ip netns exec detector-1 cat /sys/class/net/wire/statistics/tx_bytes)
echo "machine 1 sent $sent bytes, with the start and the end of the run"

start=$SECONDS
"$python" -m detector train --data scenes --model pico --weights none --batch 4 --set input_size=96 \
    --set steps="$steps" --set evaluations=1 --no-report --device cpu --out "$folder/one" >"$folder/one.log"
echo "one process: $steps steps in $((SECONDS - start)) s"
grep "^step" "$folder/one.log"

(train 0 "$folder/cut" 100000) >"$folder/cut-0.log" 2>&1 & first=$!
(train 1 "$folder/cut" 100000) >"$folder/cut-1.log" 2>&1 & second=$!
until ls "$folder"/cut/state/*.safetensors >/dev/null 2>&1; do
    kill -0 $first
    sleep 0.5
done
start=$SECONDS
ip -n detector-1 link set wire down
wait $first || echo "machine 0 ended with status $?, $((SECONDS - start)) s after the link was cut"
wait $second || echo "machine 1 ended with status $?, $((SECONDS - start)) s after the link was cut"
grep -h "^error" "$folder"/cut-?.log
