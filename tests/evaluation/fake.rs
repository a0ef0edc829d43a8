//! A rerank server that scores by arithmetic, so that the right order is known without a model.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Given a request's body, the status, further header lines, and the body of the answer.
type Rule = dyn Fn(&Value) -> (u16, &'static str, Value) + Send + Sync;

pub struct Fake {
    pub url: String,
    /// Head and body of each request, in the order in which they were answered.
    pub requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Fake {
    /// Answers until the test's process ends.
    pub fn start(
        rule: impl Fn(&Value) -> (u16, &'static str, Value) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::default();
        let (rule, seen): (Arc<Rule>, _) = (Arc::new(rule), Arc::clone(&requests));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (rule, seen) = (Arc::clone(&rule), Arc::clone(&seen));
                // A client that goes away ends its thread.
                std::thread::spawn(move || serve(&connection.unwrap(), &*rule, &seen));
            }
        });
        Self { url, requests }
    }

    /// Answers as `make.py` scores.
    pub fn honest() -> Self {
        Self::start(|body| (200, "", ranked(body)))
    }
}

fn serve(
    connection: &TcpStream,
    rule: &Rule,
    seen: &Mutex<Vec<(String, Value)>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        head.make_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).expect("a length");
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).unwrap();
        let (status, headers, answer) = rule(&body);
        seen.lock().unwrap().push((head, body));
        let (answer, mut out) = (answer.to_string(), connection);
        let length = answer.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
        out.write_all((head + &answer).as_bytes())?;
    }
}

/// Best first and by index, as Cohere answers.
pub fn ranked(body: &Value) -> Value {
    let number = |text: &Value| -> u64 {
        let words = text.as_str().expect("a text").split_once(' ').expect("two words");
        words.1.parse().expect("a number")
    };
    let weight = number(&body["query"]);
    let documents = body["documents"].as_array().expect("documents");
    let scores = documents.iter().map(|document| number(document) * weight % 1009);
    let mut results: Vec<_> = scores.enumerate().collect();
    results.sort_by_key(|&(_, score)| std::cmp::Reverse(score));
    let result = |(index, score)| json!({"index": index, "relevance_score": score});
    json!({"id": "x", "results": results.into_iter().map(result).collect::<Vec<_>>()})
}
