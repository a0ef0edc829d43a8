//! GET `/v1/usage`: what a tenant has used since the server started, and what all have for an admin's key.

use serde::Serialize;

use super::Reply;
use crate::metrics::TenantCounts;

/// One tenant's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageFacts {
    pub tenant: String,
    pub counts: TenantCounts,
}

/// The usage of the tenant that asks.
pub fn own(facts: &UsageFacts, since_unix_seconds: u64) -> Reply {
    Reply::ok(&Own { object: "usage", since: since_unix_seconds, usage: Usage::of(facts) })
}

/// The usage of every tenant.
pub fn all(tenants: &[UsageFacts], since_unix_seconds: u64) -> Reply {
    let data = tenants.iter().map(Usage::of).collect();
    Reply::ok(&All { object: "list", since: since_unix_seconds, data })
}

#[derive(Serialize)]
struct Own<'a> {
    object: &'static str,
    since: u64,
    #[serde(flatten)]
    usage: Usage<'a>,
}

#[derive(Serialize)]
struct All<'a> {
    object: &'static str,
    since: u64,
    data: Vec<Usage<'a>>,
}

#[derive(Serialize)]
struct Usage<'a> {
    tenant: &'a str,
    requests: u64,
    refusals: u64,
    documents: u64,
    tokens: u64,
    search_units: u64,
}

impl<'a> Usage<'a> {
    fn of(facts: &'a UsageFacts) -> Self {
        let TenantCounts { requests, refusals, documents, tokens, search_units } = facts.counts;
        Self { tenant: &facts.tenant, requests, refusals, documents, tokens, search_units }
    }
}
