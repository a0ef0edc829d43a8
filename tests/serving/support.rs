//! Starts the built `rerankd` and talks to it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

pub use crate::program::rerankd;

/// A random-weight model of a few kilobytes: these tests are about everything around the model.
pub fn tiny_bert() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert")
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    url: String,
    agent: ureq::Agent,
    /// The log so far.
    lines: Arc<Mutex<Vec<String>>>,
}

pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }
}

impl Server {
    /// A server of the tiny model, with further arguments, that is ready.
    pub fn start(args: &[&str]) -> Self {
        Self::start_loading(args).when_ready()
    }

    pub fn when_ready(self) -> Self {
        // Emulated devices on a busy machine take their time.
        for _ in 0..20_000 {
            if self.get("/health").status == 200 {
                return self;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server did not become ready");
    }

    /// A server that listens and may still be loading.
    pub fn start_loading(args: &[&str]) -> Self {
        let mut command = rerankd();
        command.args(["serve", "--port", "0", "--model"]).arg(tiny_bert()).args(args);
        Self::spawn(command)
    }

    /// A server by a command of one's own.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut lines = Vec::new();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it listened");
            let entry: Value = serde_json::from_str(&line).expect("logs are JSON lines");
            lines.push(line);
            if entry["message"] == "listening" {
                break entry["address"].as_str().expect("an address").to_owned();
            }
        };
        // Whoever does not read a pipe stops its writer.
        let lines = Arc::new(Mutex::new(lines));
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                let read = log.lines().map_while(Result::ok);
                read.for_each(|line| lines.lock().unwrap().push(line));
            }
        });
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        Self { child, url: format!("http://{address}"), agent: config.into(), lines }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.get(self.url.clone() + path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.call().expect("an answer"))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        self.post_with(path, body, &[("content-type", "application/json")])
    }

    pub fn post_with(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.post(self.url.clone() + path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send(body).expect("an answer"))
    }

    /// The address for clients of their own; a Unix socket's says so.
    pub fn address(&self) -> &str {
        &self.url["http://".len()..]
    }

    /// Waits until a line of the log holds this text: an answer may come before its line is read here.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        eventually(&format!("the log says {text}"), || self.logged(text));
    }

    /// Whether a line of the log that was read so far holds this text.
    pub fn logged(&self, text: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// One value of the metrics page.
    pub fn metric(&self, line_start: &str) -> f64 {
        let page = self.get("/metrics").text;
        let line = page.lines().find(|line| line.starts_with(line_start));
        let line = line.unwrap_or_else(|| panic!("no metric {line_start} in {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its process id is still its own.
        let sent = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "the process is gone");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the child is ours")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it never came to pass that {what}");
}

fn answer(response: ureq::http::Response<ureq::Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let mut text = String::new();
    body.into_reader().read_to_string(&mut text).expect("a body of text");
    Answer { status: parts.status.as_u16(), headers: parts.headers, text }
}
