//! What an admin's key may do to the models: load, swap, unload.

use http::Request;
use hyper::body::Incoming;

use super::body;
use super::routes::{App, Caller};
use crate::api::{self, Reply, models};
use crate::error::Error;
use crate::tenant::Tenant;

/// A change of the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Load,
    Unload,
}

/// The change that a POST to this path asks for.
pub(super) fn change(path: &str) -> Option<Change> {
    match path.trim_end_matches('/') {
        "/v1/models/load" => Some(Change::Load),
        "/v1/models/unload" => Some(Change::Unload),
        _ => None,
    }
}

/// Answers when the change is made. A load goes on if its client leaves: it cannot be broken off halfway.
pub(super) async fn answer(app: &App, request: Request<Incoming>, caller: Caller) -> Reply {
    let path = request.uri().path().to_owned();
    let change = change(&path).ok_or_else(|| Error::NoRoute(path.clone()));
    let allowed = caller.and_then(|tenant| check(&tenant));
    let reply = match allowed.and(change) {
        Ok(change) => make(app, change, request).await,
        Err(error) => {
            body::discard(request, &app.bodies);
            Err(error)
        }
    };
    reply.unwrap_or_else(|error| api::errors_at(&path, &http::HeaderMap::new()).write(&error, ""))
}

/// A model may be any folder of this machine and any repository of the hub, so whoever may load one acts for the
/// operator. Where there are no keys nobody is known to, wherever the connection comes from: a proxy or a page in a
/// browser connects from this machine, too.
fn check(tenant: &Tenant) -> Result<(), Error> {
    if tenant.is_admin {
        return Ok(());
    }
    let why = "only the key of an admin may change the models: give a tenant 'admin = true' in the \
               keys file";
    Err(Error::Forbidden(why.into()))
}

async fn make(app: &App, change: Change, request: Request<Incoming>) -> Result<Reply, Error> {
    let body = body::read(request, &app.bodies).await?;
    let Some(loader) = app.loader.clone() else {
        return Err(Error::NotSupported("the models of this server stay as they are".into()));
    };
    let work = move || match change {
        Change::Load => {
            let loaded = loader.load_for(models::load(&body.bytes)?)?;
            Ok(models::loaded(&loaded.facts, loaded.memory_bytes, loaded.has_replaced))
        }
        Change::Unload => {
            let name = models::unload(&body.bytes)?;
            loader.unload(&name)?;
            Ok(models::unloaded(&name))
        }
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| Error::Internal(panic.to_string()))?
}
