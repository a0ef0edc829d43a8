//! How tolerant the parser is, and how exact its complaints are.

use super::{answer, documents, refusal, request, send};
use crate::error::Error;
use crate::request::Inputs;

/// The documents that a value of `documents` becomes, on the unified path.
fn read(value: &str) -> Vec<String> {
    let body = format!(r#"{{"query":"q","documents":{value}}}"#);
    documents(&request("/v1/rerank", &body)).into_iter().map(str::to_owned).collect()
}

/// The field and message of a refusal.
fn refused(path: &str, body: &str) -> (String, String) {
    let error = send(path, body).err().unwrap_or_else(|| panic!("accepted: {body}")).error;
    (error.field().unwrap_or_default().to_owned(), error.to_string())
}

#[test]
fn documents_come_in_every_shape() {
    let cases: [(&str, &[&str]); 12] = [
        (r#""one""#, &["one"]),
        (r#"["a","\u00e9\n"]"#, &["a", "é\n"]),
        (r#"{"text":"a"}"#, &["a"]),
        (r#"{"content":"a"}"#, &["a"]),
        (r#"[{"text":"a"},"b",{"content":"c"}]"#, &["a", "b", "c"]),
        (r#"[{"content":[{"type":"text","text":"a"},{"text":"b"},"c"]}]"#, &["a\nb\nc"]),
        (r#"[{"text":null,"content":"c"}]"#, &["c"]),
        (
            r#"[{"title":"T","n":3,"tags":["x","y"],"gone":null}]"#,
            &["title: T\nn: 3\ntags: [\"x\",\"y\"]"],
        ),
        (r#"[{"image":"http://h/i.png","title":"T"}]"#, &["image: http://h/i.png\ntitle: T"]),
        (r#"[{"text":"first","text":"last"}]"#, &["last"]),
        (r#"[{"text":""}]"#, &[""]),
        (r#"[ {"text" : "a" } , "b" ]"#, &["a", "b"]),
    ];
    for (value, expected) in cases {
        assert_eq!(read(value), expected, "{value}");
    }
}

#[test]
fn rank_fields_join_in_their_order() {
    let cases = [
        (r#"["title","body"]"#, r#"{"body":"B","title":"T","text":"X"}"#, "T\nB"),
        (r#"["year","title"]"#, r#"{"title":"T","year":1999}"#, "1999\nT"),
        (r#""title""#, r#"{"title":"T"}"#, "T"),
        (r#"["title"]"#, r#"{"text":"X"}"#, "X"),
        (r#"["title"]"#, r#"{"name":"N"}"#, "name: N"),
        ("null", r#"{"text":"X","title":"T"}"#, "X"),
    ];
    for (names, object, expected) in cases {
        let body = format!(r#"{{"query":"q","documents":[{object}],"rank_fields":{names}}}"#);
        assert_eq!(documents(&request("/v1/rerank", &body)), [expected], "{names} of {object}");
    }
    let (field, message) =
        refused("/v1/rerank", r#"{"query":"q","documents":["a"],"rank_fields":[]}"#);
    assert_eq!(field, "rank_fields");
    assert_eq!(
        message,
        "invalid request: rank_fields cannot be empty, it must either contain at least one field \
         or be omitted"
    );
}

#[test]
fn an_echoed_object_always_says_what_was_scored() {
    let body = r#"{"query":"q","return_documents":true,
        "documents":[{"content":"c","text":null,"id":1}]}"#;
    let document = &answer("/v1/rerank", body)["results"][0]["document"];
    assert_eq!(document, &serde_json::json!({"text": "c", "content": "c", "id": 1}));
}

#[test]
fn queries_come_in_every_shape() {
    for value in [
        r#""q""#,
        r#"{"text":"q"}"#,
        r#"{"content":"q"}"#,
        r#"{"content":[{"type":"text","text":"q"}]}"#,
    ] {
        let body = format!(r#"{{"query":{value},"documents":["a"]}}"#);
        let Inputs::OneQuery { query, .. } = request("/v1/rerank", &body).inputs else { panic!() };
        assert_eq!(query, "q", "{value}");
    }
}

#[test]
fn a_query_must_ask_something_where_cohere_says_so() {
    for value in [r#""""#, r#"" \n\t""#, r#"{"text":" "}"#] {
        let body = format!(r#"{{"query":{value},"documents":["a"]}}"#);
        let (field, message) = refused("/v2/rerank", &body);
        assert_eq!(field, "query");
        assert_eq!(message, "invalid request: query must not be empty or be only whitespace");
    }
    assert!(send("/rerank", r#"{"query":"","texts":["a"]}"#).is_ok(), "TEI scores it");
}

#[test]
fn a_wrong_type_is_named_by_its_path() {
    let cases = [
        (r#"{"query":"q","documents":["a",3]}"#, "documents[1]", "got a number"),
        (r#"{"query":"q","documents":["a",null]}"#, "documents[1]", "got null"),
        (r#"{"query":"q","documents":["a",["b"]]}"#, "documents[1]", "got a list"),
        (r#"{"query":"q","documents":[0,{"text":1}]}"#, "documents[0]", "got a number"),
        (
            r#"{"query":"q","documents":["a","b","c",{"text":{}}]}"#,
            "documents[3].text",
            "got an object",
        ),
        (
            r#"{"query":"q","documents":[{"content":[{"type":"text","text":1}]}]}"#,
            "documents[0].content[0].text",
            "got a number",
        ),
        (r#"{"query":"q","documents":["\ud800"]}"#, "documents[0]", "surrogate"),
        (
            r#"{"query":"q","documents":[{}]}"#,
            "documents[0]",
            "document at index 0 cannot be empty",
        ),
        (r#"{"query":"q","documents":true}"#, "documents", "got a boolean"),
        (r#"{"query":7,"documents":["a"]}"#, "query", "got a number"),
        (r#"{"query":{"text":7},"documents":["a"]}"#, "query.text", "got a number"),
        (r#"{"documents":["a"]}"#, "query", "is required"),
        (r#"{"query":"q","documents":null}"#, "documents", "is required"),
        (r#"{"query":"q","documents":["a"],"top_n":-1}"#, "top_n", "must not be negative"),
        (r#"{"query":"q","documents":["a"],"top_n":1.5}"#, "top_n", "expected an integer"),
        (r#"{"query":"q","documents":["a"],"top_n":1e99}"#, "top_n", "expected an integer"),
        (r#"{"query":"q","documents":["a"],"top_k":-1}"#, "top_k", "must not be negative"),
        (
            r#"{"query":"q","documents":["a"],"return_documents":[]}"#,
            "return_documents",
            "expected a boolean, got a list",
        ),
        (r#"{"query":"q","documents":["a"],"model":5}"#, "model", "expected a string"),
    ];
    for (body, field, words) in cases {
        let (named, message) = refused("/v1/rerank", body);
        assert_eq!(named, field, "{body}: {message}");
        assert!(message.contains(words), "{body}: {message}");
    }
}

#[test]
fn images_are_refused_where_they_are_input() {
    let cases = [
        (r#"{"query":"q","documents":[{"image":"data:x"}]}"#, "documents[0].image"),
        (
            r#"{"query":"q","documents":[{"content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
            "documents[0].content[1]",
        ),
        (r#"{"query":"q","passages":[{"text":"a","image":"data:x"}]}"#, "passages[0].image"),
    ];
    for (body, field) in cases {
        let (named, message) = refused("/v1/rerank", body);
        assert_eq!(named, field, "{message}");
        assert!(message.contains("reads text only"), "{message}");
    }
}

#[test]
fn ten_thousand_documents_fit_and_one_more_does_not() {
    let body =
        |n: usize| format!(r#"{{"query":"q","documents":[{}]}}"#, vec![r#""""#; n].join(","));
    assert_eq!(request("/v2/rerank", &body(10_000)).inputs.len(), 10_000);
    let error = send("/v2/rerank", &body(10_001)).unwrap_err().error;
    let Error::TooMany { field, message } = error else { panic!("{error}") };
    assert_eq!(field, "documents");
    assert_eq!(message, "documents has 10001 entries, this server takes at most 10000");
}

#[test]
fn broken_json_is_told_with_its_place() {
    for (body, place) in [
        (r#"{"query":"q","documents":["a","#, "line 1 column 30"),
        ("{\n\"query\": nope}", "line 2 column"),
        ("", "line 1 column 0"),
        ("{} trailing", "line 1 column 4"),
        (r#"{"query":"q","documents":["a"],}"#, "line 1 column 32"),
    ] {
        let error = send("/v1/rerank", body).unwrap_err().error;
        let Error::Syntax(message) = &error else { panic!("{body}: {error}") };
        assert!(message.contains(place), "{body}: {message}");
        assert!(error.to_string().starts_with("invalid json syntax: "));
    }
    for body in ["[]", "3", "\"s\"", "null"] {
        let (status, reply) = refusal("/v1/rerank", body);
        assert_eq!(status, 400, "{body}");
        assert_eq!(reply["error"]["param"], "body");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_told_with_their_place() {
    let error = super::send_with("/rerank", &[], b"{\"query\":\"\xff\"}").unwrap_err().error;
    assert_eq!(error, Error::Syntax("the body is not UTF-8 at byte 10".to_owned()));
}

#[test]
fn a_byte_order_mark_is_skipped() {
    assert!(send("/rerank", "\u{feff}{\"query\":\"q\",\"documents\":[\"a\"]}").is_ok());
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let ignored = format!(r#"{{"query":"q","documents":["a"],"x":{}}}"#, deep(200_000));
    assert!(send("/rerank", &ignored).is_ok(), "unknown keys are not read");
    let dumped = format!(r#"{{"query":"q","documents":[{{"x":{}}}]}}"#, deep(1000));
    assert!(documents(&request("/rerank", &dumped))[0].starts_with("x: [[["));
    for body in [
        deep(200_000),
        "[".repeat(1_000_000),
        r#"{"a":"#.repeat(1_000_000),
        format!(r#"{{"query":"q","documents":{}}}"#, deep(200_000)),
        format!(r#"{{"query":{},"documents":["a"]}}"#, deep(200_000)),
    ] {
        assert_eq!(refusal("/rerank", &body).0, 400);
    }
}

#[test]
fn of_a_repeated_key_the_last_counts() {
    let twice = request("/rerank", r#"{"query":"x","documents":["a"],"query":"q"}"#);
    assert_eq!(twice, request("/rerank", r#"{"query":"q","documents":["a"]}"#));
}

#[test]
fn unknown_keys_are_ignored_but_not_without_end() {
    let known = r#""query":"q","documents":["a"]"#;
    assert!(send("/rerank", &format!(r#"{{{known},"user":"u","overlap_tokens":5}}"#)).is_ok());
    let many: Vec<String> = (0..5000).map(|i| format!("\"k{i}\":0")).collect();
    let (field, message) = refused("/rerank", &format!("{{{known},{}}}", many.join(",")));
    assert_eq!(field, "body");
    assert!(message.contains("4096 keys"), "{message}");
}
