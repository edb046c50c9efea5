//! What TLS connections carry, by probes on the libraries of both ends.

use rstest::rstest;
use tempfile::TempDir;

use super::{
    Hooks,
    check::check_order_and_sums,
    machine,
    tls::{NAME, PAGE, curl_of_nginx},
    tracer::{Capture, Tls, Transaction},
};

/// The transactions of a role that are not the handshake's.
fn inside<'a>(capture: &'a Capture, role: &str) -> Vec<&'a Transaction> {
    capture.role(role).into_iter().filter(|one| one.protocol != "tls").collect()
}

fn own(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[rstest]
fn each_request_that_nginx_logs_is_one(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values("TLSv1.2", "TLSv1.3")] version: &str,
    #[values("--http1.1", "--http2")] http: &str,
) {
    const N: usize = 40;
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let (capture, rows) = curl_of_nginx(hooks, folder.path(), version, http, N, "clear");
    check_order_and_sums(&capture);
    assert_eq!(rows.lines().count(), N);
    let (protocol, alpn) = if http == "--http2" { ("http2", "h2") } else { ("http1", "http/1.1") };
    for role in ["server", "client"] {
        let why = format!("{role}: {:#?}\n{}", capture.role(role), capture.stderr);
        let found = inside(&capture, role);
        assert_eq!(found.len(), N, "{why}");
        for one in &found {
            assert_eq!(
                (one.protocol.as_str(), one.operation.as_str(), one.target.as_deref(), one.status_code),
                (protocol, "GET /page.html", Some("/page.html"), Some(200)),
                "{why}"
            );
            assert_eq!((one.end.as_str(), one.confidence.as_str()), ("answered", "complete"), "{why}");
            assert!(one.response_bytes > PAGE && one.response_bytes < PAGE + 1000, "{why}");
            let facts = Tls {
                library: own("openssl"),
                version: own(version),
                sni: own(NAME),
                alpn: (version != "TLSv1.3").then(|| alpn.to_owned()),
            };
            assert_eq!(one.tls.as_ref(), Some(&facts), "{why}");
            assert_eq!(one.conn_id, found[0].conn_id, "one connection: {why}");
        }
        // The handshake's first turn was over before anything was said in it.
        let others: Vec<_> = capture.role(role).into_iter().filter(|one| one.protocol == "tls").collect();
        assert!(others.iter().all(|one| one.operation == "TLS handshake" && one.end == "answered"), "{why}");
        assert!((1..=2).contains(&others.len()), "{why}");
    }
    assert_eq!(capture.summary.unpaired.values().sum::<u64>(), 0, "{}", capture.stderr);
    assert_eq!(capture.summary.lost_requests.high, 0, "{}", capture.stderr);
}
