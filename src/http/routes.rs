//! What each path answers. Scoring paths are `api`'s to recognise; the others are listed here.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::account::Account;
use super::admin;
use super::body::{self, Body};
use crate::api::info::{self, ModelFacts, ServerFacts};
use crate::api::usage::{self, UsageFacts};
use crate::api::{self, Call, Dialect, ErrorDialect, Parsed, Rejected, Reply};
use crate::clock;
use crate::error::Error;
use crate::health::{Health, State};
use crate::metrics::{self, Load, Metrics};
use crate::request::{Answer, EmbedRequest, EmbedResponse, Stamps};
use crate::rerank::{self, Loader, Models, Serving};
use crate::tenant::{Tenant, Tenants};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// A cascade answered without its second model.
const DEGRADED: HeaderName = HeaderName::from_static("x-rerank-degraded");

/// Bodies above this are parsed on a thread that may block: 256 KiB of JSON take about a millisecond.
const PARSE_INLINE_BYTES: usize = 256 * 1024;

/// Replies of more numbers are written on such a thread: so many take about a millisecond.
const WRITE_INLINE_VALUES: usize = 16 * 1024;

/// What a component of a vector takes, as an f32 and as digits.
const BYTES_PER_VALUE: usize = 18;

/// All that answering a request needs.
#[derive(Debug)]
pub(super) struct App {
    /// Empty while the first is loading.
    pub(super) models: Arc<Models>,
    pub(super) loader: Option<Arc<Loader>>,
    pub(super) server: ServerFacts,
    pub(super) limits: api::Limits,
    pub(super) tenants: Arc<Tenants>,
    pub(super) bodies: body::Bounds,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
}

impl App {
    /// Whoever may scrape sees the server; an admin's key sees its tenants too.
    fn metrics_page(&self, caller: &Caller) -> String {
        let load = Load { body_bytes: self.bodies.budget.num_bytes(), ..self.models.load() };
        let mut text = self.metrics.render(load, self.health.is_ready());
        text += &metrics::model_page(&self.models.states());
        if caller.as_ref().is_ok_and(|tenant| tenant.is_admin) {
            let all = self.tenants.all();
            let counts = all.iter().map(|tenant| (tenant.name.clone(), tenant.counts()));
            text += &metrics::tenant_page(&counts.collect::<Vec<_>>());
        }
        text
    }

    /// What the caller has used; of everybody, if it may see that.
    fn usage(&self, caller: &Tenant) -> Reply {
        let facts =
            |tenant: &Tenant| UsageFacts { tenant: tenant.name.clone(), counts: tenant.counts() };
        let since = self.server.started_unix_seconds;
        if caller.is_admin {
            let all = self.tenants.all();
            usage::all(&all.iter().map(|tenant| facts(tenant)).collect::<Vec<_>>(), since)
        } else {
            usage::own(&facts(caller), since)
        }
    }
}

/// Whose key came with the request, or why none counts.
pub(super) type Caller = Result<Arc<Tenant>, Error>;

/// Answers one request.
pub(super) async fn handle(app: Arc<App>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let received = clock::now();
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let caller = app.tenants.find(api::credentials(request.headers()));
    let (route, reply) = match method {
        Method::GET | Method::HEAD => (side_route(&path), side_call(&app, &method, &path, &caller)),
        Method::POST if api::route(&path).is_some() => {
            ("score", score(&app, request, &path, Stamps::at(received), caller).await)
        }
        Method::POST if admin::change(&path).is_some() => {
            ("models", admin::answer(&app, request, caller).await)
        }
        Method::POST if path == "/v1/check-api-key" => ("info", info::api_key(caller.is_ok())),
        _ => ("none", nowhere(&request, &path)),
    };
    app.metrics.answered(route, reply.status.as_u16());
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

/// Which group of side calls a path counts as in the metrics.
fn side_route(path: &str) -> &'static str {
    match path {
        "/metrics" => "metrics",
        "/info" | "/version" | "/v1/usage" => "info",
        _ if path.starts_with("/v1/models") => "info",
        _ => "health",
    }
}

