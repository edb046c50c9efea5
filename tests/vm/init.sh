#!/bin/busybox sh
# The guest's init: mounts what there is, runs the steps, powers off. Steps print between marks on the console.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
# Oops and warnings of the kernel belong on the console, its other messages do not.
dmesg -n 4

# step NAME COMMAND…: runs it between marks; errors go with the output.
step() {
    name=$1
    shift
    echo "@@begin $name"
    "$@" 2>&1
    echo "@@end $name $?"
}

# wait_for FILE TEXT: until a line of the file has the text, at most a minute.
wait_for() {
    n=0
    until grep -q "$2" "$1" 2>/dev/null; do
        n=$((n + 1))
        [ "$n" -le 300 ] || { echo "\"$2\" never came:"; cat "$1"; return 1; }
        sleep 0.2
    done
}

# trace HOOKS SERVE LOAD: a server, a tracer on it, a load; prints the load's and the tracer's summary.
trace() {
    rm -rf /tmp/recording /tmp/*.out /tmp/*.err /tmp/*.csv
    /workload serve --listen 127.0.0.1:8080 --log /tmp/server.csv $2 >/tmp/serve.out 2>&1 &
    server=$!
    wait_for /tmp/serve.out listening || return 90
    /txray record --pid "$server" --hooks "$1" --out /tmp/recording --summary json >/tmp/trace.out 2>/tmp/trace.err &
    tracer=$!
    wait_for /tmp/trace.err "txray: tracing" || return 91
    # The target's texts have no spaces, so that the arguments fall apart at them.
    /workload load --to 127.0.0.1:8080 --csv /tmp/load.csv $3
    # What the server has left to do after the client's last byte.
    sleep 0.5
    kill -INT "$tracer"
    wait "$tracer"
    code=$?
    kill "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    cat /tmp/trace.err /tmp/trace.out
    return "$code"
}

# replay: of the recording that the last trace has left.
replay() {
    /txray replay /tmp/recording --speed max --summary json
}

step uname uname -r
[ -f /steps.sh ] && . /steps.sh
sync
# With -no-reboot this ends the emulator, ACPI or not.
reboot -f
