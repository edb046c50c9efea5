//! LLMNR by systemd-resolved: two of them on a link of their own, one asked for the other's name, against what both wrote into their logs.
//!
//! Needs systemd-resolved, bind9-dnsutils, iproute2 and unshare. Neither an init system nor a bus has to run.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks, machine,
    process::Process,
    tool,
    tracer::{Tracer, Transaction},
};

/// A host in its own network with a name, an address and a log: `$1`, `$2`, `$3`; its end of the link comes to it.
const HOST: &str = r#"
    mount --make-rprivate /
    mount -t tmpfs none /run
    mkdir -p /run/systemd/resolve /run/systemd/resolved.conf.d
    chown systemd-resolve:systemd-resolve /run/systemd/resolve
    printf '[Resolve]\nLLMNR=yes\nMulticastDNS=no\nDNS=\nFallbackDNS=\n' > /run/systemd/resolved.conf.d/only.conf
    hostname "$1"
    touch "$1.made"
    until ip link show "$1" > /dev/null 2>&1; do sleep 0.05; done
    ip link set lo up; ip link set "$1" up; ip addr add "$2/24" dev "$1"
    SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console exec "$RESOLVED" 2> "$1.log"
"#;

/// Two hosts; once both have their names, what the first asks.
const NETWORK: &str = r#"
    set -e
    mount --make-rprivate /
    # It becomes this user, which its package would make.
    for file in passwd group; do
        cp "/etc/$file" "$file"
        grep -q ^systemd-resolve: "$file" || echo 'systemd-resolve:x:996:996::/:/usr/sbin/nologin' >> "$file"
        mount --bind "$file" "/etc/$file"
    done
    ip link add asks type veth peer name answers
    unshare --net --uts --mount sh host.sh asks 192.0.2.1 & asks=$!
    unshare --net --uts --mount sh host.sh answers 192.0.2.2 & answers=$!
    until [ -e asks.made ] && [ -e answers.made ]; do sleep 0.05; done
    ip link set asks netns $asks
    ip link set answers netns $answers
    probed() { grep -qs "Record $1 IN A 192.* successfully probed" "$1.log" && grep -qs "Record $1 IN AAAA fe80.* successfully probed" "$1.log"; }
    until probed asks && probed answers; do sleep 0.1; done
    echo $asks $answers
    read go
    for host in asks answers; do wc -l < $host.log > $host.before; done
    ask() { nsenter --net --target $asks "$DIG" +tries=1 +time=20 +noall +comments +answer @127.0.0.53 "$@"; }
    ask answers A > told
    ask answers AAAA >> told
    ask nobody A >> told
    sleep 0.5
    kill $asks $answers
    wait $asks || true
    wait $answers || true
"#;

/// Its own, or what set-up has taken out of the package: as a service it would make itself the host's resolver.
fn resolved() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_txray")).ancestors().nth(2).unwrap();
    let program = "lib/systemd/systemd-resolved";
    [Path::new("/"), &target.join("tools/systemd-resolved")]
        .map(|root| root.join(program))
        .into_iter()
        .find(|file| file.is_file())
        .expect("systemd-resolved is not there: cargo xtask setup --tests")
}

/// Lines of a host's log behind the beginning that have these words.
fn logged(folder: &Path, host: &str, words: &str) -> usize {
    let read = |end: &str| fs::read_to_string(folder.join(format!("{host}.{end}"))).unwrap();
    let n_before = read("before").trim().parse().unwrap();
    read("log").lines().skip(n_before).filter(|line| line.contains(words)).count()
}

#[rstest]
fn resolved_asks_the_link_and_is_answered_by_who_has_the_name(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("host.sh"), HOST).unwrap();
    let mut command = Command::new(tool("unshare", "util-linux"));
    command.args(["--net", "--mount", "sh", "-c", NETWORK]).current_dir(folder.path());
    command.env("RESOLVED", resolved()).env("DIG", tool("dig", "bind9-dnsutils"));
    let mut network = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(network.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let [asks, answers] = pids[..] else { panic!("the hosts have no names: {line:?}") };
    let tracer = Tracer::start(hooks, &[asks, answers]);
    network.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(network.wait("the network"), Some(0));
    let capture = tracer.stop();
    let told = fs::read_to_string(folder.path().join("told")).unwrap();
    assert!(told.contains("192.0.2.2") && told.contains("fe80::"), "{told}");
    let n = |host: &str, words: &str| logged(folder.path(), host, words);
    let n_asked = n("asks", "Sending query packet with id");
    let n_replies = n("asks", "Got LLMNR UDP reply packet for id");
    // What is sent to the group comes back to its sender too.
    let n_own = n("asks", "Received llmnr UDP packet") - n_replies;
    let n_heard = n("answers", "Got LLMNR UDP query packet for id");
    let n_told = n("answers", "Sending response packet with id");
    assert!((n_replies, n_told, n_heard) == (2, 2, n_asked) && n_asked > 3, "{told}");
    let rows = |pid: u32, role: &str| -> Vec<&Transaction> {
        let rows = capture.transactions.iter();
        rows.filter(|one| one.protocol == "llmnr" && (one.pid, one.role.as_str()) == (pid, role)).collect()
    };
    for (pid, role, n, n_answered) in [
        (asks, "client", n_asked, n_replies),
        (answers, "server", n_heard, n_told),
        (asks, "server", n_own, 0),
        (answers, "client", 0, 0),
    ] {
        let rows = rows(pid, role);
        assert_eq!(rows.len(), n, "{role} {pid}: {rows:#?}");
        let (answered, open): (Vec<_>, Vec<_>) = rows.into_iter().partition(|one| one.end == "answered");
        assert_eq!(answered.len(), n_answered, "{role} {pid}: {answered:#?}");
        for one in answered {
            assert_eq!((one.target.as_deref(), one.status_code), (Some("answers"), Some(0)), "{one:?}");
            assert_eq!((one.server_port, one.confidence.as_str()), (Some(5355), "complete"), "{one:?}");
        }
        for one in open {
            let is_own = (pid, role) == (asks, "server");
            assert!(is_own || one.target.as_deref() == Some("nobody"), "{one:?}");
            assert_eq!((one.status_code, one.response_bytes), (None, 0), "{one:?}");
        }
    }
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
}
