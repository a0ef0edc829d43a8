//! No bytes panic the edge, and every refusal is a body its dialect's clients can read.

use proptest::prelude::*;
use serde_json::Value;

use super::{Call, Rejected, embed, fake, parse_with};

const PATHS: [&str; 12] = [
    "/rerank",
    "/v2/rerank",
    "/v1/reranking",
    "/score",
    "/predict",
    "/v1/ranking",
    "/invocations",
    "/v1/models/rerank",
    "/v1/embeddings",
    "/v2/embed",
    "/embed",
    "/embed_all",
];

const KEYS: [&str; 51] = [
    "query",
    "documents",
    "texts",
    "passages",
    "property",
    "input",
    "inputs",
    "queries",
    "items",
    "data_1",
    "data_2",
    "text_1",
    "text_2",
    "model",
    "top_n",
    "top_k",
    "numberOfResults",
    "truncate",
    "truncation",
    "truncation_side",
    "truncation_direction",
    "truncate_prompt_tokens",
    "max_tokens_per_doc",
    "max_tokens_per_query",
    "max_chunks_per_doc",
    "return_documents",
    "return_text",
    "return_input",
    "raw_scores",
    "use_activation",
    "rank_fields",
    "parameters",
    "api_version",
    "request_id",
    "timeout",
    "text",
    "content",
    "type",
    "image",
    "title",
    "images",
    "input_type",
    "task",
    "prompt_name",
    "embedding_types",
    "encoding_format",
    "output_dtype",
    "dimensions",
    "output_dimension",
    "normalize",
    "max_tokens",
];

const VALID: [&str; 11] = [
    r#"{"model":"m","query":"q","documents":["a","b\n"],"top_n":1,"return_documents":true}"#,
    r#"{"query":{"text":"q"},"documents":[{"text":"a","id":7},"b"],"rank_fields":["text"]}"#,
    r#"{"query":"q","documents":[{"content":[{"type":"text","text":"a"}]}],"use_activation":false}"#,
    r#"{"query":"q","texts":["a","b"],"raw_scores":true,"return_text":true,"truncate":false}"#,
    r#"{"query":"q","documents":["a"],"top_k":1,"truncation":true}"#,
    r#"{"query":"q","documents":["a"],"property":""}"#,
    r#"{"query":{"text":"q"},"passages":[{"text":"a"}],"truncate":"END"}"#,
    r#"{"text_1":["q","r"],"text_2":["a","b"],"inputs":[["a","b"]],"input":["a"]}"#,
    r#"{"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":3,"user":"u"}"#,
    r#"{"texts":["a"],"input_type":"search_query","embedding_types":["int8","float"],"truncate":"END"}"#,
    r#"{"inputs":[[1,2],[3]],"normalize":false,"truncate":true,"truncation_direction":"Left"}"#,
];

fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just("text"), Just("true"), Just("left"), Just("NONE"), Just("3"), Just("")]
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 24, 6, |inner| {
        let key = prop_oneof![
            proptest::sample::select(&KEYS[..]).prop_map(str::to_owned),
            any::<String>()
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An object of known keys, so that most bodies get past the choice of a dialect.
fn any_body() -> impl Strategy<Value = Value> {
    let field = (proptest::sample::select(&KEYS[..]).prop_map(str::to_owned), any_json());
    prop::collection::vec(field, 0..8)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

/// Whatever comes in, an answer goes out: scores with valid places, or an error with words.
fn answers(path: &str, headers: &[(&str, &str)], body: &[u8]) {
    match parse_with(path, headers, body).map(|parsed| parsed.call) {
        Ok(call) => {
            let reply = match call {
                Call::Rerank(request, dialect) => {
                    assert!(!request.inputs.is_empty());
                    dialect.reply(&fake(&request))
                }
                Call::Embed(request, dialect) => {
                    assert!(!request.inputs.is_empty());
                    dialect.reply(&embed::fake(&request))
                }
            };
            assert_eq!(reply.status, 200);
            let value: Value = serde_json::from_slice(&reply.body).unwrap();
            assert!(value.is_object() || value.is_array());
        }
        Err(Rejected { error, errors, request_id }) => {
            let reply = errors.write(&error, &request_id);
            assert!(reply.status.is_client_error(), "{error}");
            let value: Value = serde_json::from_slice(&reply.body).unwrap();
            let words = [&value["error"], &value["detail"], &value["error"]["message"]];
            assert!(
                words.iter().any(|word| word.as_str().is_some_and(|w| !w.is_empty())),
                "{value}"
            );
        }
    }
}

fn any_headers() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    proptest::sample::select(
        &[("api-key", "k"), ("x-pinecone-api-version", "1"), ("x-other", "y")][..],
    )
    .prop_map(|header| vec![header])
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(
        path in proptest::sample::select(&PATHS[..]),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        answers(path, &[], &body);
    }

    #[test]
    fn any_json_gets_an_answer(
        path in proptest::sample::select(&PATHS[..]),
        headers in any_headers(),
        body in prop_oneof![any_json(), any_body()],
    ) {
        answers(path, &headers, body.to_string().as_bytes());
    }

    #[test]
    fn a_valid_body_with_bytes_changed_gets_an_answer(
        path in proptest::sample::select(&PATHS[..]),
        valid in proptest::sample::select(&VALID[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut body = valid.as_bytes().to_vec();
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
        if cut {
            body.truncate(end.index(body.len()));
        }
        answers(path, &[], &body);
    }

    #[test]
    fn a_valid_body_with_one_value_changed_gets_an_answer(
        path in proptest::sample::select(&PATHS[..]),
        valid in proptest::sample::select(&VALID[..]),
        key in proptest::sample::select(&KEYS[..]),
        value in any_json(),
    ) {
        let mut body: Value = serde_json::from_str(valid).unwrap();
        body[key] = value;
        answers(path, &[], body.to_string().as_bytes());
    }

    #[test]
    fn any_documents_are_echoed_as_they_came(documents in prop::collection::vec(any::<String>(), 1..6)) {
        let body = serde_json::json!({
            "query": "q", "documents": documents, "return_documents": true,
        });
        let reply = super::answer("/v1/rerank", &body.to_string());
        for result in reply["results"].as_array().unwrap() {
            let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
            prop_assert_eq!(result["document"]["text"].as_str(), Some(documents[index].as_str()));
        }
    }
}
