//! Which container or systemd unit a process belongs to, from the paths of its cgroups; and a container's name from
//! files that its runtime leaves on disk. No daemon is asked.
//!
//! What the paths look like (cgroup v1 and v2, cgroupfs and systemd drivers):
//!
//! ```text
//! /docker/ID                                            docker, cgroupfs
//! /system.slice/docker-ID.scope                         docker, systemd
//! /kubepods/burstable/podUID/ID                         containerd or cri-o under Kubernetes, cgroupfs
//! /kubepods.slice/…-podUID.slice/cri-containerd-ID.scope   the same, systemd
//! /kubepods.slice/…-podUID.slice/crio-ID.scope          cri-o
//! /machine.slice/libpod-ID.scope[/container]            podman
//! /user.slice/…/user@1000.service/user.slice/libpod-ID.scope   podman, rootless
//! /system.slice/NAME.service/libpod-payload-ID          podman under a systemd unit of its own
//! /lxc.payload.NAME, /lxc/NAME                          LXC
//! /machine.slice/machine-NAME.scope                     systemd-nspawn
//! ```
//!
//! IDs are 64 hexadecimal digits. `…conmon-ID.scope` holds the runtime's monitor, which is not in the container.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Largest of the runtimes' files read: a container's configuration takes 5 to 60 KiB, podman's list of all of them
/// about 1 KiB each.
const MAX_FILE: u64 = 4 << 20;

/// A container as a cgroup path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits; for LXC and nspawn the name.
    pub id: String,
    /// Who runs it.
    pub runtime: Runtime,
}

/// What made the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Docker or Moby.
    Docker,
    /// containerd, under Kubernetes or nerdctl.
    Containerd,
    /// podman.
    Podman,
    /// CRI-O.
    Crio,
    /// LXC, LXD, Incus or systemd-nspawn: the path names the container itself.
    Named,
    /// The path does not say.
    Unknown,
}

/// What a process's cgroups say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// systemd unit without `.service`, if the process is in one and not in a container below it.
    pub unit: Option<String>,
    /// The innermost container.
    pub container: Option<Container>,
}

/// Reads the text of `/proc/PID/cgroup`: lines `ID:CONTROLLERS:PATH`.
pub fn membership(text: &str) -> Membership {
    let mut unit = None;
    let mut container = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let found = of_path(path);
        container = container.or(found.container);
        // systemd places processes in the unified hierarchy (v2) or in its own named one (v1); the others may lag.
        if controllers.is_empty() || controllers == "name=systemd" {
            unit = unit.or(found.unit);
        }
    }
    Membership { unit, container }
}

fn of_path(path: &str) -> Membership {
    let mut membership = Membership::default();
    let mut parent = "";
    for component in path.split('/').filter(|component| !component.is_empty()) {
        if let Some(container) = container_of(component, parent) {
            // A unit that holds exactly one container (podman's) is that container's better name.
            if !component.starts_with("libpod-payload-") {
                membership.unit = None;
            }
            membership.container = Some(container);
        } else if let Some(unit) = component.strip_suffix(".service") {
            // `user@1000.service` is a login, not a service; units below it are.
            membership.unit = (!unit.starts_with("user@")).then(|| unescape(unit));
        } else if component.ends_with(".scope") {
            // A login session or an ad hoc scope: whoever started it is not its service.
            membership.unit = None;
        }
        parent = component;
    }
    membership
}

fn container_of(component: &str, parent: &str) -> Option<Container> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    if let Some(machine) = name.strip_prefix("machine-").filter(|_| component.ends_with(".scope")) {
        return Some(Container { id: unescape(machine), runtime: Runtime::Named });
    }
    let lxc = name.strip_prefix("lxc.payload.").or((parent == "lxc").then_some(name));
    if let Some(lxc) = lxc.filter(|lxc| !lxc.is_empty()) {
        return Some(Container { id: lxc.to_owned(), runtime: Runtime::Named });
    }
    // Under systemd: PREFIX-ID.scope; containerd's own form of systemd paths is SLICE:PREFIX:ID.
    let (prefix, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    let is_id = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_id || prefix.ends_with("conmon") {
        return None;
    }
    let prefix = prefix.rsplit(':').next().unwrap_or(prefix);
    let runtime = match prefix {
        "docker" => Runtime::Docker,
        "cri-containerd" | "containerd" | "nerdctl" => Runtime::Containerd,
        "libpod" | "libpod-payload" => Runtime::Podman,
        "crio" => Runtime::Crio,
        "" if parent == "docker" => Runtime::Docker,
        "" if parent == "libpod_parent" => Runtime::Podman,
        "" if parent == "k8s.io" || parent == "default" => Runtime::Containerd,
        _ => Runtime::Unknown,
    };
    Some(Container { id: id.to_owned(), runtime })
}

