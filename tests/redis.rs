//! Replicas that share quotas through a real Redis, which comes and goes.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rerankd::clock;
use rerankd::metrics::{Load, Metrics};
use rerankd::tenant::{Source, Tenant, Tenants, share};
use tokio::task::JoinHandle;

/// A Redis that keeps nothing, killed when dropped.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(port: u16) -> Self {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
        let child = command.stdout(Stdio::null()).spawn().expect("redis-server is on the PATH");
        Self { child, port }
    }

    fn any() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start(port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of several servers of the same tenants.
struct Replica {
    tenants: Arc<Tenants>,
    metrics: Arc<Metrics>,
    sharing: JoinHandle<()>,
}

impl Replica {
    fn start(keys: &Path, port: u16) -> Self {
        let tenants = Arc::new(Tenants::open(Source::File(keys.to_owned())).unwrap());
        let metrics = Arc::new(Metrics::new());
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
        let sharing = tokio::spawn(share(Arc::clone(&tenants), client, Arc::clone(&metrics)));
        Self { tenants, metrics, sharing }
    }

    fn tenant(&self, name: &str) -> Arc<Tenant> {
        self.tenants.all().into_iter().find(|tenant| tenant.name == name).unwrap()
    }

    fn says(&self, line: &str) -> bool {
        self.metrics.render(Load::default(), true).lines().any(|own| own == line)
    }

    async fn until_up(&self) {
        eventually("Redis is reached", || self.says("rerank_shared_quota_up 1")).await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.sharing.abort();
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to pass that {what}");
}

/// Rates so low that nothing comes back while a test runs.
fn keys(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("keys.toml");
    let tenants = [
        "name = \"requests\"\nrequests_per_second = 0.001",
        "name = \"tokens\"\ntokens_per_second = 0.001",
        "name = \"many\"\nrequests_per_second = 100",
        "name = \"free\"",
    ];
    std::fs::write(&path, tenants.map(|tenant| format!("[[tenants]]\n{tenant}\n")).concat())
        .unwrap();
    path
}

fn is_refused(replica: &Replica, tenant: &str) -> bool {
    // A probe that is let in is given back, so that it changes nothing.
    match replica.tenant(tenant).charge(1, clock::now()) {
        Ok(charge) => {
            charge.refund(clock::now());
            false
        }
        Err(_) => true,
    }
}

#[tokio::test]
async fn what_one_replica_spent_is_gone_at_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let (redis, keys) = (Redis::any(), keys(folder.path()));
    let (one, two) = (Replica::start(&keys, redis.port), Replica::start(&keys, redis.port));
    one.until_up().await;
    two.until_up().await;
    for tenant in ["requests", "tokens"] {
        assert!(!is_refused(&two, tenant));
        drop(one.tenant(tenant).charge(1, clock::now()).unwrap());
        eventually("the other replica refuses", || is_refused(&two, tenant)).await;
    }
    assert!(!is_refused(&two, "free") && !is_refused(&one, "free"));
}

#[tokio::test]
async fn replicas_together_keep_one_rate() {
    let folder = tempfile::tempdir().unwrap();
    let (redis, keys) = (Redis::any(), keys(folder.path()));
    let (one, two) = (Replica::start(&keys, redis.port), Replica::start(&keys, redis.port));
    one.until_up().await;
    two.until_up().await;
    let begin = clock::now();
    let mut admitted = 0;
    while clock::now() - begin < Duration::from_secs(3) {
        for replica in [&one, &two] {
            admitted += usize::from(replica.tenant("many").charge(1, clock::now()).is_ok());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Beside the rate, each replica's burst of 100 at the start, and what both spend between two exchanges.
    let most = 100.0 * (clock::now() - begin).as_secs_f64() + 200.0 + 60.0;
    assert!(admitted as f64 <= most, "{admitted} admitted; alone they would admit some 800");
}

#[tokio::test]
async fn without_redis_each_replica_keeps_the_limits_alone_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (redis, keys) = (Redis::any(), keys(folder.path()));
    let port = redis.port;
    let (one, two) = (Replica::start(&keys, port), Replica::start(&keys, port));
    one.until_up().await;
    two.until_up().await;
    drop(redis);
    eventually("the loss is told", || one.says("rerank_shared_quota_up 0")).await;
    drop(one.tenant("requests").charge(1, clock::now()).unwrap());
    assert!(is_refused(&one, "requests"), "the limit holds alone");
    assert!(!is_refused(&two, "requests"), "and nobody else knows");

    let _redis = Redis::start(port);
    one.until_up().await;
    two.until_up().await;
    drop(two.tenant("tokens").charge(1, clock::now()).unwrap());
    eventually("quotas are shared again", || is_refused(&one, "tokens")).await;
}
