//! Where clients put their key.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// All keys that come with a request: Bearer for most; `Api-Key` for Pinecone and Azure, `X-Api-Key` for
/// gateways. LlamaIndex's TEI client sends `Authorization` as it was configured, mostly without a scheme.
pub fn credentials(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = values(AUTHORIZATION.as_str()).and_then(|value| match value.split_once(' ') {
        None => Some(value),
        Some((scheme, key)) => scheme.eq_ignore_ascii_case("bearer").then_some(key),
    });
    let keys = [bearer, values("x-api-key"), values("api-key")];
    // "Bearer " with nothing behind it is what clients send that were given no key.
    let given = |key: &str| !key.is_empty() && !key.eq_ignore_ascii_case("bearer");
    keys.into_iter().flatten().map(str::trim).filter(move |key| given(key))
}