/// systemd's escapes in unit names: `\x2d` is a byte.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\' && tail.first() == Some(&b'x'))
            .then(|| {
                std::str::from_utf8(tail.get(1..3)?).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            })
            .flatten();
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    crate::text::data_text(&bytes).into_owned()
}

/// The container's name where its runtime has written it down, below `root` (`/` on a live host).
///
/// Docker keeps it in its configuration, podman in a list of all containers, containerd and cri-o in the annotations
/// of the runtime bundle. Under Kubernetes the name is that of the container in its pod.
pub fn container_name(root: &Path, container: &Container) -> Option<String> {
    let id = container.id.as_str();
    match container.runtime {
        Runtime::Named => return Some(container.id.clone()),
        Runtime::Docker => docker_name(root, id),
        Runtime::Podman => podman_name(root, id),
        Runtime::Containerd => bundle_name(root, id),
        Runtime::Crio => bundle_name(root, id),
        Runtime::Unknown => {
            docker_name(root, id).or_else(|| bundle_name(root, id)).or_else(|| podman_name(root, id))
        }
    }
    .filter(|name| !name.is_empty())
}

fn docker_name(root: &Path, id: &str) -> Option<String> {
    let config = json(&root.join(format!("var/lib/docker/containers/{id}/config.v2.json")))?;
    // Docker writes "/name". Kubernetes' dockershim: "/k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT".
    let name = config.get("Name")?.as_str()?.trim_start_matches('/');
    let in_pod = name.strip_prefix("k8s_").and_then(|rest| rest.split('_').next());
    Some(in_pod.unwrap_or(name).to_owned())
}

fn podman_name(root: &Path, id: &str) -> Option<String> {
    let list = json(&root.join("var/lib/containers/storage/overlay-containers/containers.json"))?;
    let entry =
        list.as_array()?.iter().find(|entry| entry.get("id").and_then(|id| id.as_str()) == Some(id))?;
    Some(entry.get("names")?.get(0)?.as_str()?.to_owned())
}

