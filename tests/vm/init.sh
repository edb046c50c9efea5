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
    /workload serve --listen "127.0.0.1:$port" --seconds 600 "$@" >"/tmp/serve.$port" 2>&1 &
    targets="$targets --pid $!"
    wait_for "/tmp/serve.$port" listening
}

# load PORT ARGUMENTS…: an emulated guest may need more than the ten seconds that a load lasts by default.
load() {
    port=$1
    shift
    /workload load --to "127.0.0.1:$port" --seconds 120 "$@"
}

# trace SCOPE FLAGS…: starts the servers of /tmp/plan, a tracer (of the `servers`, or without any target: of the whole
# `host`), then runs the loads of the plan.
trace() {
    scope=$1
    shift
    rm -rf /tmp/recording /tmp/live /tmp/live.err
    targets=
    grep '^serve ' /tmp/plan >/tmp/serves
    . /tmp/serves
    [ "$scope" = servers ] || targets=
    /txray record $targets "$@" --out /tmp/recording --json --summary json >/tmp/live 2>/tmp/live.err &
    tracer=$!
    if wait_for /tmp/live.err "txray: tracing" "$tracer"; then
        grep '^load ' /tmp/plan >/tmp/loads
        . /tmp/loads
        # What the servers have left to do after their clients' last byte.
        sleep 1
        misses "$tracer"
        kill -INT "$tracer"
    fi
    wait "$tracer"
    code=$?
    killall workload
    cat /tmp/live.err
    said /tmp/live
    # Interrupted, as it should be.
    [ "$code" = 130 ] && return 0
    return "$code"
}