/// Probes, metrics and the version are for everybody; the rest is for those with a key.
fn side_call(app: &App, method: &Method, path: &str, caller: &Caller) -> Reply {
    let trimmed = path.trim_end_matches('/');
    match trimmed {
        // Live: the process answers. A restart would not help a model that is still loading.
        "/live" | "/livez" | "/v1/health/live" | "/v2/health/live" => info::healthy(),
        "/.well-known/live" => no_content(),
        "/.well-known/ready" => ready(app, no_content),
        "" | "/health" | "/healthz" | "/ping" | "/ready" | "/readyz" | "/v1/health/ready"
        | "/v2/health/ready" => ready(app, info::healthy),
        "/version" => info::version(&app.server),
        "/metrics" => page("text/plain; version=0.0.4", app.metrics_page(caller)),
        "/info" | "/v1/models" | "/models" | "/v1/usage" => {
            keyed(path, caller, |tenant| match trimmed {
                "/info" => about(app, path, tenant),
                "/v1/usage" => app.usage(tenant),
                _ => info::models(&facts(&app.models.usable(tenant))),
            })
        }
        _ => match trimmed.strip_prefix("/v1/models/") {
            Some(name) => keyed(path, caller, |tenant| model(app, path, name, tenant)),
            None if api::route(path).is_some() => {
                let error = Error::Method { method: method.to_string(), path: path.to_owned() };
                api::errors_at(path, &http::HeaderMap::new()).write(&error, "")
            }
            None => no_route(path),
        },
    }
}

fn ready(app: &App, well: impl Fn() -> Reply) -> Reply {
    match app.health.state() {
        State::Ready => well(),
        state => info::unhealthy(&rerank::unavailable(state)),
    }
}

/// What only a caller with a key gets.
fn keyed(path: &str, caller: &Caller, reply: impl FnOnce(&Tenant) -> Reply) -> Reply {
    match caller {
        Ok(tenant) => reply(tenant),
        Err(error) => api::errors_at(path, &http::HeaderMap::new()).write(error, ""),
    }
}

fn about(app: &App, path: &str, tenant: &Tenant) -> Reply {
    match app.models.resolve(None, tenant) {
        Ok(serving) => info::info(&serving.facts, &app.server),
        Err(error @ Error::Unavailable { .. }) => info::unhealthy(&error),
        Err(error) => api::errors_at(path, &http::HeaderMap::new()).write(&error, ""),
    }
}

fn model(app: &App, path: &str, name: &str, tenant: &Tenant) -> Reply {
    let models = app.models.usable(tenant);
    let models = facts(&models);
    info::model(&models, name).unwrap_or_else(|| {
        let served: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
        let served = served.join(", ");
        let error = Error::UnknownModel { name: name.to_owned(), served };
        api::errors_at(path, &http::HeaderMap::new()).write(&error, "")
    })
}

fn facts(models: &[Arc<Serving>]) -> Vec<&ModelFacts> {
    models.iter().map(|serving| &serving.facts).collect()
}

fn nowhere(request: &Request<Incoming>, path: &str) -> Reply {
    if api::route(path).is_none() {
        return no_route(path);
    }
    let error = Error::Method { method: request.method().to_string(), path: path.to_owned() };
    api::errors_at(path, request.headers()).write(&error, "")
}

fn no_route(path: &str) -> Reply {
    api::errors_at(path, &http::HeaderMap::new()).write(&Error::NoRoute(path.to_owned()), "")
}

fn no_content() -> Reply {
    let headers = http::HeaderMap::new();
    Reply { status: StatusCode::NO_CONTENT, headers, body: Vec::new() }
}

fn page(content_type: &'static str, text: String) -> Reply {
    let mut headers = http::HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Reply { status: StatusCode::OK, headers, body: text.into_bytes() }
}

