//! A small hub: the routes that a client of the Hugging Face hub uses, and the ways they fail.
//!
//! Two ports, as there are two hosts: the hub itself, and the storage that large files are
//! redirected to.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

pub(crate) const REPO: &str = "org/name";
pub(crate) const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const OLDER: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    Hub,
    Storage,
}

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) host: Host,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

/// What happens to the next request whose path has a given part.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// This status, with this `X-Error-Code`.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The right number of wrong bytes.
    WrongBytes,
    /// All of the file, whatever part of it was asked for.
    NoRange,
    /// An `ETag` of somebody's choice.
    ETag(&'static str),
}

#[derive(Default)]
struct State {
    /// Commit -> file -> bytes.
    files: HashMap<String, BTreeMap<String, Vec<u8>>>,
    revisions: HashMap<String, String>,
    faults: Vec<(String, Fault, usize)>,
    seen: Vec<Seen>,
}

pub(crate) struct Hub {
    state: Arc<Mutex<State>>,
    pub(crate) endpoint: String,
}

impl Hub {
    /// A hub with one repository, `REPO`, whose `main` is at `COMMIT`.
    pub(crate) fn with(files: &[(&str, &[u8])]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let storage = listen(Host::Storage, &state, String::new());
        let endpoint = listen(Host::Hub, &state, storage);
        let hub = Self { state, endpoint };
        hub.commit(COMMIT, &["main", "refs/pr/1"], files);
        hub
    }

    pub(crate) fn commit(&self, commit: &str, revisions: &[&str], files: &[(&str, &[u8])]) {
        let mut state = self.state.lock().unwrap();
        let files = files.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect();
        state.files.insert(commit.into(), files);
        for revision in revisions.iter().chain([&commit]) {
            state.revisions.insert((*revision).into(), commit.into());
        }
    }

    /// The next `times` requests with `part` in their path meet this fault.
    pub(crate) fn fail(&self, part: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.push((part.into(), fault, times));
    }

    /// The requests so far; they are then forgotten.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

/// Whether the hub keeps a file on the storage host.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors")
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file's blob: a SHA-256 for large files, for others 40 digits like a git hash.
pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    let mut hash = sha256(bytes);
    hash.truncate(if is_large(name) { 64 } else { 40 });
    hash
}

fn listen(host: Host, state: &Arc<Mutex<State>>, storage: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = state.clone();
    // Ends with the test's process; a test has few requests.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, storage) = (state.clone(), storage.clone());
            std::thread::spawn(move || answer(host, stream, &state, &storage));
        }
    });
    address
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn status(status: u16, code: &str) -> Self {
        let headers =
            vec![("X-Error-Code", code.to_owned()), ("X-Error-Message", "said so".into())];
        Self { status, headers, body: Vec::new() }
    }
}

fn answer(host: Host, stream: TcpStream, state: &Mutex<State>, storage: &str) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let line = lines.next()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers: HashMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':').map(|(k, v)| (k.to_lowercase(), v.trim().into())))
        .collect();
    let (range, token) = (headers.get("range").cloned(), headers.get("authorization").cloned());
    let mut state = state.lock().unwrap();
    let seen = Seen { host, method, path, range, token };
    state.seen.push(seen.clone());
    let fault =
        state.faults.iter_mut().find(|(part, _, left)| seen.path.contains(part) && *left > 0);
    let fault = fault.map(|(_, fault, left)| {
        *left -= 1;
        *fault
    });
    let mut reply = match (fault, host) {
        (Some(Fault::Status(status, code)), _) => Reply::status(status, code),
        (_, Host::Hub) => from_hub(&state, &seen, storage),
        (_, Host::Storage) => from_storage(&state, &seen, fault),
    };
    drop(state);
    let mut sent = reply.body.len();
    match fault {
        Some(Fault::Cut(bytes)) => sent = sent.min(bytes),
        Some(Fault::WrongBytes) => reply.body.iter_mut().for_each(|byte| *byte ^= 1),
        Some(Fault::ETag(etag)) => {
            reply.headers.retain(|(name, _)| *name != "X-Linked-Etag");
            reply.headers.push(("X-Linked-Etag", etag.to_owned()));
        }
        _ => {}
    }
    write_reply(stream, &reply, seen.method != "HEAD", sent)
}

fn write_reply(mut stream: TcpStream, reply: &Reply, body: bool, sent: usize) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} .\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
    stream.write_all(head.as_bytes()).ok()?;
    if body {
        stream.write_all(&reply.body[..sent]).ok()?;
    }
    Some(())
}

fn from_hub(state: &State, seen: &Seen, storage: &str) -> Reply {
    let path = seen.path.replace("%2F", "/");
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
        let Some(commit) = state.revisions.get(revision) else {
            return Reply::status(404, "RevisionNotFound");
        };
        let files: Vec<_> = state.files[commit].keys().collect();
        let files: Vec<_> = files.iter().map(|f| serde_json::json!({"rfilename": f})).collect();
        let listing = serde_json::json!({"id": REPO, "sha": commit, "siblings": files});
        return Reply { status: 200, headers: vec![], body: listing.to_string().into_bytes() };
    }
    // The hub answers for small files by way of a redirect to itself.
    let direct = path.strip_prefix(&format!("/{REPO}/resolve/"));
    let Some(rest) = direct.or_else(|| path.strip_prefix("/api/resolve-cache/")) else {
        return Reply::status(404, "RepoNotFound");
    };
    let found = rest.split_once('/').and_then(|(revision, name)| {
        let commit = state.revisions.get(revision)?;
        Some((commit, name, state.files[commit].get(name)?))
    });
    let Some((commit, name, bytes)) = found else {
        return Reply::status(404, "EntryNotFound");
    };
    let hash = etag(name, bytes);
    let commit_header = ("X-Repo-Commit", commit.clone());
    if is_large(name) {
        let location = format!("{storage}/{hash}?X-Amz-Signature=sesame");
        let headers = vec![
            commit_header,
            ("Location", location),
            ("X-Linked-Etag", format!("\"{hash}\"")),
            ("X-Linked-Size", bytes.len().to_string()),
            ("ETag", "\"of-the-redirect\"".to_owned()),
        ];
        return Reply { status: 302, headers, body: b"Found. Redirecting".to_vec() };
    }
    let mut headers = vec![commit_header, ("ETag", format!("W/\"{hash}\""))];
    if direct.is_some() && name == "config.json" {
        headers.push(("Location", format!("/api/resolve-cache/{commit}/{name}")));
        return Reply { status: 307, headers, body: b"moved".to_vec() };
    }
    Reply { status: 200, headers, body: bytes.clone() }
}

fn from_storage(state: &State, seen: &Seen, fault: Option<Fault>) -> Reply {
    let hash = seen.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let mut files = state.files.values().flatten();
    let Some((_, bytes)) = files.find(|(name, bytes)| etag(name, bytes) == hash) else {
        return Reply::status(403, "");
    };
    // The storage host's own ETag is not the hub's name of the file.
    let mut headers = vec![("ETag", "\"d41d8cd98f00b204e9800998ecf8427e\"".to_owned())];
    let from = seen.range.as_ref().and_then(|range| {
        range.strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok()
    });
    match from.filter(|_| !matches!(fault, Some(Fault::NoRange))) {
        None => Reply { status: 200, headers, body: bytes.clone() },
        Some(from) if from >= bytes.len() => Reply::status(416, ""),
        Some(from) => {
            let total = bytes.len();
            headers.push(("Content-Range", format!("bytes {from}-{}/{total}", total - 1)));
            Reply { status: 206, headers, body: bytes[from..].to_vec() }
        }
    }
}
