//! Vectors: what each dialect reads, and the form in which it answers.

use http::HeaderMap;
use serde_json::{Value, json};

use super::super::{Call, Incoming, Limits, Route, Version, parse, route};
use super::{json as body_of, now, parse_with, refusal};
use crate::request::{
    EmbedRequest, EmbedResponse, Inputs, Overflow, PromptChoice, Purpose, Side, Stamps,
};

/// A model whose vectors are 0.6, -0.8 and nothing else, cut to what is asked for.
pub(super) fn fake(request: &EmbedRequest) -> EmbedResponse {
    let vector = [0.6, -0.8, 0.0];
    let dimensions = request.dimensions.unwrap_or(3).min(3);
    let num_texts = request.inputs.len();
    // A text of the model's has three tokens.
    let num_vectors = vec![if request.of_tokens { 3 } else { 1 }; num_texts];
    EmbedResponse {
        id: request.id.clone(),
        model: "m".to_owned(),
        vectors: vector[..dimensions].repeat(num_vectors.iter().sum()),
        dimensions,
        num_vectors,
        truncated_tokens: vec![0; num_texts],
        prompt_tokens: 30,
        num_chars: 8,
        stamps: Stamps::at(now()),
    }
}

fn embed(path: &str, body: &str) -> EmbedRequest {
    let parsed = parse_with(path, &[], body.as_bytes());
    match parsed.unwrap_or_else(|r| panic!("{body}: {}", r.error)).call {
        Call::Embed(request, _) => request,
        Call::Rerank(request, _) => panic!("{body}: {request:?}"),
    }
}

/// The reply of the fake model, after `change`.
fn answer_after(path: &str, body: &str, change: impl Fn(&mut EmbedResponse)) -> Value {
    let parsed = parse_with(path, &[], body.as_bytes());
    match parsed.unwrap_or_else(|r| panic!("{body}: {}", r.error)).call {
        Call::Embed(request, dialect) => {
            let mut response = fake(&request);
            change(&mut response);
            let reply = dialect.reply(&response);
            assert_eq!(reply.status, 200);
            body_of(&reply)
        }
        Call::Rerank(request, _) => panic!("{body}: {request:?}"),
    }
}

fn answer(path: &str, body: &str) -> Value {
    answer_after(path, body, |_| {})
}

fn texts(texts: &[&str]) -> Inputs {
    Inputs::Texts(texts.iter().map(ToString::to_string).collect())
}

#[test]
fn paths_of_vectors_resolve_with_the_prefixes_in_the_wild() {
    for path in ["/embeddings", "/v1/embeddings", "/v1/v1/embeddings/", "/openai/v1/embeddings"] {
        assert_eq!(route(path), Some(Route::Embeddings), "{path}");
    }
    assert_eq!(route("/embed"), Some(Route::Embed { version: None }));
    assert_eq!(route("/v1/embed"), Some(Route::Embed { version: Some(Version::V1) }));
    assert_eq!(route("/cohere/v2/embed"), Some(Route::Embed { version: Some(Version::V2) }));
    assert_eq!(route("/embeddings/x"), None);
}

