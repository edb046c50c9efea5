//! Operation names: paths become templates (`GET /user/123` → `GET /user/{id}`), so that the number of names is bounded.
//!
//! A name is a guess from the bytes of the path; it is never a framework's route (`http.route`). The rules, in order:
//!
//! * A segment that looks like an identifier is replaced wherever it stands: `{id}` (numbers, UUIDs, hashes, tokens,
//!   numbered names such as `order-1042`), `{date}`, `{email}`, and `{text}` (percent-encoded, not ASCII, very long).
//!   A known file extension stays (`/img/123.png` → `/img/{id}.png`).
//! * Learned: once one parent has shown 64 (`MAX_LITERALS`) different literal children, those asked for fewer than
//!   16 (`KEEP_HITS`) times become `{*}`, and so does every new one. Children in real use keep their names: a scanner
//!   that asks for thousands of paths does not take `/login` away.
//! * At most [`MAX_SEGMENTS`] segments; the rest is one `{*}`.
//! * A service has at most `cap` names, ever, a quarter of them kept for names with a placeholder. What comes later
//!   under a new name is called `GET {other}` (`{other}` for operations without a path) and counted
//!   ([`Templates::overflowed`]); there are at most [`MAX_OTHERS`] such names. Beyond [`MAX_SERVICES`] services the
//!   newer ones share one budget.
//!
//! Names depend on the order of the calls only: the same calls give the same names, and the cache changes nothing.
//! Cost of a known raw path: two hashes and a comparison, no allocation; of a new path with a known name: one walk of
//! the tree, no allocation.

use std::{hash::Hasher as _, sync::Arc};

use rustc_hash::{FxHashMap, FxHasher};
use serde::{Deserialize, Serialize};

use super::{
    segment::{is_literal, push_label, star_label},
    tree::{MAX_LITERALS, Name, Names, Node},
};
use crate::protocol::Operation;

/// Segments of a template.
pub const MAX_SEGMENTS: usize = 10;
/// Services with a budget of their own.
pub const MAX_SERVICES: usize = 1024;
/// Different `… {other}` names of one service.
pub const MAX_OTHERS: usize = 16;

/// Slots of the cache of raw paths; a new path takes the slot of an old one. 4,096 × at most 600 bytes = 2.4 MB.
const CACHE_SLOTS: usize = 4096;
/// A longer method and path is not cached.
const MAX_CACHED_KEY: usize = 512;
/// Fixed names are cut to this length (semantic conventions for query summaries).
const MAX_FIXED_LEN: usize = 255;
/// Nodes of a service's tree per name of its budget: names are paths, and share their parents.
const NODES_PER_NAME: usize = 4;
/// Marks an index into [`Service::others`].
const OTHER: u32 = 1 << 31;

/// The names of all services, and what was learned about them.
#[derive(Debug)]
pub struct Templates {
    cap: usize,
    services: Vec<Service>,
    by_service: FxHashMap<Arc<str>, u32>,
    cache: Vec<Slot>,
    scratch: String,
    overflowed: u64,
}

/// The names of one service.
#[derive(Debug)]
struct Service {
    name: Arc<str>,
    names: Names,
    /// `GET {other}`, …; at most [`MAX_OTHERS`].
    others: Vec<Arc<str>>,
    root: Node,
    /// Nodes below the root; at most `cap × NODES_PER_NAME`.
    n_nodes: usize,
}

/// A cached raw path. Its buffer is reused.
#[derive(Debug, Default)]
struct Slot {
    hash: u64,
    service: u32,
    name: u32,
    /// Method, space, path. Empty = free slot.
    key: Vec<u8>,
}

impl Templates {
    /// Nothing learned yet. `cap` is the number of names that one service may have (0 counts as 1).
    pub fn new(cap: usize) -> Self {
        let mut cache = Vec::new();
        cache.resize_with(CACHE_SLOTS, Slot::default);
        Templates {
            cap: cap.clamp(1, 1 << 24),
            services: Vec::new(),
            by_service: FxHashMap::default(),
            cache,
            scratch: String::new(),
            overflowed: 0,
        }
    }

