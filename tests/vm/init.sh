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

# wait_for FILE TEXT [PID]: until a line of the file has the text, at most five minutes.
wait_for() {
    n=0
    until grep -q "$2" "$1" 2>/dev/null; do
        n=$((n + 1))
        # No use in waiting for a tracer that has given up.
        if [ -n "$3" ] && ! kill -0 "$3" 2>/dev/null; then return 1; fi
        [ "$n" -le 1500 ] || { echo "\"$2\" never came:"; cat "$1"; return 1; }
        sleep 0.2
    done
}

# serve PORT ARGUMENTS…: starts a server and adds it to the tracer's targets.
serve() {
    port=$1
    shift
    /workload serve --listen "127.0.0.1:$port" --seconds 800 "$@" >"/tmp/serve.$port" 2>&1 &
    targets="$targets --pid $!"
    wait_for "/tmp/serve.$port" listening
}

# load PORT ARGUMENTS…
load() {
    port=$1
    shift
    /workload load --to "127.0.0.1:$port" "$@"
}

# trace HOOKS: starts the servers of /tmp/plan, a tracer on all of them, then runs the loads of the plan.
trace() {
    rm -rf /tmp/recording /tmp/trace.out /tmp/trace.err
    targets=
    grep '^serve ' /tmp/plan >/tmp/serves
    . /tmp/serves
    /txray record $targets --hooks "$1" --out /tmp/recording --summary json >/tmp/trace.out 2>/tmp/trace.err &
    tracer=$!
    if wait_for /tmp/trace.err "txray: tracing" "$tracer"; then
        grep '^load ' /tmp/plan >/tmp/loads
        . /tmp/loads
        # What the servers have left to do after their clients' last byte.
        sleep 1
        kill -INT "$tracer"
    fi
    wait "$tracer"
    code=$?
    killall workload
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
