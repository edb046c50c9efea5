//! Libraries in files that come, go and change: replaced under a process, by other names, in other roots and mount namespaces.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    Hooks, machine,
    tls_calls::{Client, ENDED, Server, check_paths, compiled, openssl_1_1},
    tls_programs::{LIBSSL, check_whole, n_probes, wait_for_probes},
    tool,
    tracer::Tracer,
};

/// The name of the clients' program: they are traced by it.
const NAME: &str = "tls-client";

struct Clients {
    server: Server,
    folder: TempDir,
    tracer: Tracer,
    /// What all have asked for.
    paths: BTreeMap<String, u64>,
}

impl Clients {
    fn library(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(folder: &Path) -> Command {
        Command::new(folder.join(NAME))
    }

    /// Starts a client, and waits until it has probes. `is_known`: they are on its file already.
    #[track_caller]
    fn start(&self, command: Command, library: &Path, name: &str, is_known: bool) -> Client {
        let before = n_probes(&self.tracer);
        let client = Client::start(command, "lines", self.server.port, library, name);
        if !is_known {
            wait_for_probes(&self.tracer, before);
        }
        client
    }

    fn done(&mut self, client: Client) {
        self.paths.extend(client.end());
    }
}

#[test]
fn a_library_is_found_wherever_its_file_is_and_whatever_becomes_of_it() {
    let _machine = machine();
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    symlink("/usr/bin/python3", folder.path().join(NAME)).unwrap();
    let first = folder.path().join("libssl.so.3");
    fs::copy(LIBSSL, &first).unwrap();
    let mut old = Client::start(Clients::command(folder.path()), "lines", server.port, &first, "old");
    let pids = [server.process.pid(), old.process.pid()];
    let tracer = Tracer::start_with(Hooks::Socket, &pids, &["--comm", NAME, "--tls", "clear"]);
    wait_for_probes(&tracer, 0);
    let mut all = Clients { server, folder, tracer, paths: BTreeMap::new() };
    let command = || Clients::command(all.folder.path());

    // Deleted, and another in its place: who has the one goes on with it, who begins has the other.
    old.go("there");
    fs::remove_file(&first).unwrap();
    old.go("deleted");
    fs::copy(LIBSSL, &first).unwrap();
    let mut new = all.start(command(), &first, "new", false);
    old.go("replaced");
    new.go("begun");
    // By another name.
    symlink("libssl.so.3", all.library("libother.so")).unwrap();
    let mut linked = all.start(command(), &all.library("libother.so"), "linked", true);
    linked.go("same");
    // In a mount namespace, where its file has a path that is nobody else's.
    let mount = all.library("mount");
    fs::create_dir(&mount).unwrap();
    let script =
        format!("mount -t tmpfs none {0} && cp {LIBSSL} {0}/libssl.so.3 && exec \"$@\"", mount.display());
    let mut command = Command::new(tool("unshare", "util-linux"));
    command.args(["-m", "/bin/sh", "-c", &script, "sh"]).arg(all.library(NAME));
    let mut inside = all.start(command, &mount.join("libssl.so.3"), "mounted", false);
    inside.go("there");
    // Another root, with nothing in it but what the program needs.
    let made = compiled(all.folder.path(), ENDED, &[]);
    let root = all.library("root");
    fs::create_dir(&root).unwrap();
    let needed = Command::new("ldd").arg(&made).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    let needed = needed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in needed {
        let copy = root.join(&file[1..]);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
    fs::copy(&made, root.join(NAME)).unwrap();
    let before = n_probes(&all.tracer);
    let mut command = Command::new(tool("chroot", "coreutils"));
    command.arg(&root).arg(format!("/{NAME}")).arg(all.server.port.to_string()).args(["0", "3"]);
    let mut rooted = Client::of(&mut command);
    wait_for_probes(&all.tracer, before);
    rooted.go("");
    // Written anew in its place while nobody has it: the same file by its numbers, and other places in it.
    let changing = all.library("changing");
    fs::copy(LIBSSL, &changing).unwrap();
    let mut was = all.start(Clients::command(all.folder.path()), &changing, "was", false);
    was.go("3");
    all.done(was);
    let older = openssl_1_1();
    fs::write(&changing, fs::read(&older).unwrap()).unwrap();
    let mut command = Clients::command(all.folder.path());
    command.env("LD_LIBRARY_PATH", older.parent().unwrap());
    let mut is = all.start(command, &changing, "is", false);
    is.go("1.1.1");

    for client in [old, new, linked, inside, rooted, is] {
        all.done(client);
    }
    assert_eq!(all.paths.len(), 9 * 3, "{:?}", all.paths);
    let capture = all.tracer.stop();
    check_whole(&capture);
    // The one program asks once before it says that it is ready.
    let mut served = all.paths.clone();
    for role in ["client", "server"] {
        if role == "server" {
            let before = super::tls_programs::inside(&capture, role);
            served.extend(
                before
                    .iter()
                    .find(|one| one.target.as_deref() == Some("/before"))
                    .map(|one| ("/before".to_owned(), one.response_bytes)),
            );
        }
        check_paths(&capture, role, &served);
    }
}