/// From `config.json` of the OCI bundle.
fn bundle_name(root: &Path, id: &str) -> Option<String> {
    let bundles: [PathBuf; 3] = [
        root.join(format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json")),
        root.join(format!("run/containerd/io.containerd.runtime.v2.task/default/{id}/config.json")),
        root.join(format!("run/containers/storage/overlay-containers/{id}/userdata/config.json")),
    ];
    let config = bundles.iter().find_map(|path| json(path))?;
    let annotations = config.get("annotations")?;
    ["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"]
        .iter()
        .find_map(|key| annotations.get(key)?.as_str().map(str::to_owned))
}

fn json(path: &Path) -> Option<serde_json::Value> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case::docker_cgroupfs("/docker/{}", Runtime::Docker)]
    #[case::docker_systemd("/system.slice/docker-{}.scope", Runtime::Docker)]
    #[case::docker_in_docker("/docker/ffff/docker/{}", Runtime::Docker)]
    #[case::systemd_inside_a_container("/docker/{}/init.scope", Runtime::Docker)]
    #[case::kubernetes_cgroupfs("/kubepods/burstable/pod6a5d-11/{}", Runtime::Unknown)]
    #[case::kubernetes_containerd(
        "/kubepods.slice/kubepods-pod6a.slice/cri-containerd-{}.scope",
        Runtime::Containerd
    )]
    #[case::kubernetes_containerd_colons(
        "/system.slice/containerd.service/kubepods-pod6a.slice:cri-containerd:{}",
        Runtime::Containerd
    )]
    #[case::crio("/kubepods.slice/kubepods-pod6a.slice/crio-{}.scope", Runtime::Crio)]
    #[case::podman("/machine.slice/libpod-{}.scope/container", Runtime::Podman)]
    #[case::podman_rootless(
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{}.scope",
        Runtime::Podman
    )]
    #[case::podman_cgroupfs("/libpod_parent/libpod-{}", Runtime::Podman)]
    #[case::nerdctl("/default/{}", Runtime::Containerd)]
    #[case::amazon("/ecs/task-arn/{}", Runtime::Unknown)]
    #[case::from_a_namespace("/../../docker-{}.scope", Runtime::Docker)]
    fn a_container_is_known_by_its_path(#[case] path: &str, #[case] runtime: Runtime) {
        let found = of_path(&path.replace("{}", ID));
        assert_eq!(found.container, Some(Container { id: ID.to_owned(), runtime }));
        assert_eq!(found.unit, None, "what runs the container is not its service");
    }

    #[rstest]
    #[case::plain("/system.slice/nginx.service", Some("nginx"))]
    #[case::instance(
        "/system.slice/system-postgresql.slice/postgresql@15-main.service",
        Some("postgresql@15-main")
    )]
    #[case::escaped("/system.slice/my\\x2dapp.service", Some("my-app"))]
    #[case::below_the_unit("/system.slice/dovecot.service/imap", Some("dovecot"))]
    #[case::of_a_user("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", Some("web"))]
    #[case::login("/user.slice/user-1000.slice/session-3.scope", None)]
    #[case::user_manager("/user.slice/user-1000.slice/user@1000.service/init.scope", None)]
    #[case::init("/init.scope", None)]
    #[case::root("/", None)]
    #[case::monitor("/machine.slice/libpod-conmon-{}.scope", None)]
    #[case::short_hex("/docker/0123456789ab", None)]
    fn a_unit_is_known_by_its_path_and_no_container_is_invented(
        #[case] path: &str,
        #[case] unit: Option<&str>,
    ) {
        let found = of_path(&path.replace("{}", ID));
        assert_eq!(found, Membership { unit: unit.map(str::to_owned), container: None });
    }

    #[test]
    fn a_unit_made_for_one_container_names_it() {
        let found = of_path(&format!("/system.slice/shop.service/libpod-payload-{ID}"));
        assert_eq!(found.unit.as_deref(), Some("shop"));
        assert_eq!(found.container.unwrap().runtime, Runtime::Podman);
    }

    #[test]
    fn a_unit_inside_a_container_counts() {
        let found = of_path(&format!("/docker/{ID}/system.slice/nginx.service"));
        assert_eq!(found.unit.as_deref(), Some("nginx"));
        assert_eq!(found.container.unwrap().id, ID);
    }

    #[test]
    fn named_containers_have_their_name_as_id() {
        for path in ["/lxc.payload.web/x", "/lxc/web", "/machine.slice/machine-web.scope"] {
            let container = of_path(path).container.unwrap();
            assert_eq!((container.id.as_str(), container.runtime), ("web", Runtime::Named), "{path}");
            assert_eq!(container_name(Path::new("/nowhere"), &container).as_deref(), Some("web"));
        }
    }

    #[test]
    fn all_hierarchies_are_looked_at_and_units_taken_from_systemds() {
        let v1 = format!("12:memory:/docker/{ID}\n1:name=systemd:/system.slice/a.service\n0::/\nnonsense\n");
        let found = membership(&v1);
        assert_eq!(found.container.unwrap().id, ID);
        assert_eq!(found.unit.as_deref(), Some("a"));
        let lagging = "5:pids:/system.slice/old.service\n0::/system.slice/new.service\n";
        assert_eq!(membership(lagging).unit.as_deref(), Some("new"));
        assert_eq!(membership(""), Membership::default());
    }

    #[rstest]
    #[case::docker("var/lib/docker/containers/{}/config.v2.json", r#"{"Name":"/shop"}"#, Runtime::Docker)]
    #[case::dockershim(
        "var/lib/docker/containers/{}/config.v2.json",
        r#"{"Name":"/k8s_shop_pod-1_default_uid_0"}"#,
        Runtime::Docker
    )]
    #[case::podman(
        "var/lib/containers/storage/overlay-containers/containers.json",
        r#"[{"id":"00","names":["x"]},{"id":"{}","names":["shop"]}]"#,
        Runtime::Podman
    )]
    #[case::containerd(
        "run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json",
        r#"{"annotations":{"io.kubernetes.cri.container-name":"shop"}}"#,
        Runtime::Containerd
    )]
    #[case::nerdctl(
        "run/containerd/io.containerd.runtime.v2.task/default/{}/config.json",
        r#"{"annotations":{"nerdctl/name":"shop"}}"#,
        Runtime::Containerd
    )]
    #[case::crio(
        "run/containers/storage/overlay-containers/{}/userdata/config.json",
        r#"{"annotations":{"io.kubernetes.container.name":"shop"}}"#,
        Runtime::Crio
    )]
    #[case::kubernetes_cgroupfs(
        "run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json",
        r#"{"annotations":{"io.kubernetes.cri.container-name":"shop"}}"#,
        Runtime::Unknown
    )]
    fn a_name_is_found_in_what_the_runtime_leaves_on_disk(
        #[case] path: &str,
        #[case] content: &str,
        #[case] runtime: Runtime,
    ) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(path.replace("{}", ID));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content.replace("{}", ID)).unwrap();
        let container = Container { id: ID.to_owned(), runtime };
        assert_eq!(container_name(root.path(), &container).as_deref(), Some("shop"));
        fs::write(&path, "{broken").unwrap();
        assert_eq!(container_name(root.path(), &container), None);
    }
}
