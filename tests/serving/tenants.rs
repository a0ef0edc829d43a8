//! Keys: who gets in, to what, and what others may learn of it.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::*;

/// A keys file and the command that edits it.
pub struct Keys {
    folder: TempDir,
}

impl Keys {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("keys.toml")
    }

    fn run(&self, args: &[&str]) -> Output {
        let path = self.path();
        rerankd().arg("keys").args(args).arg("--keys-file").arg(path).output().unwrap()
    }

    /// What the command prints; it must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Adds a tenant by hand, as its owner would, and gives it a key.
    pub fn tenant(&self, name: &str, attributes: &str) -> String {
        let mut text = std::fs::read_to_string(self.path()).unwrap_or_default();
        text += &format!("\n# {name}\n[[tenants]]\nname = \"{name}\"\n{attributes}\n");
        std::fs::write(self.path(), text).unwrap();
        self.ok(&["new", name])
    }

    fn id(&self, tenant: &str) -> String {
        let list = self.ok(&["list"]);
        let line = list.lines().find(|line| line.ends_with(&format!("  {tenant}"))).unwrap();
        line.split(' ').next().unwrap().to_owned()
    }

    pub fn serve(&self, args: &[&str]) -> Server {
        let path = self.path();
        Server::start(&[&["--keys-file", path.to_str().unwrap()], args].concat())
    }
}

fn body() -> Value {
    json!({"query": "a b", "documents": ["a b c", "d e"]})
}

fn post(server: &Server, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let json = [("content-type", "application/json")];
    server.post_with(path, body.to_string().as_bytes(), &[&json, headers].concat())
}

fn status(server: &Server, key: &str) -> u16 {
    post(server, "/v2/rerank", &body(), &[("authorization", &format!("Bearer {key}"))]).status
}

/// Every route that scores or tells something, with a body that would be answered 200.
fn routes() -> Vec<(&'static str, Option<Value>)> {
    let texts = json!({"query": "a", "texts": ["a", "b"]});
    vec![
        ("/rerank", Some(body())),
        ("/v1/rerank", Some(body())),
        ("/v2/rerank", Some(body())),
        ("/v1/v2/rerank", Some(body())),
        ("//rerank/", Some(body())),
        ("/cohere/v2/rerank", Some(body())),
        ("/rerank", Some(texts)),
        ("/rerank", Some(json!({"query": "a", "documents": ["b"], "property": ""}))),
        ("/v1/rerank", Some(json!({"query": "a", "documents": ["b"], "top_k": 1}))),
        ("/score", Some(json!({"text_1": "a", "text_2": ["b"]}))),
        ("/v1/score", Some(json!({"text_1": "a", "text_2": ["b"]}))),
        ("/predict", Some(json!({"inputs": "a b"}))),
        ("/v1/ranking", Some(json!({"query": {"text": "a"}, "passages": [{"text": "b"}]}))),
        ("/v1/reranking", Some(json!({"query": "a", "input": ["b"]}))),
        ("/v1/models/rerank", Some(body())),
        ("/invocations", Some(body())),
        ("/", Some(body())),
        ("/v1/usage", None),
        ("/v1/models", None),
        ("/models", None),
        ("/v1/models/tiny-bert", None),
        ("/info", None),
    ]
}

fn call(server: &Server, route: &(&str, Option<Value>), headers: &[(&str, &str)]) -> Answer {
    match &route.1 {
        Some(body) => post(server, route.0, body, headers),
        None => server.get_with(route.0, headers),
    }
}