    /// The name of `operation` in `service`; learns from it.
    pub fn name(&mut self, service: &str, operation: &Operation) -> Arc<str> {
        let service_idx = self.service(service);
        match operation {
            Operation::Fixed(text) => self.fixed_name(service_idx, text),
            Operation::Path { method, path } => self.path_name(service_idx, method, path),
        }
    }

    /// Calls whose name was `{other}` because the service's budget was used up.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    fn service(&mut self, name: &str) -> usize {
        if let Some(&idx) = self.by_service.get(name) {
            return idx as usize;
        }
        // The last place is shared by all services that come too late.
        let idx = self.services.len().min(MAX_SERVICES);
        if idx == self.services.len() {
            let name: Arc<str> = if idx == MAX_SERVICES { "".into() } else { name.into() };
            self.services.push(Service::new(name.clone()));
            if idx < MAX_SERVICES {
                self.by_service.insert(name, idx as u32);
            }
        }
        idx
    }

    fn fixed_name(&mut self, service_idx: usize, text: &str) -> Arc<str> {
        let service = &mut self.services[service_idx];
        let text = &text[..text.floor_char_boundary(MAX_FIXED_LEN)];
        let name = service.names.admit(text, self.cap).unwrap_or_else(|| service.other(""));
        self.hit(service_idx, name)
    }

    fn path_name(&mut self, service_idx: usize, method: &str, path: &[u8]) -> Arc<str> {
        let mut hasher = FxHasher::default();
        hasher.write_usize(service_idx);
        hasher.write(method.as_bytes());
        hasher.write_u8(b' ');
        hasher.write(path);
        let hash = hasher.finish();
        let slot_idx = (hash ^ (hash >> 32)) as usize % CACHE_SLOTS;
        let slot = &self.cache[slot_idx];
        if slot.hash == hash && slot.service as usize == service_idx && slot.holds(method, path) {
            let name = slot.name;
            return self.hit(service_idx, name);
        }

        let service = &mut self.services[service_idx];
        let name = match service.place(method, path, self.cap, &mut self.scratch) {
            Placed::Name(name) => name,
            Placed::Folded(name) => {
                // Paths cached before may have another name now.
                self.cache.iter_mut().for_each(|slot| slot.key.clear());
                name
            }
        };
        if method.len() + 1 + path.len() <= MAX_CACHED_KEY {
            let slot = &mut self.cache[slot_idx];
            slot.hash = hash;
            slot.service = service_idx as u32;
            slot.name = name;
            slot.key.clear();
            slot.key.extend_from_slice(method.as_bytes());
            slot.key.push(b' ');
            slot.key.extend_from_slice(path);
        }
        self.hit(service_idx, name)
    }

    fn hit(&mut self, service_idx: usize, name: u32) -> Arc<str> {
        let service = &mut self.services[service_idx];
        if name & OTHER != 0 {
            self.overflowed += 1;
            return service.others[(name & !OTHER) as usize].clone();
        }
        let name = &mut service.names.list[name as usize];
        name.hits += 1;
        name.text.clone()
    }
}

impl Slot {
    fn holds(&self, method: &str, path: &[u8]) -> bool {
        self.key.len() == method.len() + 1 + path.len()
            && self.key.starts_with(method.as_bytes())
            && self.key.ends_with(path)
    }
}

enum Placed {
    Name(u32),
    /// Literals were folded on the way.
    Folded(u32),
}

impl Service {
    fn new(name: Arc<str>) -> Self {
        Service { name, names: Names::default(), others: Vec::new(), root: Node::default(), n_nodes: 0 }
    }

    /// The overflow name of a method; `""` for operations without one.
    fn other(&mut self, method: &str) -> u32 {
        let idx = self
            .others
            .iter()
            .position(|other| other.strip_suffix("{other}").map(str::trim_end) == Some(method));
        let idx = idx.unwrap_or_else(|| {
            if self.others.len() < MAX_OTHERS {
                let space = if method.is_empty() { "" } else { " " };
                self.others.push(format!("{method}{space}{{other}}").into());
            }
            self.others.len() - 1
        });
        idx as u32 | OTHER
    }

