//! The tenants' part of the metrics page.

use std::fmt::Write;

use super::TenantCounts;

/// Tenants with lines of their own on the metrics page; the rest share the label `other`. A thousand lines are
/// what a scrape should cost at most.
const MAX_TENANT_LABELS: usize = 200;

/// The metrics of tenants, by name: one page of their own, since it is not for everybody who may scrape.
pub fn tenant_page(tenants: &[(String, TenantCounts)]) -> String {
    let (own, rest) = tenants.split_at(tenants.len().min(MAX_TENANT_LABELS));
    let rest = rest.iter().map(|(_, counts)| *counts).reduce(TenantCounts::plus);
    let rest = rest.map(|counts| ("other".to_owned(), counts));
    let mut page = String::new();
    for (name, help, read) in TENANT_COUNTERS {
        // Writing to a string cannot fail.
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} counter\n");
        for (tenant, counts) in own.iter().chain(&rest) {
            let _ = writeln!(page, "{name}{{tenant=\"{tenant}\"}} {}", read(counts));
        }
    }
    page
}

type ReadCounter = fn(&TenantCounts) -> u64;

const TENANT_COUNTERS: [(&str, &str, ReadCounter); 5] = [
    ("rerank_tenant_requests_total", "Requests answered with scores.", |c| c.requests),
    ("rerank_tenant_refusals_total", "Requests answered with an error.", |c| c.refusals),
    ("rerank_tenant_scored_pairs_total", "Documents scored and answered.", |c| c.documents),
    ("rerank_tenant_scored_tokens_total", "Tokens scored and answered.", |c| c.tokens),
    ("rerank_tenant_search_units_total", "Searches as Cohere bills them.", |c| c.search_units),
];