#[test]
fn no_route_gives_anything_to_wrong_missing_or_revoked_keys() {
    let keys = Keys::new();
    let good = keys.tenant("search", "");
    let revoked = keys.tenant("acme", "");
    keys.ok(&["revoke", &keys.id("acme")]);
    let server = keys.serve(&["--served-model-name", "tiny-bert"]);
    let cut = &good[..good.len() - 1];
    let wrong = format!("{cut}x");
    for route in routes() {
        let bearer = |key: &str| format!("Bearer {key}");
        let answer = call(&server, &route, &[("authorization", &bearer(&good))]);
        assert_eq!(answer.status, 200, "{route:?}: {}", answer.text);
        let strangers = [
            vec![],
            vec![("authorization", "Bearer ".to_owned())],
            vec![("authorization", "Basic c2VhcmNoOng=".to_owned())],
            vec![("authorization", bearer("search"))],
            vec![("authorization", bearer(cut))],
            vec![("authorization", bearer(&wrong))],
            vec![("authorization", bearer(&revoked))],
            vec![("x-api-key", wrong.clone())],
            vec![("api-key", revoked.clone())],
            vec![("x-goog-api-key", good.clone())],
        ];
        for headers in strangers {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let answer = call(&server, &route, &headers);
            assert_eq!(answer.status, 401, "{route:?} {headers:?}: {}", answer.text);
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            for secret in ["search", "acme", "tiny-bert", "score", "rrk_", cut] {
                assert!(!answer.text.contains(secret), "{route:?} tells {secret}: {}", answer.text);
            }
        }
    }
    let scored = routes().iter().filter(|route| route.1.is_some()).count();
    let answered = server.metric("rerank_requests_total{route=\"score\",status=\"200\"}");
    assert_eq!(answered as usize, scored, "strangers cost no scores");
    assert!(
        !server.get("/metrics").text.contains("search"),
        "a scrape without a key sees no tenants"
    );
}

#[test]
fn every_header_that_clients_use_carries_a_key() {
    let keys = Keys::new();
    let key = keys.tenant("search", "");
    let server = keys.serve(&[]);
    for (name, value) in [
        ("authorization", format!("Bearer {key}")),
        ("authorization", format!("bearer  {key}")),
        ("authorization", key.clone()),
        ("x-api-key", key.clone()),
        ("api-key", key.clone()),
    ] {
        let answer = post(&server, "/v2/rerank", &body(), &[(name, &value)]);
        assert_eq!(answer.status, 200, "{name}: {}", answer.text);
    }
    // A gateway's own credentials beside ours.
    let headers = [("authorization", "Basic Zzp3"), ("x-api-key", &key)];
    assert_eq!(post(&server, "/v2/rerank", &body(), &headers).status, 200);
}

#[test]
fn refusals_speak_the_dialect_of_the_path() {
    let keys = Keys::new();
    keys.tenant("search", "");
    let server = keys.serve(&[]);
    let wrong = [("authorization", "Bearer nope")];
    let unified = post(&server, "/v2/rerank", &body(), &wrong).json();
    assert_eq!(unified["message"], "invalid api token");
    assert_eq!(unified["error"]["type"], "AuthenticationError");
    let missing = post(&server, "/v2/rerank", &body(), &[]).json();
    assert_eq!(missing["message"], "no api key supplied");
    let tei = post(&server, "/predict", &json!({"inputs": "a"}), &wrong).json();
    assert_eq!(tei, json!({"error": "invalid api token", "error_type": "Unauthorized"}));
    let nim = post(&server, "/v1/ranking", &json!({}), &wrong).json();
    assert_eq!(nim["detail"], "invalid api token");
    let pinecone = [("api-key", "nope"), ("x-pinecone-api-version", "2026-07")];
    let pinecone = post(&server, "/rerank", &body(), &pinecone).json();
    assert_eq!(pinecone["error"]["code"], "UNAUTHENTICATED");
}

#[test]
fn a_stranger_with_a_large_body_reads_why_it_is_refused() {
    let keys = Keys::new();
    keys.tenant("search", "");
    let server = keys.serve(&[]);
    let large = json!({"query": "q", "documents": ["x".repeat(4 << 20)]});
    let answer = post(&server, "/v2/rerank", &large, &[("authorization", "Bearer nope")]);
    assert_eq!(answer.status, 401);
}