    /// Walks the tree along `path`, learning, and names the place where it ends.
    fn place(&mut self, method: &str, path: &[u8], cap: usize, scratch: &mut String) -> Placed {
        let path = path.split(|&byte| byte == b'?' || byte == b'#').next().unwrap_or_default();
        let max_nodes = cap.saturating_mul(NODES_PER_NAME);
        let mut folded = false;
        scratch.clear();
        scratch.push_str(method);
        scratch.push(' ');
        let mut node = &mut self.root;
        let mut n_segments = 0;
        let mut fits = true;
        for segment in path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()) {
            scratch.push('/');
            let start = scratch.len();
            n_segments += 1;
            if n_segments > MAX_SEGMENTS {
                scratch.push_str("{*}");
            } else {
                push_label(segment, scratch);
            }
            let label = &scratch[start..];
            let mut found = node.find(label);
            if found.is_err() && is_literal(label) {
                if !node.folded && node.n_literals() >= MAX_LITERALS {
                    node.fold(&self.names);
                    folded = true;
                }
                if node.folded {
                    let star = star_label(label);
                    scratch.truncate(start);
                    scratch.push_str(star);
                    found = node.find(star);
                }
            }
            let idx = match found {
                Ok(idx) => idx,
                Err(_) if self.n_nodes >= max_nodes => {
                    fits = false;
                    break;
                }
                Err(idx) => {
                    self.n_nodes += 1;
                    node.children.insert(idx, (scratch[start..].into(), Node::default()));
                    idx
                }
            };
            node = &mut node.children[idx].1;
            if n_segments > MAX_SEGMENTS {
                break;
            }
        }
        // `/a/` and `/a` may be two routes; beyond the last segment kept, the slash is part of the rest.
        if n_segments == 0 || (n_segments <= MAX_SEGMENTS && path.ends_with(b"/")) {
            scratch.push('/');
        }
        // A quarter of the budget is kept for names with a placeholder: they stand for the many.
        let limit = if scratch.contains('{') { cap } else { cap - cap / 4 };
        let name = if fits { self.names.admit(scratch, limit) } else { None };
        if let Some(name) = name
            && !node.names.contains(&name)
        {
            node.names.push(name);
        }
        if folded {
            self.n_nodes = self.root.n_descendants();
        }
        let name = name.unwrap_or_else(|| self.other(method));
        if folded { Placed::Folded(name) } else { Placed::Name(name) }
    }
}

/// What [`Templates::save`] writes.
#[derive(Serialize, Deserialize)]
struct Saved {
    cap: u64,
    overflowed: u64,
    services: Vec<SavedService>,
}

#[derive(Serialize, Deserialize)]
struct SavedService {
    name: String,
    names: Vec<(String, u64)>,
    others: Vec<String>,
    /// The tree in preorder, the root first.
    nodes: Vec<SavedNode>,
}

#[derive(Serialize, Deserialize)]
struct SavedNode {
    depth: u8,
    label: String,
    names: Vec<u32>,
    folded_hits: u64,
    folded: bool,
}

impl Templates {
    /// Everything learned, for a checkpoint. The cache is left out: it changes no name.
    pub fn save(&self) -> Vec<u8> {
        fn flatten(node: &Node, label: &str, depth: u8, nodes: &mut Vec<SavedNode>) {
            nodes.push(SavedNode {
                depth,
                label: label.to_owned(),
                names: node.names.clone(),
                folded_hits: node.folded_hits,
                folded: node.folded,
            });
            for (label, child) in &node.children {
                flatten(child, label, depth + 1, nodes);
            }
        }
        let services = self.services.iter().map(|service| {
            let mut nodes = Vec::with_capacity(service.n_nodes + 1);
            flatten(&service.root, "", 0, &mut nodes);
            SavedService {
                name: (*service.name).to_owned(),
                names: service.names.list.iter().map(|name| ((*name.text).to_owned(), name.hits)).collect(),
                others: service.others.iter().map(|other| (**other).to_owned()).collect(),
                nodes,
            }
        });
        let saved = Saved { cap: self.cap as u64, overflowed: self.overflowed, services: services.collect() };
        // Serialising plain vectors into memory has no way to fail; an empty state would be refused by `load`.
        postcard::to_allocvec(&saved).unwrap_or_default()
    }

