//! What the server adds to the work itself: one model in this process, and the same behind HTTP, in turns.
//!
//! `cargo bench --bench http [-- f32|bf16|int8 [MODEL_FOLDER]]`; the default model otherwise. All cores on both sides.
//! Thirty-two clients, who share these cores with the server, for the rate; one alone for the latency.

#[path = "peers/score.rs"]
mod score;

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rerankd::engine::Dtype;
use rerankd::model::loader::LoadOptions;
use rerankd::model::source::ModelFiles;
use rerankd::rerank::{Prepared, prepare};
use score::Request;

const CLIENTS: usize = 32;
const DOCUMENTS: usize = 20;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);
const LONE_REQUESTS: usize = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let dtype = arguments.next().unwrap_or("f32".into());
    let dtype = Dtype::named(&dtype).ok_or("the precisions are f32, bf16 and int8")?;
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/default");
    let folder = arguments.next().map_or_else(default, PathBuf::from);
    let threads = std::thread::available_parallelism()?;
    let files = ModelFiles::open_folder(&folder)?;
    let options =
        LoadOptions { dtype: Some(dtype), threads: Some(threads), ..LoadOptions::default() };
    let mut model = prepare(&files, &options)?;
    let requests: Vec<Request> = (0..2 * CLIENTS).map(request).collect();
    let server = Server::start(&folder, dtype)?;
    let [own, served] = rates(&mut model, threads, &server, &requests)?;
    println!(
        "{}, {CLIENTS} clients: in process {own:.1} pairs/s, over HTTP {served:.1}: {:.3}",
        dtype.name(),
        served / own
    );
    let [own, served] = latencies(&mut model, threads, &server, &requests)?;
    println!(
        "{}, one client: in process {:.2} ms, over HTTP {:.2} ms: {:.3}",
        dtype.name(),
        own * 1e3,
        served * 1e3,
        served / own
    );
    Ok(())
}

/// Pairs a second, the medians of the rounds.
fn rates(
    model: &mut Prepared,
    threads: NonZeroUsize,
    server: &Server,
    requests: &[Request],
) -> Result<[f64; 2], Box<dyn Error>> {
    let mut rates = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        let (start, mut num) = (now(), 0);
        while start.elapsed() < ROUND {
            requests[num % requests.len()].score(model, threads)?;
            num += 1;
        }
        rates[0].push((num * DOCUMENTS) as f64 / start.elapsed().as_secs_f64());

        let (start, num) = (now(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (num, server) = (&num, &server);
                scope.spawn(move || {
                    let agent = agent();
                    while start.elapsed() < ROUND {
                        server.score(
                            &agent,
                            &requests[(client * 7 + num.load(Ordering::Relaxed)) % requests.len()],
                        );
                        num.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        // The last ones were under way when the round ended, and count with the time that they took.
        rates[1].push((num.into_inner() * DOCUMENTS) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(rates.map(median))
}

/// Seconds of a request alone on the machine, the medians.
fn latencies(
    model: &mut Prepared,
    threads: NonZeroUsize,
    server: &Server,
    requests: &[Request],
) -> Result<[f64; 2], Box<dyn Error>> {
    let agent = agent();
    let mut times = [const { Vec::new() }; 2];
    for request in requests.iter().cycle().take(LONE_REQUESTS) {
        let start = now();
        request.score(model, threads)?;
        times[0].push(start.elapsed().as_secs_f64());
        let start = now();
        server.score(&agent, request);
        times[1].push(start.elapsed().as_secs_f64());
    }
    Ok(times.map(median))
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Twenty documents of 40 to 160 words, and about as many tokens.
fn request(i: usize) -> Request {
    const WORDS: [&str; 9] =
        ["river", "market", "winter", "engine", "letter", "garden", "silver", "planet", "signal"];
    let text = |seed: usize, num: usize| {
        let words = (0..num).map(|i| WORDS[(i * 7 + seed * 5 + i * seed) % WORDS.len()]);
        // No two alike.
        format!("{seed} {}", words.collect::<Vec<_>>().join(" "))
    };
    let document = |j: usize| text(100 * i + j, 40 + (i * 13 + j * 37) % 120);
    Request { query: text(i, 8), documents: (0..DOCUMENTS).map(document).collect() }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(120))).build().into()
}

/// The program itself, ended when dropped.
struct Server {
    program: Child,
    url: String,
}

impl Server {
    fn start(folder: &Path, dtype: Dtype) -> Result<Self, Box<dyn Error>> {
        // Free a moment ago: nothing else on a machine that measures takes it meanwhile.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = Command::new(env!("CARGO_BIN_EXE_rerankd"))
            .args([
                "serve",
                "--port",
                &port.to_string(),
                "--device",
                "cpu",
                "--dtype",
                dtype.name(),
            ])
            .arg("--model")
            .arg(folder)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let server = Self { program, url: format!("http://127.0.0.1:{port}") };
        let agent = agent();
        for _ in 0..600 {
            if agent.get(format!("{}/health", server.url)).call().is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("the server was not ready within a minute".into())
    }

    fn score(&self, agent: &ureq::Agent, request: &Request) {
        let reply = agent
            .post(format!("{}/v1/rerank", self.url))
            .header("content-type", "application/json")
            // Nothing from the caches.
            .header("cache-control", "no-store")
            .send(serde_json::to_vec(request).expect("JSON"))
            .expect("an answer");
        let reply = reply.into_body().read_to_vec().expect("a body");
        let reply: serde_json::Value = serde_json::from_slice(&reply).expect("JSON");
        assert_eq!(reply["results"].as_array().map(Vec::len), Some(DOCUMENTS));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
