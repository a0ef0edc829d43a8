//! Keys that come and go while the server runs.

use std::sync::Arc;
use std::time::Duration;

use super::Tenants;

/// A revoked key works no longer than this.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reads the keys file again and again; never ready. The text is compared, not the time of its last change:
/// two changes within a tick of the file system's clock look like one.
pub async fn watch(tenants: Arc<Tenants>) {
    if !tenants.has_file() {
        return;
    }
    let mut complaint = None;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let shared = Arc::clone(&tenants);
        let Ok(reloaded) = tokio::task::spawn_blocking(move || shared.reload()).await else {
            // The runtime is shutting down.
            return;
        };
        match reloaded {
            Ok(true) => tracing::info!(tenants = tenants.all().len(), "the keys file was reloaded"),
            Err(error) if complaint.as_ref() != Some(&error) => {
                tracing::error!(%error, "the keys file is wrong: the keys stay as they were");
                complaint = Some(error);
                continue;
            }
            Err(_) => continue,
            Ok(false) => {}
        }
        complaint = None;
    }
}
