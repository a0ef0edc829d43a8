//! Quotas that replicas share: each tells the others through Redis what its tenants spent.
//!
//! No request waits for Redis. Every replica keeps its own buckets and serves from them; ten times a second it
//! adds what was spent here to the tenant's totals and takes off its buckets what the totals grew by beside
//! that, which is what the others spent. So together they keep to one rate, and exceed it by what they spend
//! within a tenth of a second. Without Redis each keeps to the rate alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};

use super::{Spent, Tenant, Tenants};
use crate::batch::TenantId;
use crate::clock;
use crate::metrics::Metrics;

const INTERVAL: Duration = Duration::from_millis(100);

/// How long Redis may take; nobody but this loop waits for it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Tenants of one exchange: with more, each has its turn in a later one.
const MAX_TENANTS: usize = 500;

/// Totals of a tenant that nobody has used for a day are forgotten.
const EXPIRE_SECONDS: i64 = 86_400;

/// Shares the quotas of `tenants` with other replicas; never ready.
pub async fn share(tenants: Arc<Tenants>, client: Client, metrics: Arc<Metrics>) {
    let mut link = Link { client, connection: None, seen: HashMap::new(), next: 0 };
    let mut is_up = None;
    loop {
        let exchanged = link.exchange(&tenants).await;
        if let Err(error) = &exchanged {
            metrics.shared_quota_failed();
            // What was spent meanwhile was not told, so the totals mean nothing new.
            (link.connection, link.seen) = (None, HashMap::new());
            if is_up != Some(false) {
                tracing::warn!(%error, "Redis does not answer: quotas are this server's own");
            }
        } else if is_up == Some(false) {
            tracing::info!("Redis answers: quotas are shared again");
        }
        is_up = Some(exchanged.is_ok());
        metrics.shared_quota_up(exchanged.is_ok());
        tokio::time::sleep(if exchanged.is_ok() { INTERVAL } else { TIMEOUT }).await;
    }
}

struct Link {
    client: Client,
    connection: Option<MultiplexedConnection>,
    /// The totals as they were told last.
    seen: HashMap<TenantId, Totals>,
    /// The tenant with which the next exchange begins.
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Totals {
    requests: i64,
    tokens: i64,
}

impl Link {
    async fn exchange(&mut self, tenants: &Tenants) -> Result<(), RedisError> {
        let mut limited = tenants.all();
        limited.retain(|tenant| tenant.quota.has_rate());
        self.seen.retain(|id, _| limited.iter().any(|tenant| tenant.share.tenant == *id));
        if limited.is_empty() {
            return self.connection().await.map(drop);
        }
        let start = self.next % limited.len();
        limited.rotate_left(start);
        limited.truncate(MAX_TENANTS);
        self.next = start + limited.len();

        let spent: Vec<Spent> =
            limited.iter().map(|tenant| tenant.account.meter().spent()).collect();
        let mut pipe = redis::pipe();
        for (tenant, spent) in limited.iter().zip(&spent) {
            let key = format!("rerankd:quota:{}", tenant.name);
            pipe.hincr(&key, "requests", spent.requests as i64);
            pipe.hincr(&key, "tokens", spent.tokens as i64);
            pipe.expire(&key, EXPIRE_SECONDS).ignore();
        }
        let totals: Vec<(i64, i64)> = {
            let connection = self.connection().await?;
            let flat: Vec<i64> = pipe.query_async(connection).await?;
            flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
        };
        for ((tenant, spent), (requests, tokens)) in limited.iter().zip(&spent).zip(totals) {
            self.learn(tenant, spent, Totals { requests, tokens });
        }
        Ok(())
    }

    /// Takes off a tenant's buckets what others spent since the last exchange.
    fn learn(&mut self, tenant: &Tenant, spent: &Spent, now: Totals) {
        let Some(before) = self.seen.insert(tenant.share.tenant, now) else { return };
        // Below zero somebody has emptied Redis; then the others begin anew.
        let others = |now: i64, before: i64, own: f64| ((now - before) as f64 - own).max(0.0);
        let elsewhere = Spent {
            requests: others(now.requests, before.requests, spent.requests),
            tokens: others(now.tokens, before.tokens, spent.tokens),
        };
        tenant.account.meter().take_elsewhere(&tenant.quota, elsewhere, clock::now());
    }

    async fn connection(&mut self) -> Result<&mut MultiplexedConnection, RedisError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(TIMEOUT))
                    .set_response_timeout(Some(TIMEOUT));
                self.client.get_multiplexed_async_connection_with_config(&config).await?
            }
        };
        Ok(self.connection.insert(connection))
    }
}
