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

step uname uname -r
[ -f /steps.sh ] && . /steps.sh
sync
# With -no-reboot this ends the emulator, ACPI or not.
reboot -f
