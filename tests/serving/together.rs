//! Keys beside everything else: whose scores are kept for whom, over which connections, and in which books.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::accounts::books;
use crate::connections::gzip;
use crate::support::*;
use crate::tenants::Keys;

fn body() -> Value {
    json!({"query": "a b", "documents": ["a b c", "d e"]})
}

fn post(server: &Server, key: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", "application/json"), ("authorization", &bearer)];
    server.post_with("/v2/rerank", body.to_string().as_bytes(), &headers)
}

fn usage(server: &Server, key: &str) -> Value {
    server.get_with("/v1/usage", &[("x-api-key", key)]).json()
}

/// A request's head, for a body of `length` bytes.
fn head(headers: &str, length: usize) -> String {
    format!(
        "POST /v2/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n{headers}\r\n"
    )
}

#[test]
fn a_tenant_finds_its_own_scores_and_nobody_elses() {
    let keys = Keys::new();
    let (search, acme) = (keys.tenant("search", ""), keys.tenant("acme", ""));
    let server = keys.serve(&[]);
    let ask = |key: &str| post(&server, key, &body()).json();
    let count = |name: &str| server.metric(&format!("rerank_{name}_sequences_total"));
    let found = || ["cached", "missed"].map(count);
    let first = ask(&search);
    assert_eq!(found(), [0.0, 2.0]);
    assert_eq!(ask(&search)["results"], first["results"]);
    assert_eq!(found(), [2.0, 2.0]);
    assert_eq!(ask(&acme)["results"], first["results"], "the same pairs, scored again");
    assert_eq!(found(), [2.0, 4.0]);
    let tokens = first["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(usage(&server, &search)["tokens"], 2 * tokens, "what is known is used, too");
    assert_eq!(usage(&server, &acme)["tokens"], tokens);
}

#[test]
fn a_unix_socket_and_packed_bodies_want_keys_too() {
    let keys = Keys::new();
    let key = keys.tenant("search", "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rerankd.sock");
    let mut command = rerankd();
    command.args(["serve", "--model"]).arg(tiny_bert()).arg("--unix-socket").arg(&path);
    let _server = Server::spawn({
        command.arg("--keys-file").arg(keys.path());
        command
    });
    let status = |headers: &str, body: &[u8]| {
        let mut stream = UnixStream::connect(&path).expect("the socket is there");
        stream.write_all(head(headers, body.len()).as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a whole reply");
        reply["HTTP/1.1 ".len()..][..3].to_owned()
    };
    let plain = body().to_string();
    let with_key = format!("authorization: Bearer {key}\r\n");
    eventually("the server is ready", || status(&with_key, plain.as_bytes()) == "200");
    let packed = gzip(plain.as_bytes());
    assert_eq!(status(&format!("{with_key}content-encoding: gzip\r\n"), &packed), "200");
    assert_eq!(status("", plain.as_bytes()), "401");
    assert_eq!(status("content-encoding: gzip\r\n", b"no gzip"), "401", "nobody looks at it");
}

#[test]
fn refusals_of_keys_models_rates_and_room_are_in_the_books() {
    let keys = Keys::new();
    let good = keys.tenant("good", "");
    let slow = keys.tenant("slow", "requests_per_second = 0.1");
    let barred = keys.tenant("barred", "models = [\"another\"]");
    let server = keys.serve(&["--max-body-bytes", "100000", "--max-total-body-bytes", "100000"]);
    let status = |key: &str| post(&server, key, &body()).status;
    assert_eq!([&good, &slow].map(|key| status(key)), [200; 2]);
    assert_eq!([&slow, &barred, "nope"].map(status), [429, 403, 401]);

    // Bytes on their way take the room of others, and so does what others' bytes unpack to.
    let mut filler = TcpStream::connect(server.address()).unwrap();
    let with_key = format!("authorization: Bearer {good}\r\n");
    filler.write_all(head(&with_key, 99_000).as_bytes()).unwrap();
    filler.write_all(&[b' '; 90_000]).unwrap();
    let packed =
        gzip(json!({"query": "q", "documents": ["x ".repeat(20_000)]}).to_string().as_bytes());
    assert!(packed.len() < 1000);
    let bearer = format!("Bearer {good}");
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
        ("authorization", bearer.as_str()),
    ];
    let send = || server.post_with("/v2/rerank", &packed, &headers).status;
    let held = || server.metric("rerank_body_bytes");
    eventually("its bytes are held", || held() == 90_000.0);
    assert_eq!([send(), send()], [429; 2]);
    drop(filler);
    eventually("its room is given back", || held() == 0.0);
    assert_eq!(send(), 200);

    eventually("the books are closed", || books(&server) == (9.0, [3.0, 5.0, 1.0, 0.0]));
    let used = usage(&server, &good);
    assert_eq!((&used["requests"], &used["refusals"]), (&json!(2), &json!(2)));
    assert_eq!(usage(&server, &barred)["refusals"], 1);
}