#[test]
fn probes_need_no_key() {
    let keys = Keys::new();
    keys.tenant("search", "");
    let server = keys.serve(&[]);
    for path in ["/live", "/ready", "/health", "/ping", "/metrics", "/version", "/v2/health/ready"]
    {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let check = |headers: &[(&str, &str)]| post(&server, "/v1/check-api-key", &json!({}), headers);
    assert_eq!(check(&[]).json()["valid"], false);
}

#[test]
fn without_keys_everybody_is_served_whatever_key_they_send() {
    let server = Server::start(&[]);
    for headers in [vec![], vec![("authorization", "Bearer any")], vec![("api-key", "any")]] {
        assert_eq!(post(&server, "/v2/rerank", &body(), &headers).status, 200);
    }
    let usage = server.get("/v1/usage").json();
    assert_eq!((&usage["tenant"], &usage["requests"]), (&json!("anonymous"), &json!(3)));
}

#[test]
fn a_plain_list_of_keys_is_enough() {
    let mut command = rerankd();
    command.env("RERANKD_API_KEYS", "first-secret,second-secret");
    command.args(["serve", "--port", "0", "--model"]).arg(tiny_bert());
    let server = Server::spawn(command).when_ready();
    assert_eq!((status(&server, "first-secret"), status(&server, "second-secret")), (200, 200));
    assert_eq!((status(&server, "third-secret"), status(&server, "first-secret,")), (401, 401));
    assert!(!server.logged("first-secret") && !server.logged("second-secret"));
    let help = rerankd().env("RERANKD_API_KEYS", "first-secret").args(["serve", "--help"]).output();
    assert!(!String::from_utf8(help.unwrap().stdout).unwrap().contains("first-secret"));
}

#[test]
fn keys_come_and_go_while_the_server_runs_and_a_broken_file_changes_nothing() {
    let keys = Keys::new();
    let first = keys.tenant("search", "");
    let server = keys.serve(&[]);
    let second = keys.ok(&["new", "search"]);
    eventually("a new key works", || status(&server, &second) == 200);
    keys.ok(&["revoke", &keys.id("search")]);
    eventually("a revoked key does not", || status(&server, &first) == 401);
    assert_eq!(status(&server, &second), 200);

    let text = std::fs::read_to_string(keys.path()).unwrap();
    std::fs::write(keys.path(), format!("{text}\n[[tenants]]\nname = \"b\"\nweight = 0\n"))
        .unwrap();
    let wrong_line = text.lines().count() + 4;
    let complaint = format!("line {wrong_line}: weight 0");
    server.logs(&complaint);
    assert_eq!((status(&server, &second), status(&server, &first)), (200, 401));
    std::fs::remove_file(keys.path()).unwrap();
    server.logs("No such file");
    assert_eq!(status(&server, &second), 200);
    // Nobody is let in by an empty file.
    std::fs::write(keys.path(), "").unwrap();
    eventually("all are gone", || status(&server, &second) == 401);
    assert_eq!(post(&server, "/v2/rerank", &body(), &[]).status, 401);
}

#[test]
fn usage_is_the_tenants_own_and_an_admins_is_everybodys() {
    let keys = Keys::new();
    let (search, acme) = (keys.tenant("search", ""), keys.tenant("acme", ""));
    let ops = keys.ok(&["new", "ops", "--admin"]);
    let server = keys.serve(&[]);
    let many = json!({"query": "a", "documents": vec!["b"; 101]});
    let bearer = |key: &str| format!("Bearer {key}");
    let as_search = [("authorization", bearer(&search))];
    let as_search: Vec<_> = as_search.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let answer = post(&server, "/v2/rerank", &many, &as_search).json();
    assert_eq!(post(&server, "/v2/rerank", &json!({"query": "a"}), &as_search).status, 400);
    let usage = |key: &str| server.get_with("/v1/usage", &[("authorization", &bearer(key))]).json();
    let own = usage(&search);
    assert_eq!(own["tokens"], answer["usage"]["total_tokens"]);
    assert_eq!(own["search_units"], answer["meta"]["billed_units"]["search_units"]);
    assert_eq!((&own["requests"], &own["refusals"]), (&json!(1), &json!(1)));
    assert_eq!(own["documents"], 101);
    assert!(!own.to_string().contains("acme") && !own.to_string().contains("ops"));
    let other = usage(&acme);
    assert_eq!((&other["tenant"], &other["tokens"]), (&json!("acme"), &json!(0)));
    let all = usage(&ops)["data"].clone();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|line| line["tenant"].clone()).collect();
    assert_eq!(names, ["search", "acme", "ops"]);
    assert_eq!(all[0]["tokens"], own["tokens"]);

    let page = server.get_with("/metrics", &[("authorization", &bearer(&ops))]).text;
    let line = format!("rerank_tenant_scored_tokens_total{{tenant=\"search\"}} {}", own["tokens"]);
    assert!(page.contains(&line), "{page}");
    let page = server.get_with("/metrics", &[("authorization", &bearer(&search))]).text;
    assert!(!page.contains("rerank_tenant_"), "a tenant sees no tenants");
}