# misses PID: kernel 5.12 and later: calls that met their own program preempted on the same processor, and ran none.
misses() {
    cat /proc/"$1"/fdinfo/* 2>/dev/null | awk '/^recursion_misses/ { n += $2 } END { print "misses: " n + 0 }'
}

# tls N: the whole host, then OpenSSL's server, and N clients that ask it for a file: the first is seen from its first byte on.
tls() {
    rm -rf /tmp/recording /tmp/live /tmp/live.err
    /txray record --queue-batches 8192 --out /tmp/recording --json --summary json >/tmp/live 2>/tmp/live.err &
    tracer=$!
    if wait_for /tmp/live.err "txray: tracing" "$tracer"; then
        # Its libraries are found while it starts, which takes a moment of an emulator's.
        sleep 3
        /openssl s_server -accept 4433 -key /key.pem -cert /certificate.pem -WWW >/tmp/tls.server 2>&1 &
        server=$!
        wait_for /tmp/tls.server ACCEPT "$server" || return 1
        n=0
        while [ "$n" -lt "$1" ]; do
            # Its server closes behind the file.
            printf 'GET /hello HTTP/1.0\r\n\r\n' | /openssl s_client -connect 127.0.0.1:4433 -quiet >/tmp/tls.client 2>&1
            grep -q '^hello' /tmp/tls.client || cat /tmp/tls.client
            n=$((n + 1))
        done
        sleep 1
        misses "$tracer"
        kill -INT "$tracer"
    fi
    wait "$tracer"
    code=$?
    kill "$server"
    cat /tmp/live.err
    echo "inside: $(grep -c '"library":"openssl"' /tmp/live)"
    said /tmp/live
    [ "$code" = 130 ] && return 0
    return "$code"
}

# ktls N FLAGS…: the whole host, then OpenSSL's server twice (the second sends its file by SSL_sendfile) and nginx, each with the kernel's TLS, and
# N clients of each version of TLS for each; of each version one more asks each for something big, and one gives that to nginx.
ktls() {
    n_clients=$1
    shift
    rm -rf /tmp/recording /tmp/live /tmp/live.err
    kernel_encrypts || return 1
    /txray record "$@" --queue-batches 8192 --out /tmp/recording --json --summary json >/tmp/live 2>/tmp/live.err &
    tracer=$!
    if wait_for /tmp/live.err "txray: tracing" "$tracer"; then
        # As above.
        sleep 3
        /openssl s_server -accept 4434 -key /key.pem -cert /certificate.pem -WWW >/tmp/ktls.4434 2>&1 &
        servers=$!
        /openssl s_server -accept 4435 -key /key.pem -cert /certificate.pem -WWW -sendfile >/tmp/ktls.4435 2>&1 &
        servers="$servers $!"
        /nginx -c /nginx.conf >/tmp/ktls.4436 2>&1 &
        servers="$servers $!"
        wait_for /tmp/ktls.4434 ACCEPT && wait_for /tmp/ktls.4435 ACCEPT && wait_for /tmp/ktls.4436 "start worker" || return 1
        for version in tls1_2 tls1_3; do
            for server in 4434/written 4435/sent 4436/kept; do
                n=0
                while [ "$n" -lt "$n_clients" ]; do
                    asks "${server#*/}" | client "${server%/*}" "$version"
                    ends_with /written
                    n=$((n + 1))
                done
            done
            for server in 4434 4435 4436; do
                asks big | client "$server" "$version"
                ends_with /big
            done
            gives big | client 4436 "$version"
            cmp /tmp/up/big /big || cat /tmp/ktls.client /tmp/ktls.client.err
            rm /tmp/up/big
        done
        sleep 1
        misses "$tracer"
        kill -INT "$tracer"
    fi
    wait "$tracer"
    code=$?
    kill $servers
    cat /tmp/live.err /proc/net/tls_stat
    grep -v '"type":"summary"' /tmp/live
    said /tmp/live
    [ "$code" = 130 ] && return 0
    return "$code"
}

# kernel_encrypts: from here on, for whoever asks OpenSSL.
kernel_encrypts() {
    export OPENSSL_CONF=/ktls.cnf
    if [ ! -e /proc/net/tls_stat ]; then
        for module in /modules/*; do insmod "$module" || return 1; done
    fi
}

# ktls_middle: a connection of each version of TLS to nginx, then a tracer of the whole host, then two requests more on each.
ktls_middle() {
    rm -rf /tmp/recording /tmp/live /tmp/live.err /tmp/go /tmp/ktls.4436
    kernel_encrypts || return 1
    /nginx -c /nginx.conf >/tmp/ktls.4436 2>&1 &
    server=$!
    wait_for /tmp/ktls.4436 "start worker" || return 1
    clients=
    for version in tls1_2 tls1_3; do
        middle | client 4436 "$version" &
        clients="$clients $!"
        # Until its first request is answered.
        sleep 3
    done
    /txray record --queue-batches 8192 --out /tmp/recording --json --summary json >/tmp/live 2>/tmp/live.err &
    tracer=$!
    wait_for /tmp/live.err "txray: tracing" "$tracer"
    # As above.
    sleep 3
    touch /tmp/go
    wait $clients
    sleep 1
    misses "$tracer"
    kill -INT "$tracer"
    wait "$tracer"
    code=$?
    kill "$server"
    cat /tmp/live.err
    grep -v '"type":"summary"' /tmp/live
    said /tmp/live
    [ "$code" = 130 ] && return 0
    return "$code"
}

# middle: what its clients say.
middle() {
    printf 'GET /kept HTTP/1.1\r\nHost: localhost\r\n\r\n'
    until [ -e /tmp/go ]; do sleep 0.2; done
    printf 'GET /kept HTTP/1.1\r\nHost: localhost\r\n\r\n'
    sleep 2
    printf 'GET /kept HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
}

# client PORT VERSION: says what it reads.
client() {
    /openssl s_client -connect "127.0.0.1:$1" "-$2" -quiet >/tmp/ktls.client 2>/tmp/ktls.client.err
}

# ends_with FILE: what the client heard.
ends_with() {
    tail -c "$(wc -c <"$1")" /tmp/ktls.client | cmp - "$1" || cat /tmp/ktls.client.err
}

# gives FILE: as what a client says.
gives() {
    printf 'PUT /up/%s HTTP/1.0\r\nContent-Length: %d\r\n\r\n' "$1" "$(wc -c <"/$1")"
    cat "/$1"
}

# asks FILE: what a client says. The one whose server keeps the connection asks again.
asks() {
    if [ "$1" = kept ]; then
        for again in 1 2; do
            printf 'GET /kept HTTP/1.1\r\nHost: localhost\r\n\r\n'
            sleep 2
        done
        printf 'GET /kept HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
    else
        printf 'GET /%s HTTP/1.0\r\n\r\n' "$1"
    fi
}

# said FILE: the summary that txray has printed there, and how many transactions of each role stand above it.
said() {
    echo "roles: server=$(grep -c '"role":"server"' "$1") client=$(grep -c '"role":"client"' "$1")"
    grep '"type":"summary"' "$1"
}

# replay: of the recording that the last trace has left; line by line what the live run printed.
replay() {
    /txray replay /tmp/recording --speed max --json --summary json >/tmp/replayed || return
    said /tmp/replayed
    for run in live replayed; do
        grep -v '"type":"summary"' "/tmp/$run" >"/tmp/$run.transactions"
    done
    cmp /tmp/live.transactions /tmp/replayed.transactions
}

# live TEST…: the live layer's tests of these names, on the shipped file.
live() {
    TXRAY_BIN=/txray TXRAY_WORKLOAD=/workload /integration --test-threads=1 --exact "$@"
}

step uname uname -r
[ -f /steps.sh ] && . /steps.sh
sync
# With -no-reboot this ends the emulator, ACPI or not.
reboot -f