/// A scoring request, from its head to its reply in its own dialect.
async fn score(
    app: &App,
    request: Request<Incoming>,
    path: &str,
    mut stamps: Stamps,
    caller: Caller,
) -> Reply {
    let mut account = Account::open(&app.metrics, stamps.received);
    let headers = request.headers().clone();
    let fallback_id = Uuid::new_v4().to_string();
    // The bytes are held as long as the texts made of them.
    let (tenant, Body { bytes, held: _held }) = match read(app, request, caller, &mut account).await
    {
        Ok(read) => read,
        Err(error) => {
            return refuse(account, api::errors_at(path, &headers), &error, &fallback_id);
        }
    };
    let incoming = api::Incoming {
        path,
        headers: &headers,
        body: &bytes,
        fallback_id: &fallback_id,
        unix_seconds: clock::unix_seconds(),
    };
    let limits = api::Limits { prefers_vectors: app.models.only_embed(&tenant), ..app.limits };
    let parse = || api::parse(&incoming, &limits);
    let parsed =
        if bytes.len() > PARSE_INLINE_BYTES { tokio::task::block_in_place(parse) } else { parse() };
    let Parsed { call, errors } = match parsed {
        Ok(parsed) => parsed,
        Err(Rejected { error, errors, request_id }) => {
            return refuse(account, errors, &error, &request_id);
        }
    };
    drop(bytes);
    stamps.parsed = clock::now();
    let id = call.id().to_owned();
    let refuse = |account, error| refuse(account, errors, &error, &id);
    match call {
        Call::Rerank(request, dialect) => match app.models.rerank(request, stamps, &tenant).await {
            Ok(response) => accept(account, &*dialect, &response, &tenant.name),
            Err(error) => refuse(account, error),
        },
        Call::Embed(request, dialect) => match embed(app, request, stamps, &tenant).await {
            Ok((response, _held)) => accept(account, &*dialect, &response, &tenant.name),
            Err(error) => refuse(account, error),
        },
    }
}

/// The vectors of a request, and room for an answer of them: it is larger than the texts.
async fn embed(
    app: &App,
    request: EmbedRequest,
    stamps: Stamps,
    tenant: &Tenant,
) -> Result<(EmbedResponse, OwnedSemaphorePermit), Error> {
    let asked = request.model.as_deref();
    let serving = app.models.embedder(asked, request.of_tokens, tenant)?;
    let reply_bytes = serving.num_values(&request) * BYTES_PER_VALUE;
    let held = app.bodies.budget.take_for_reply(reply_bytes)?;
    Ok((serving.embed(request, stamps, tenant).await?, held))
}

/// The body of a request whose key is known. Of strangers none is looked at, so their refusal is in the dialect
/// of the path.
async fn read(
    app: &App,
    request: Request<Incoming>,
    caller: Caller,
    account: &mut Account<'_>,
) -> Result<(Arc<Tenant>, Body), Error> {
    match caller {
        Ok(tenant) => {
            account.belongs_to(&tenant);
            let body = body::read(request, &app.bodies).await?;
            Ok((tenant, body))
        }
        Err(error) => {
            body::discard(request, &app.bodies);
            Err(error)
        }
    }
}

fn accept<R: Answer>(
    account: Account<'_>,
    dialect: &dyn Dialect<R>,
    response: &R,
    tenant: &str,
) -> Reply {
    let tally = response.tally();
    account.answered(&tally);
    let write = || dialect.reply(response);
    let mut reply = if tally.num_values > WRITE_INLINE_VALUES {
        tokio::task::block_in_place(write)
    } else {
        write()
    };
    let stages = tally.stamps.stages();
    let mut timing = String::with_capacity(120);
    for (stage, took) in stages {
        let comma = if timing.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(timing, "{comma}{stage};dur={:.3}", took.as_secs_f64() * 1e3);
    }
    tracing::info!(
        request_id = tally.id,
        tenant,
        model = tally.model,
        documents = tally.num_texts,
        tokens = tally.prompt_tokens,
        timing,
        "scored"
    );
    insert(&mut reply, SERVER_TIMING, &timing);
    if tally.is_degraded {
        insert(&mut reply, DEGRADED, "first-model-only");
    }
    insert(&mut reply, REQUEST_ID, tally.id);
    reply
}

fn refuse(account: Account<'_>, errors: ErrorDialect, error: &Error, request_id: &str) -> Reply {
    account.refused(error);
    let mut reply = errors.write(error, request_id);
    let status = reply.status.as_u16();
    if status >= 500 {
        tracing::warn!(request_id, status, error = %error, "refused");
    } else {
        tracing::info!(request_id, status, error = %error, "refused");
    }
    insert(&mut reply, REQUEST_ID, request_id);
    reply
}

/// Adds a header; a value that no header may hold is left out.
fn insert(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers.insert(name, value);
    }
}