#[test]
fn limits_are_kept_and_say_when_to_come_back() {
    let keys = Keys::new();
    let slow = keys.tenant("slow", "requests_per_second = 0.1");
    let small = keys.tenant("small", "tokens_per_second = 10");
    let free = keys.tenant("free", "");
    let server = keys.serve(&[]);
    let ask = |key: &str| {
        post(&server, "/v2/rerank", &body(), &[("authorization", &format!("Bearer {key}"))])
    };
    assert_eq!(ask(&slow).status, 200);
    let refused = ask(&slow);
    assert_eq!(refused.status, 429);
    assert!((9..=10).contains(&refused.header("retry-after").parse::<u32>().unwrap()));
    assert!(refused.json()["message"].as_str().unwrap().contains("requests per second"));
    // Its bucket holds ten tokens, the request has more, so it waits for a full one and then owes the rest.
    assert_eq!(ask(&small).status, 200);
    assert!(ask(&small).json()["message"].as_str().unwrap().contains("tokens per second"));
    assert_eq!(ask(&free).status, 200, "another's limit is nobody else's");
    assert_eq!(server.metric("rerank_refusals_total{reason=\"rate_limited\"}"), 2.0);
}

#[test]
fn a_tenant_uses_only_the_models_it_may() {
    let keys = Keys::new();
    let allowed = keys.tenant("allowed", "models = [\"nickname\"]");
    let other = keys.tenant("other", "models = [\"another-model\"]");
    let server = keys.serve(&["--served-model-name", "tiny", "--alias", "nickname"]);
    let with = |key: &str| format!("Bearer {key}");
    let post_as = |key: &str| post(&server, "/rerank", &body(), &[("authorization", &with(key))]);
    assert_eq!(post_as(&allowed).status, 200);
    let refused = post_as(&other);
    assert_eq!(refused.status, 403);
    assert_eq!(refused.json()["error"]["type"], "PermissionDeniedError");
    for path in ["/v1/models", "/info", "/v1/models/tiny"] {
        let answer = server.get_with(path, &[("authorization", &with(&other))]);
        assert!(!answer.text.contains("nickname"), "{path}: {}", answer.text);
    }
    let unknown = server.get_with("/v1/models/tiny", &[("authorization", &with(&other))]);
    assert_eq!(unknown.status, 404);
    let list = server.get_with("/v1/models", &[("authorization", &with(&other))]).json();
    assert_eq!(list["data"], json!([]));
    assert_eq!(server.get_with("/info", &[("authorization", &with(&other))]).status, 403);
}

#[test]
fn concurrent_requests_are_limited_and_places_are_given_back() {
    let keys = Keys::new();
    let key = keys.tenant("one", "max_concurrent_requests = 1");
    let server = keys.serve(&["--threads", "1"]);
    let bearer = format!("Bearer {key}");
    let large = json!({"query": "a b", "documents": vec!["a b c d ".repeat(60); 2000]});
    std::thread::scope(|scope| {
        let first = scope
            .spawn(|| post(&server, "/v2/rerank", &large, &[("authorization", &bearer)]).status);
        eventually("it is inside", || server.metric("rerank_backlog_tokens") > 0.0);
        let second = post(&server, "/v2/rerank", &body(), &[("authorization", &bearer)]);
        assert_eq!(second.status, 429, "{}", second.text);
        assert_eq!(first.join().unwrap(), 200);
    });
    assert_eq!(status(&server, &key), 200);
}

