//! What each path answers. Scoring paths are `api`'s to recognise; the others are listed here.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use uuid::Uuid;

use super::account::Account;
use super::body::{self, Body};
use crate::api::info::{self, ModelFacts, ServerFacts};
use crate::api::usage::{self, UsageFacts};
use crate::api::{self, Call, Dialect, ErrorDialect, Parsed, Rejected, Reply};
use crate::clock;
use crate::error::Error;
use crate::health::{Health, State};
use crate::metrics::{self, Load, Metrics};
use crate::request::{Answer, Stamps};
use crate::rerank::{self, Service};
use crate::tenant::{Tenant, Tenants};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Bodies above this are parsed on a thread that may block: 256 KiB of JSON take about a millisecond.
const PARSE_INLINE_BYTES: usize = 256 * 1024;

/// Replies of more numbers are written on such a thread: so many take about a millisecond.
const WRITE_INLINE_VALUES: usize = 16 * 1024;

/// What a component of a vector takes, as an f32 and as digits.
const BYTES_PER_VALUE: usize = 18;

/// All that answering a request needs.
#[derive(Debug)]
pub(super) struct App {
    /// Empty while the model loads.
    pub(super) serving: Arc<OnceLock<Serving>>,
    pub(super) server: ServerFacts,
    pub(super) limits: api::Limits,
    pub(super) tenants: Arc<Tenants>,
    pub(super) bodies: body::Bounds,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
}

/// A loaded model and what it says of itself.
#[derive(Debug)]
pub struct Serving {
    pub service: Service,
    pub model: ModelFacts,
}

impl App {
    fn serving(&self) -> Result<&Serving, Error> {
        self.serving.get().ok_or_else(|| rerank::unavailable(State::Starting))
    }

    /// Whether the model gives vectors, and no labels.
    fn prefers_vectors(&self) -> bool {
        self.serving.get().is_some_and(|serving| serving.model.pooling.is_some())
    }

    /// The models a tenant may use.
    fn models(&self, tenant: &Tenant) -> &[ModelFacts] {
        match self.serving.get() {
            Some(Serving { model, .. })
                if tenant.may_use(|allowed| info::names(model).any(|name| name == allowed)) =>
            {
                std::slice::from_ref(model)
            }
            _ => &[],
        }
    }

    /// Whoever may scrape sees the server; an admin's key sees its tenants too.
    fn metrics_page(&self, caller: &Caller) -> String {
        let load = self.serving.get().map(|serving| serving.service.load()).unwrap_or_default();
        let load = Load { body_bytes: self.bodies.budget.num_bytes(), ..load };
        let mut text = self.metrics.render(load, self.health.is_ready());
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
type Caller = Result<Arc<Tenant>, Error>;

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
                _ => info::models(app.models(tenant)),
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
    match (app.serving(), app.models(tenant)) {
        (Ok(_), [model, ..]) => info::info(model, &app.server),
        (Ok(_), []) => {
            let error = Error::Forbidden("this API key may not use the model here".into());
            api::errors_at(path, &http::HeaderMap::new()).write(&error, "")
        }
        (Err(error), _) => info::unhealthy(&error),
    }
}

fn model(app: &App, path: &str, name: &str, tenant: &Tenant) -> Reply {
    let models = app.models(tenant);
    info::model(models, name).unwrap_or_else(|| {
        let served = models.first().map_or_else(String::new, |model| model.name.clone());
        let error = Error::UnknownModel { name: name.to_owned(), served };
        api::errors_at(path, &http::HeaderMap::new()).write(&error, "")
    })
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
    let mut account = Account::open(&app.metrics);
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
    let limits = api::Limits { prefers_vectors: app.prefers_vectors(), ..app.limits };
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
    let service = match app.serving() {
        Ok(serving) => &serving.service,
        Err(error) => return refuse(account, error),
    };
    match call {
        Call::Rerank(request, dialect) => match service.rerank(request, stamps, &tenant).await {
            Ok(response) => accept(account, &*dialect, &response, &tenant.name),
            Err(error) => refuse(account, error),
        },
        Call::Embed(request, dialect) => {
            // Vectors are larger than the texts they are of.
            let reply_bytes = service.num_values(&request) * BYTES_PER_VALUE;
            let _held = match app.bodies.budget.take_for_reply(reply_bytes) {
                Ok(held) => held,
                Err(error) => return refuse(account, error),
            };
            match service.embed(request, stamps, &tenant).await {
                Ok(response) => accept(account, &*dialect, &response, &tenant.name),
                Err(error) => refuse(account, error),
            }
        }
    }
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
