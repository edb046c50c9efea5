//! What the network does to connections, between two network namespaces, where packets can be lost.
//!
//! Needs Python, `ip` and `unshare`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use rstest::rstest;

use super::{
    Hooks,
    anatomy::of,
    machine,
    process::{Process, wait_for},
    tool,
    tracer::Tracer,
};

/// Answers `/wait/MS` when that has passed.
const SERVER: &str = r#"
import http.server, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(int(self.path.split("/")[2]) / 1000)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass

sys.stdin.readline()
server = http.server.ThreadingHTTPServer(("192.0.2.1", 8080), Handler)
server.daemon_threads = True
print("ready", flush=True)
server.serve_forever()
"#;

/// Asks on one connection for the paths that it is told.
const CLIENT: &str = r#"
import http.client, sys

connection = http.client.HTTPConnection("192.0.2.1", 8080)
for line in sys.stdin:
    path = line.strip()
    if path:
        connection.request("GET", path)
        connection.getresponse().read()
    print("done", flush=True)
"#;

/// A program in a network namespace of its own.
struct End {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: &'static str,
    link: &'static str,
}

impl End {
    fn start(script: &str, link: &'static str, address: &'static str) -> End {
        let mut command = Command::new(tool("unshare", "util-linux"));
        command.arg("--net").arg(tool("python3", "python3")).args(["-c", script]);
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = process.child.stdin.take().unwrap();
        let output = BufReader::new(process.child.stdout.take().unwrap());
        let pid = process.pid();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        wait_for("a network namespace", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).ok().filter(|namespace| *namespace != own)
        });
        End { process, input, output, address, link }
    }

    /// `ip` in its namespace.
    fn ip(&self, arguments: &[&str]) {
        let mut command = Command::new(tool("nsenter", "util-linux"));
        command.args(["--net", "--target", &self.process.pid().to_string()]);
        let output = command.arg(tool("ip", "iproute2")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// With its address it can be reached.
    fn address(&self, does: &str) {
        self.ip(&["address", does, &format!("{}/30", self.address), "dev", self.link]);
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), expected);
    }
}

#[rstest]
fn what_is_lost_and_sent_again_is_told_of_the_request_that_waits_for_it(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let mut server = End::start(SERVER, "serves", "192.0.2.1");
    let mut client = End::start(CLIENT, "asks", "192.0.2.2");
    let of_client = client.process.pid().to_string();
    server.ip(&["link", "add", "serves", "type", "veth", "peer", "asks", "netns", &of_client]);
    for end in [&server, &client] {
        end.address("add");
        end.ip(&["link", "set", end.link, "up"]);
    }
    server.say("go");
    server.hear("ready");
    let tracer = Tracer::start(hooks, &[server.process.pid(), client.process.pid()]);
    let mut ask = |server: &End, path: &str, lost_at: Option<bool>| {
        // Before the request, or while it is served.
        if lost_at == Some(false) {
            server.address("del");
        }
        client.say(path);
        if lost_at == Some(true) {
            client.address("del");
        }
        if let Some(is_answer) = lost_at {
            // Longer than the first time until it is sent again (200 ms), and the 200 ms that the answer takes.
            thread::sleep(Duration::from_millis(if is_answer { 450 } else { 250 }));
            if is_answer { client.address("add") } else { server.address("add") }
        }
        client.hear("done");
    };
    ask(&server, "/wait/1", None);
    ask(&server, "/wait/2", Some(false));
    ask(&server, "/wait/3", None);
    ask(&server, "/wait/200", Some(true));
    ask(&server, "/wait/4", None);
    let capture = tracer.stop();
    let network = |role: &str, path: &str| {
        let one = of(&capture, role, path);
        println!("{role} {path}: {} µs, {:?} ns, {:?}", one.duration_ns / 1_000, one.rtt_ns, one.retransmits);
        assert!(one.rtt_ns.is_some_and(|ns| ns > 0), "{one:?}");
        one.retransmits.unwrap()
    };
    for (path, [asked, served]) in [
        ("/wait/1", [false, false]),
        ("/wait/2", [true, false]),
        ("/wait/3", [false, false]),
        ("/wait/200", [false, true]),
        ("/wait/4", [false, false]),
    ] {
        let found = [network("client", path), network("server", path)];
        assert_eq!(found.map(|n| n > 0), [asked, served], "{path}: {found:?}");
    }
}