    /// Takes up what [`Templates::save`] wrote: the same names follow. `None` when the bytes are not such a state.
    pub fn load(bytes: &[u8]) -> Option<Templates> {
        let saved: Saved = postcard::from_bytes(bytes).ok()?;
        let cap = usize::try_from(saved.cap).ok()?;
        let mut templates = Templates::new(cap);
        if templates.cap != cap || saved.services.len() > MAX_SERVICES + 1 {
            return None;
        }
        templates.overflowed = saved.overflowed;
        for (idx, saved) in saved.services.into_iter().enumerate() {
            let service = Service::load(saved, cap)?;
            if idx < MAX_SERVICES && templates.by_service.insert(service.name.clone(), idx as u32).is_some() {
                return None;
            }
            templates.services.push(service);
        }
        Some(templates)
    }
}

impl Service {
    fn load(saved: SavedService, cap: usize) -> Option<Service> {
        let max_nodes = cap.saturating_mul(NODES_PER_NAME).saturating_add(1);
        if saved.names.len() > cap || saved.others.len() > MAX_OTHERS || saved.nodes.len() > max_nodes {
            return None;
        }
        let mut service = Service::new(saved.name.into());
        for (text, hits) in saved.names {
            let text: Arc<str> = text.into();
            if service.names.by_text.insert(text.clone(), service.names.list.len() as u32).is_some() {
                return None;
            }
            service.names.list.push(Name { text, hits });
        }
        service.others = saved.others.into_iter().map(Arc::from).collect();
        service.n_nodes = saved.nodes.len().checked_sub(1)?;

        // The nodes from the root to the one read last. Depths are checked, so that no recursion is deep.
        let mut open: Vec<(Box<str>, Node)> = Vec::new();
        let close = |open: &mut Vec<(Box<str>, Node)>, depth: usize| {
            while open.len() > depth {
                let Some(last) = open.pop() else { break };
                match open.last_mut() {
                    Some((_, parent)) => parent.children.push(last),
                    None => return Some(last.1),
                }
            }
            None
        };
        for node in saved.nodes {
            let depth = usize::from(node.depth);
            let sorted = open.get(depth.wrapping_sub(1)).is_none_or(|(_, parent)| {
                let before = open
                    .get(depth)
                    .map(|(label, _)| label)
                    .or(parent.children.last().map(|(label, _)| label));
                before.is_none_or(|before| **before < *node.label)
            });
            let known = node.names.iter().all(|&name| (name as usize) < service.names.list.len());
            let under_root = depth == 0 || (depth <= open.len() && depth <= MAX_SEGMENTS + 1);
            if !sorted || !known || !under_root || (depth == 0) != open.is_empty() {
                return None;
            }
            close(&mut open, depth);
            let SavedNode { depth: _, label, names, folded_hits, folded } = node;
            open.push((label.into(), Node { children: Vec::new(), names, folded_hits, folded }));
        }
        service.root = close(&mut open, 0)?;
        Some(service)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{super::tree::KEEP_HITS, *};

    fn get(path: &str) -> Operation {
        Operation::Path { method: "GET".into(), path: Bytes::copy_from_slice(path.as_bytes()) }
    }

    fn name_of(path: &[u8]) -> String {
        let operation = Operation::Path { method: "GET".into(), path: Bytes::copy_from_slice(path) };
        Templates::new(100).name("shop", &operation).to_string()
    }

    #[rstest::rstest]
    #[case::root("/", "/")]
    #[case::empty("", "/")]
    #[case::no_slash("a/b", "/a/b")]
    #[case::slashes("//a///b", "/a/b")]
    #[case::trailing_slash("/a/", "/a/")]
    #[case::number("/user/123", "/user/{id}")]
    #[case::number_twice("/user/123/order/9", "/user/{id}/order/{id}")]
    #[case::negative("/at/-12.5,7", "/at/{id}")]
    #[case::uuid("/o/5f1c2a6e-9d2b-4a0e-8f11-0b7a3e6d4c55", "/o/{id}")]
    #[case::upper_uuid("/o/5F1C2A6E-9D2B-4A0E-8F11-0B7A3E6D4C55/x", "/o/{id}/x")]
    #[case::sha1("/commit/da39a3ee5e6b4b0d3255bfef95601890afd80709", "/commit/{id}")]
    #[case::short_hash("/commit/4f3a2b1c", "/commit/{id}")]
    #[case::word_of_hex_letters("/menu/facade", "/menu/facade")]
    #[case::long_hex_letters("/x/abcdefabcdefabcdef", "/x/{id}")]
    #[case::date("/report/2024-01-31", "/report/{date}")]
    #[case::month("/report/2024-01.csv", "/report/{date}.csv")]
    #[case::date_time("/report/2024-01-31T10:00:00Z", "/report/{date}")]
    #[case::base64("/t/dGhpcyBpcyBhIHRva2VuIDEyMw==", "/t/{id}")]
    #[case::jwt("/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.x8Yq1", "/t/{id}")]
    #[case::base36("/t/k3j9x0a81mqz", "/t/{id}")]
    #[case::email("/by/ann.lee@example.org", "/by/{email}")]
    #[case::scope("/npm/@types/node", "/npm/@types/node")]
    #[case::numbered_name("/order/order-1042", "/order/{id}")]
    #[case::numbered_image("/img/1042.png", "/img/{id}.png")]
    #[case::bundle("/js/main.4f3a2b1c.js", "/js/{id}.js")]
    #[case::text_file("/robots.txt", "/robots.txt")]
    #[case::library("/js/jquery-3.7.1.min.js", "/js/jquery-3.7.1.min.js")]
    #[case::version("/api/v1/users", "/api/v1/users")]
    #[case::words_with_digits("/oauth2/sha256/x86_64", "/oauth2/sha256/x86_64")]
    #[case::camel_case("/rpc/getUserOrdersByCustomerIdV2", "/rpc/getUserOrdersByCustomerIdV2")]
    #[case::slug("/blog/how-we-moved-to-rust", "/blog/how-we-moved-to-rust")]
    #[case::percent("/q/caf%C3%A9", "/q/{text}")]
    #[case::unicode("/q/café", "/q/{text}")]
    #[case::braces("/q/{id}", "/q/{text}")]
    #[case::escape("/q/\u{1b}[31m", "/q/{text}")]
    #[case::matrix("/cart;jsessionid=4F3A2B1C/pay", "/cart/pay")]
    #[case::query("/a?b=1/2#c", "/a")]
    #[case::very_long(
        "/x/abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz-abcdefghijklmnop",
        "/x/{text}"
    )]
    #[case::many_segments("/a/b/c/d/e/f/g/h/i/j/k/l/", "/a/b/c/d/e/f/g/h/i/j/{*}")]
    fn paths_become_templates(#[case] path: &str, #[case] template: &str) {
        assert_eq!(name_of(path.as_bytes()), format!("GET {template}"));
    }

    #[test]
    fn bytes_that_are_no_utf8_are_text() {
        assert_eq!(name_of(b"/q/\xff\xfe"), "GET /q/{text}");
    }

    #[test]
    fn many_literal_children_become_a_star_and_used_ones_stay() {
        let mut templates = Templates::new(1000);
        for _ in 0..KEEP_HITS {
            assert_eq!(&*templates.name("shop", &get("/tag/known")), "GET /tag/known");
        }
        let slug = |n: usize| {
            format!("/tag/{}{}/list", (b'a' + (n / 26) as u8) as char, (b'a' + (n % 26) as u8) as char)
        };
        for n in 0..MAX_LITERALS - 1 {
            let path = slug(n);
            assert_eq!(&*templates.name("shop", &get(&path)), format!("GET {path}"));
        }
        for n in [100, 0, 101] {
            assert_eq!(&*templates.name("shop", &get(&slug(n))), "GET /tag/{*}/list");
        }
        assert_eq!(&*templates.name("shop", &get("/tag/new.js")), "GET /tag/{*}.js");
        assert_eq!(&*templates.name("shop", &get("/tag/known")), "GET /tag/known");
        assert_eq!(&*templates.name("shop", &get("/tag/7")), "GET /tag/{id}");
        assert_eq!(templates.overflowed(), 0);
    }

    #[test]
    fn a_service_never_has_more_names_than_its_budget() {
        let mut templates = Templates::new(20);
        let mut names = std::collections::BTreeSet::new();
        for n in 0..5000_u32 {
            let word =
                |n: u32| n.to_string().bytes().map(|byte| (byte - b'0' + b'a') as char).collect::<String>();
            let path = format!("/{}/{}/{}", word(n % 7), word(n % 61), word(n));
            names.insert(templates.name("shop", &get(&path)));
        }
        names.remove("GET {other}");
        assert!((15..=20).contains(&names.len()), "{names:?}");
        assert!(templates.overflowed() > 1000);
        // What got a name keeps it, and another service has its own budget.
        assert_eq!(&*templates.name("shop", &get("/a/a/a")), "GET /a/a/a");
        assert_eq!(&*templates.name("blog", &get("/zz/y")), "GET /zz/y");
    }

    #[test]
    fn fixed_names_count_towards_the_budget() {
        let mut templates = Templates::new(2);
        let mut name = |text: &'static str| templates.name("db", &Operation::Fixed(text.into())).to_string();
        assert_eq!(
            [name("PING"), name("GET"), name("SET"), name("PING")],
            ["PING", "GET", "{other}", "PING"]
        );
        assert_eq!(templates.overflowed(), 1);
    }

    #[test]
    fn methods_beyond_the_bound_share_the_last_overflow_name() {
        let mut templates = Templates::new(1);
        let mut names = std::collections::BTreeSet::new();
        for n in 0..100 {
            let operation =
                Operation::Path { method: format!("M{n}").into(), path: Bytes::from_static(b"/x") };
            names.insert(templates.name("shop", &operation));
        }
        assert_eq!(names.len(), 1 + MAX_OTHERS);
    }

    /// A mix of paths that folds, overflows and repeats.
    fn traffic(seed: u64, n: usize) -> impl Iterator<Item = String> {
        let mut state = seed;
        (0..n).map(move |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = (state >> 33) as usize;
            let word = |n: usize| {
                format!("{}{}", (b'a' + (n % 26) as u8) as char, (b'a' + (n / 26 % 9) as u8) as char)
            };
            match random % 5 {
                0 => format!("/user/{}", random % 97),
                1 => format!("/tag/{}", word(random / 5)),
                2 => format!("/{}/{}/x", word(random / 5 % 80), word(random / 500)),
                3 => "/login".to_owned(),
                _ => format!("/f/{}.js?v={random}", word(random / 5)),
            }
        })
    }

    #[test]
    fn the_cache_changes_no_name() {
        let mut cached = Templates::new(150);
        let mut uncached = Templates::new(150);
        let mut names = std::collections::BTreeSet::new();
        for path in traffic(7, 20_000) {
            uncached.cache.iter_mut().for_each(|slot| slot.key.clear());
            let name = cached.name("shop", &get(&path));
            assert_eq!(name, uncached.name("shop", &get(&path)), "{path}");
            names.insert(name);
        }
        assert_eq!(cached.save(), uncached.save());
        assert!(names.contains("GET /tag/{*}") && names.contains("GET {other}"), "{names:?}");
    }

    #[test]
    fn a_loaded_state_continues_as_the_saved_one() {
        let mut templates = Templates::new(200);
        for (n, path) in traffic(11, 6_000).enumerate() {
            if n % 500 == 0 {
                let bytes = templates.save();
                let loaded = Templates::load(&bytes).unwrap();
                assert_eq!(loaded.save(), bytes);
                // One of the two went on with its cache.
                let mut loaded = loaded;
                for path in traffic(n as u64, 500) {
                    assert_eq!(
                        templates.name("shop", &get(&path)),
                        loaded.name("shop", &get(&path)),
                        "{path}"
                    );
                }
                assert_eq!(templates.save(), loaded.save());
            }
            templates.name(if n % 3 == 0 { "blog" } else { "shop" }, &get(&path));
        }
    }

    #[test]
    fn damaged_states_are_refused_or_usable_and_never_panic() {
        let mut templates = Templates::new(50);
        for path in traffic(3, 500) {
            templates.name("shop", &get(&path));
        }
        let bytes = templates.save();
        assert!(Templates::load(&bytes[..bytes.len() - 1]).is_none());
        assert!(Templates::load(b"").is_none());
        for idx in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[idx] ^= flip;
                if let Some(mut loaded) = Templates::load(&bytes) {
                    for path in traffic(3, 20) {
                        loaded.name("shop", &get(&path));
                    }
                }
            }
        }
    }
}