#[test]
fn the_keys_command_edits_the_file_and_leaves_the_rest_of_it() {
    let keys = Keys::new();
    let comment = "# the search team\n";
    std::fs::write(keys.path(), format!("{comment}[[tenants]]\nname = \"search\" # ours\n"))
        .unwrap();
    let key = keys.ok(&["new", "search"]);
    assert!(key.starts_with("rrk_") && key.len() == 68, "{key}");
    keys.ok(&["new", "acme"]);
    let text = std::fs::read_to_string(keys.path()).unwrap();
    assert!(text.contains(comment) && text.contains("# ours"), "{text}");
    assert!(!text.contains(&key), "a key is kept as a hash only");
    assert_eq!(keys.ok(&["list"]).lines().count(), 2);
    keys.ok(&["revoke", &keys.id("search")]);
    assert_eq!(keys.ok(&["list"]).lines().count(), 1);

    for (args, part) in [
        (&["revoke", "000000000000"][..], "no key 000000000000"),
        (&["new", "no spaces"], "is no name"),
        (&["new", "acme", "--admin"], "admin = true"),
    ] {
        let output = keys.run(args);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains(part), "{complaint}");
    }
    assert_eq!(mode(&keys.path()), 0o644, "the mode its owner gave it");
    let fresh = Keys::new();
    fresh.ok(&["new", "search"]);
    assert_eq!(mode(&fresh.path()), 0o600);
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_server_does_not_start_with_keys_it_cannot_use() {
    let keys = Keys::new();
    for (text, part) in [
        ("[[tenants]]\nname = \"a\"\nwieght = 2\n", "line 3: unknown field `wieght`"),
        (
            "[[tenants]]\nname = \"a\"\n\n[[tenants]]\nname = \"a\"\n",
            "line 4: tenant 'a' is there twice",
        ),
        ("[[keys]]\ntenant = \"a\"\nsha256 = \"00\"\n", "line 3: sha256 must have 64 hex digits"),
        ("[[tenants]]\nname = \"a b\"\n", "line 2: 'a b' is no name"),
        ("[[tenants]]\nname = \"a\"\nclass = \"best\"\n", "line 3: unknown variant `best`"),
        ("[[tenants]]\nname = \"a\"\ntokens_per_second = -1.0\n", "line 3: -1 is no rate"),
        ("[[tenants]\n", "line 1"),
    ] {
        std::fs::write(keys.path(), text).unwrap();
        refused(&["--keys-file", keys.path().to_str().unwrap()], part);
    }
    let key = "00".repeat(32);
    std::fs::write(keys.path(), format!("[[keys]]\ntenant = \"a\"\nsha256 = \"{key}\"\n")).unwrap();
    refused(&["--keys-file", keys.path().to_str().unwrap()], "line 1: no tenant is called 'a'");
    refused(&["--keys-file", "/no/such/file"], "/no/such/file");
    refused(&["--api-key", ""], "api-key: is empty");
    refused(&["--api-key", "a", "--keys-file", "b"], "one of them is enough");
}

fn refused(args: &[&str], part: &str) {
    let mut command = rerankd();
    command.args(["serve", "--port", "0", "--model"]).arg(tiny_bert()).args(args);
    let output = command.output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {complaint}");
    assert!(complaint.contains(part), "{args:?}: {complaint}");
}

#[test]
fn a_redis_that_is_not_there_refuses_and_delays_nobody() {
    let keys = Keys::new();
    let key = keys.tenant("slow", "requests_per_second = 0.1");
    // Nothing listens on port 1.
    let server = keys.serve(&["--redis-url", "redis://:secret-word@127.0.0.1:1"]);
    eventually("the loss is told", || {
        server.get("/metrics").text.contains("\nrerank_shared_quota_up 0\n")
    });
    assert_eq!((status(&server, &key), status(&server, &key)), (200, 429), "limits of its own");
    assert!(!server.logged("secret-word"));
    refused(
        &["--redis-url", "http://x", "--keys-file", keys.path().to_str().unwrap()],
        "redis-url",
    );
    refused(&["--redis-url", "redis://x"], "name a keys-file");
}