#[test]
fn openai_gets_a_list_of_embeddings() {
    let reply = answer("/v1/embeddings", r#"{"model":"x","input":["a","b"],"user":"u"}"#);
    let item =
        |index| json!({"object": "embedding", "index": index, "embedding": [0.6, -0.8, 0.0]});
    assert_eq!(
        reply,
        json!({
            "object": "list", "data": [item(0), item(1)], "model": "m",
            "usage": {"prompt_tokens": 30, "total_tokens": 30},
        })
    );
}

#[test]
fn openai_takes_a_text_texts_and_token_ids() {
    let inputs = |input: &str| {
        let request = embed("/v1/embeddings", &format!(r#"{{"input":{input}}}"#));
        assert!(request.normalize, "vectors have length one where nobody says otherwise");
        request.inputs
    };
    assert_eq!(inputs(r#""a""#), texts(&["a"]));
    assert_eq!(inputs(r#"["a",{"text":"b"},""]"#), texts(&["a", "b", ""]));
    assert_eq!(inputs("[1, 2,3]"), Inputs::Tokens(vec![vec![1, 2, 3]]));
    assert_eq!(inputs("[ [1,2], [3] ]"), Inputs::Tokens(vec![vec![1, 2], vec![3]]));
}

#[test]
fn what_is_no_input_is_named() {
    for (body, field, words) in [
        ("{}", "input", "input is required"),
        (r#"{"input":[]}"#, "input", "empty list"),
        (r#"{"input":[[1],"a"]}"#, "input[1]", "a list of token ids"),
        (r#"{"input":[[1],[]]}"#, "input[1]", "no token ids"),
        (r#"{"input":[1,-2]}"#, "input", "integers from 0"),
        (r#"{"input":[1,"a"]}"#, "input", "integers from 0"),
        (r#"{"input":["a",1]}"#, "input[1]", "expected a string"),
        (r#"{"input":"a","encoding_format":"hex"}"#, "encoding_format", "float, base64"),
        (r#"{"input":"a","dimensions":0}"#, "dimensions", "at least 1"),
        (r#"{"input":"a","dimensions":-1}"#, "dimensions", "negative"),
        (r#"{"input":"a","input_type":"poem"}"#, "input_type", "not 'poem'"),
        (r#"{"input":[1],"input_type":"query"}"#, "input", "without a prompt"),
    ] {
        let (status, reply) = refusal("/v1/embeddings", body);
        assert_eq!((status, &reply["error"]["param"]), (400, &field.into()), "{body}: {reply}");
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{body}: {message}");
    }
    let many = json!({"input": vec!["a"; 2049]}).to_string();
    let (status, reply) = refusal("/v1/embeddings", &many);
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(status == 400 && message.contains("2049 entries"), "{message}");
}

#[test]
fn base64_is_the_floats_bytes() {
    let reply = answer("/v1/embeddings", r#"{"input":"a","encoding_format":"base64"}"#);
    // 0.6, -0.8 and 0 as little-endian f32.
    assert_eq!(reply["data"][0]["embedding"], "mpkZP83MTL8AAAAA");
}

#[test]
fn voyages_and_jinas_words_count_on_openais_path() {
    let body = r#"{"input":"a","output_dtype":"int8","output_dimension":2,"input_type":"query"}"#;
    assert_eq!(answer("/v1/embeddings", body)["data"][0]["embedding"], json!([76, -102]));
    assert_eq!(embed("/v1/embeddings", body).prompt, PromptChoice::For(Purpose::Query));
    let body = r#"{"input":"a","task":"retrieval.passage","normalized":false}"#;
    let request = embed("/v1/embeddings", body);
    assert_eq!(request.prompt, PromptChoice::For(Purpose::Document));
    assert!(!request.normalize);
    let packed = r#"{"input":"a","encoding_format":"base64","output_dtype":"int8"}"#;
    assert_eq!(refusal("/v1/embeddings", packed).0, 400);
    let floats = r#"{"input":"a","encoding_format":"base64","output_dtype":"float"}"#;
    assert!(answer("/v1/embeddings", floats)["data"][0]["embedding"].is_string());
}

#[test]
fn cohere_v2_answers_by_type() {
    let body = r#"{"model":"x","texts":["a","b"],"input_type":"search_document"}"#;
    let floats = json!([0.6, -0.8, 0.0]);
    assert_eq!(
        answer("/v2/embed", body),
        json!({
            "id": "made-at-the-edge", "response_type": "embeddings_by_type",
            "embeddings": {"float": [floats, floats]}, "texts": ["a", "b"],
            "meta": {
                "api_version": {"version": "2"}, "billed_units": {"input_tokens": 30},
                "tokens": {"input_tokens": 30},
            },
        })
    );
    let request = embed("/v2/embed", body);
    assert_eq!(request.prompt, PromptChoice::For(Purpose::Document));
}

#[test]
fn cohere_v1_answers_plainly_unless_types_are_named() {
    let plain = answer("/v1/embed", r#"{"texts":["a"]}"#);
    assert_eq!(plain["embeddings"], json!([[0.6, -0.8, 0.0]]));
    assert_eq!(plain["response_type"], "embeddings_floats");
    assert_eq!(plain["meta"]["api_version"]["version"], "1");
    let typed =
        answer("/v1/embed", r#"{"texts":["a"],"embedding_types":["ubinary","int8","int8"]}"#);
    assert_eq!(typed["embeddings"], json!({"ubinary": [[128]], "int8": [[76, -102, 0]]}));
    let one = answer("/v1/embed", r#"{"texts":["a"],"embedding_types":"base64"}"#);
    assert_eq!(one["embeddings"], json!({"base64": ["mpkZP83MTL8AAAAA"]}));
}

#[test]
fn coheres_settings_are_read() {
    let body = r#"{"inputs":[{"content":[{"type":"text","text":"a"}]}],"truncate":"START",
        "max_tokens":7,"output_dimension":2,"input_type":"clustering","priority":3}"#;
    let request = embed("/v2/embed", body);
    assert_eq!(request.inputs, texts(&["a"]));
    assert_eq!(request.truncation.side, Side::Left);
    assert_eq!(request.truncation.max_tokens_per_doc, Some(7));
    assert_eq!((request.dimensions, request.priority), (Some(2), 3));
    assert_eq!(request.prompt, PromptChoice::For(Purpose::Clustering));
    let refuses = embed("/v2/embed", r#"{"texts":["a"],"truncate":"NONE"}"#);
    assert_eq!(refuses.truncation.overflow, Overflow::Refuse);
    for (body, words) in [
        (r#"{"texts":["a"],"embedding_types":["float16"]}"#, "embedding_types must be one of"),
        (r#"{"texts":[]}"#, "texts must not be empty"),
        (r#"{"images":["data:..."],"input_type":"image"}"#, "text only"),
        (r#"{"texts":["a"],"input_type":"image"}"#, "text only"),
        (r#"{"texts":["a"],"max_tokens":0}"#, "at least 1"),
        (r#"{"input_type":"search_query"}"#, "texts is required"),
    ] {
        let (status, reply) = refusal("/v2/embed", body);
        let message = reply["message"].as_str().unwrap();
        assert!(status == 400 && message.contains(words), "{body}: {message}");
    }
}

#[test]
fn tei_gets_a_bare_list_of_vectors() {
    let two = json!([[0.6, -0.8, 0.0], [0.6, -0.8, 0.0]]);
    assert_eq!(answer("/embed", r#"{"inputs":["a","b"]}"#), two);
    assert_eq!(answer("/embed", r#"{"inputs":"a","dimensions":1}"#), json!([[0.6]]));
    let body =
        r#"{"inputs":[[1,2]],"normalize":false,"truncate":false,"truncation_direction":"Left"}"#;
    let request = embed("/embed", body);
    assert_eq!(request.inputs, Inputs::Tokens(vec![vec![1, 2]]));
    assert!(!request.normalize);
    assert_eq!(request.truncation.overflow, Overflow::Refuse);
    assert_eq!(request.truncation.side, Side::Left);
    let named = embed("/embed", r#"{"inputs":"a","prompt_name":"query"}"#);
    assert_eq!(named.prompt, PromptChoice::Named("query".into()));
    let empty = json!({"error": "`inputs` cannot be empty", "error_type": "Empty"});
    assert_eq!(refusal("/embed", r#"{"inputs":[]}"#), (400, empty));
    let (status, reply) = refusal("/embed", r#"{"inputs":5}"#);
    assert_eq!((status, &reply["error_type"]), (422, &"Validation".into()));
}

#[test]
fn tei_gets_a_list_of_vectors_a_text_where_it_asks_for_all() {
    let text = json!([[0.6, -0.8], [0.6, -0.8], [0.6, -0.8]]);
    let body = r#"{"inputs":["a","b"],"dimensions":2}"#;
    assert_eq!(answer("/embed_all", body), json!([text, text]));
    assert!(embed("/embed_all", body).of_tokens && !embed("/embed", body).of_tokens);
    let (status, reply) = refusal("/embed_all", r#"{"inputs":5}"#);
    assert_eq!((status, &reply["error_type"]), (422, &"Validation".into()));
}

#[test]
fn whose_embed_it_is_the_body_says() {
    let tei = r#"{"inputs":["a"]}"#;
    let cohere = r#"{"texts":["a"],"input_type":"search_query"}"#;
    let openai = r#"{"input":"a"}"#;
    for path in ["/embed", "/v1/embed", "/v2/embed"] {
        assert!(answer(path, tei).is_array(), "{path}");
        assert!(answer(path, cohere).get("embeddings").is_some(), "{path}");
        assert!(answer(path, openai).get("data").is_some(), "{path}");
    }
}

#[test]
fn where_the_path_says_nothing_texts_without_a_query_ask_for_vectors() {
    for path in ["/invocations", "/"] {
        assert!(answer(path, r#"{"input":["a"]}"#).get("data").is_some());
        let cohere = r#"{"texts":["a"],"input_type":"search_document"}"#;
        assert!(answer(path, cohere).get("embeddings").is_some());
        // TEI's body for labels is that for vectors: the model decides.
        assert_eq!(super::answer(path, r#"{"inputs":"a"}"#)[0]["label"], "LABEL_0");
        let limits = Limits { prefers_vectors: true, ..Limits::default() };
        let headers = HeaderMap::new();
        let body = br#"{"inputs":["a"]}"#;
        let incoming =
            Incoming { path, headers: &headers, body, fallback_id: "id", unix_seconds: 0 };
        assert!(matches!(parse(&incoming, &limits).unwrap().call, Call::Embed(..)));
    }
}

#[test]
fn what_was_cut_is_told() {
    let cut = |response: &mut EmbedResponse| response.truncated_tokens[1] = 7;
    let reply = answer_after("/v1/embeddings", r#"{"input":["a","b"]}"#, cut);
    assert_eq!(reply["usage"]["truncated_tokens"], 7);
    let reply = answer_after("/v2/embed", r#"{"texts":["a","b"]}"#, cut);
    let warning = json!(["1 of 2 texts did not fit: 7 tokens were cut"]);
    assert_eq!(reply["meta"]["warnings"], warning);
}
