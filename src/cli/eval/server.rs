//! A rerank server, ours or another, asked in the words that most of them understand: Cohere's.

use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Serialize};
use ureq::Agent;

use super::Failure;
use super::scorer::Scorer;

/// Cohere's own limit; other servers took it over.
const MAX_DOCUMENTS: usize = 1000;
/// Servers that repeat the documents answer with what they were asked, and a little more.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A thousand long documents on a small machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// A server that is busy or that counts requests a minute says when to come back. With pauses that
/// double, the last one is half a minute.
const MAX_TRIES: u32 = 6;
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Of a server's explanation; the whole may be a page of HTML.
const SHOWN_CHARS: usize = 200;

pub(super) struct Server {
    agent: Agent,
    url: String,
    model: Option<String>,
    api_key: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    query: &'a str,
    documents: &'a [String],
    /// Some servers answer with a few of the best unless they are asked for all.
    top_n: usize,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Ranked>,
}

#[derive(Deserialize)]
struct Ranked {
    index: usize,
    relevance_score: f64,
}

impl Server {
    /// `url` is a server, or a server's rerank path.
    pub(super) fn new(
        url: &str,
        model: Option<String>,
        api_key: Option<String>,
    ) -> Result<Self, Failure> {
        let config = Agent::config_builder()
            // A redirected POST would lose its body.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .user_agent(concat!("rerankd/", env!("CARGO_PKG_VERSION")));
        Ok(Self { agent: config.build().new_agent(), url: endpoint(url)?, model, api_key })
    }

    /// What to call it in a report.
    pub(super) fn name(&self) -> String {
        let model = self.model.as_ref().map(|model| format!("{model} at "));
        model.unwrap_or_default() + &self.url
    }

    fn ask(&self, query: &str, documents: &[String]) -> Result<Vec<f64>, Failure> {
        let model = self.model.as_deref();
        let body = Body { model, query, documents, top_n: documents.len() };
        let body = serde_json::to_vec(&body).map_err(|e| self.failed(e))?;
        let answer = self.post(&body)?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|e| self.failed(format!("the answer is not Cohere's: {e}")))?;
        let mut scores = vec![None; documents.len()];
        for Ranked { index, relevance_score } in answer.results {
            match scores.get_mut(index) {
                Some(score @ None) => *score = Some(relevance_score),
                _ => return Err(self.failed(format!("the answer has a wrong index {index}"))),
            }
        }
        let scores: Option<Vec<f64>> = scores.into_iter().collect();
        scores.ok_or_else(|| self.failed("the answer does not score every document"))
    }

    /// Sends a body until the server is not too busy for it.
    fn post(&self, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut tries = 0;
        loop {
            let mut request = self.agent.post(&self.url).content_type("application/json");
            if let Some(key) = &self.api_key {
                request = request.header("authorization", format!("Bearer {key}"));
            }
            let (head, answer) = request.send(body).map_err(|e| self.failed(e))?.into_parts();
            let answer = answer.into_with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
            let answer = answer.map_err(|e| self.failed(e))?;
            let status = head.status.as_u16();
            tries += 1;
            if head.status.is_success() {
                return Ok(answer);
            }
            if !matches!(status, 429 | 503) || tries == MAX_TRIES {
                let text = String::from_utf8_lossy(&answer);
                let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
                let shown: String = words.chars().take(SHOWN_CHARS).collect();
                return Err(self.failed(format!("status {status}: {shown}")));
            }
            let asked = head.headers.get("retry-after").and_then(|value| value.to_str().ok());
            let asked = asked.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
            let pause = asked.unwrap_or(Duration::from_secs(1 << (tries - 1)));
            std::thread::sleep(pause.min(MAX_PAUSE));
        }
    }

    fn failed(&self, what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure::io(&self.url, std::io::Error::other(what))
    }
}

impl Scorer for Server {
    /// Documents beyond the limit of one request go in further ones: a cross-encoder scores each alone.
    fn score(&self, query: &str, documents: Vec<String>) -> Result<Vec<f64>, Failure> {
        let mut scores = Vec::with_capacity(documents.len());
        for part in documents.chunks(MAX_DOCUMENTS) {
            scores.append(&mut self.ask(query, part)?);
        }
        Ok(scores)
    }
}

/// Where to send requests: what the user wrote if that names a rerank path, otherwise below it.
fn endpoint(url: &str) -> Result<String, Failure> {
    let written = url.trim_end_matches('/');
    let wrong = || Failure::Usage(format!("--server {url}: needs http://HOST or https://HOST"));
    let parsed: Uri = written.parse().map_err(|_| wrong())?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.query().is_some() {
        return Err(wrong());
    }
    Ok(match parsed.path() {
        path if path.ends_with("rerank") => written.to_owned(),
        path if path.ends_with("/v1") || path.ends_with("/v2") => format!("{written}/rerank"),
        _ => format!("{written}/v1/rerank"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_on_coheres_path_unless_its_own_is_given() {
        for (url, asked) in [
            ("http://localhost:8080", "http://localhost:8080/v1/rerank"),
            ("http://localhost:8080/", "http://localhost:8080/v1/rerank"),
            ("https://api.jina.ai/v1", "https://api.jina.ai/v1/rerank"),
            ("https://host/prefix", "https://host/prefix/v1/rerank"),
            ("https://api.cohere.com/v2/rerank", "https://api.cohere.com/v2/rerank"),
        ] {
            assert_eq!(endpoint(url).unwrap(), asked);
        }
        for url in ["localhost:8080", "", "ftp://host", "http://", "http://host/?a=b"] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }
}
