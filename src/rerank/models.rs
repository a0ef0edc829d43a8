//! The models of a server, and which of them a request gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::Reservation;
use super::{Cascade, InFlight, Service, unavailable};
use crate::api::info::ModelFacts;
use crate::clock;
use crate::error::Error;
use crate::health::State;
use crate::metrics::{Load, Metrics, ModelState};
use crate::model::registry::{NameTaken, Names, Registry};
use crate::request::{Answer, RerankRequest, RerankResponse, Stamps, Tally};
use crate::tenant::Tenant;

/// A model and what it says of itself.
#[derive(Debug)]
pub struct Serving {
    pub(super) scoring: Scoring,
    pub facts: ModelFacts,
    /// Given back after the model's threads have ended; a cascade has none of its own.
    pub(super) memory: Option<Reservation>,
    pub(super) counts: Counts,
}

/// Answered since the model was loaded.
#[derive(Debug, Default)]
pub(super) struct Counts {
    requests: AtomicU64,
    documents: AtomicU64,
    tokens: AtomicU64,
}

/// What scores.
#[derive(Debug)]
pub(super) enum Scoring {
    Model(Box<Service>),
    Cascade(Cascade),
}

impl Serving {
    pub(super) fn new(scoring: Scoring, facts: ModelFacts, memory: Option<Reservation>) -> Self {
        Self { scoring, facts, memory, counts: Counts::default() }
    }

    /// The model itself; `None` for a cascade of others.
    pub fn service(&self) -> Option<&Service> {
        match &self.scoring {
            Scoring::Model(service) => Some(service),
            Scoring::Cascade(_) => None,
        }
    }

    pub(super) fn load(&self) -> Load {
        self.service().map(Service::load).unwrap_or_default()
    }

    fn is_part(&self, name: &str) -> bool {
        matches!(&self.scoring, Scoring::Cascade(cascade) if cascade.has_part(name))
    }
}

/// All models of a server; empty while the first is loading.
#[derive(Debug)]
pub struct Models {
    registry: Registry<Serving>,
    metrics: Arc<Metrics>,
}

impl Models {
    /// With `is_strict`, a name that no model has is an error; else the first model is served for it.
    pub fn new(is_strict: bool, metrics: Arc<Metrics>) -> Self {
        Self { registry: Registry::new(is_strict), metrics }
    }

    /// Adds a model, or puts it in the place of the one of its name, which is given back. One of a new name goes
    /// before those from `place` on.
    pub(super) fn put_at(
        &self,
        place: usize,
        serving: Serving,
    ) -> Result<Option<Arc<Serving>>, NameTaken> {
        let ModelFacts { name, aliases, .. } = &serving.facts;
        let names = Names { served: name.clone(), aliases: aliases.clone() };
        self.registry.put(place, names, Arc::new(serving))
    }

    /// Whether a model of these names could be put.
    pub(super) fn check_names(&self, names: &Names) -> Result<(), NameTaken> {
        self.registry.check(names)
    }

    /// The aliases of the model that is served under this name.
    pub(super) fn aliases_of(&self, name: &str) -> Option<Vec<String>> {
        let all = self.registry.all();
        let entry = all.iter().find(|entry| entry.names.served == name)?;
        Some(entry.names.aliases.clone())
    }

    /// Takes a model away. Not the first, for which everybody is served who names none, and no part of a cascade.
    pub(super) fn take(&self, name: &str) -> Result<Arc<Serving>, Error> {
        let all = self.registry.all();
        let conflict = |why: String| Err(Error::Conflict(format!("'{name}' {why}")));
        if all.first().is_some_and(|entry| entry.names.served == name) {
            return conflict("is the default model: load another in its place".into());
        }
        if let Some(entry) = all.iter().find(|entry| entry.model.is_part(name)) {
            return conflict(format!("is part of the cascade '{}'", entry.names.served));
        }
        drop(all);
        self.registry.remove(name)
    }

    /// The model that is served under exactly this name, whoever asks.
    pub(super) fn named(&self, name: &str) -> Result<Arc<Serving>, Error> {
        let all = self.registry.all();
        let entry = all.iter().find(|entry| entry.names.served == name);
        entry.map(|entry| Arc::clone(&entry.model)).ok_or_else(|| unavailable(State::Starting))
    }

    /// The model that a request of this tenant means.
    ///
    /// # Errors
    /// There is none yet, none of this name, or none that the tenant may use.
    pub fn resolve(&self, asked: Option<&str>, tenant: &Tenant) -> Result<Arc<Serving>, Error> {
        // Vectors can be compared, but a model made for it ranks better.
        self.resolve_for(asked, tenant, |serving| !serving.gives_vectors())
    }

    /// The same; where no name tells, the first that is fit, if one is.
    pub(super) fn resolve_for(
        &self,
        asked: Option<&str>,
        tenant: &Tenant,
        is_fit: impl Fn(&Serving) -> bool,
    ) -> Result<Arc<Serving>, Error> {
        let found = self.registry.resolve(asked, |names| tenant.may_use(names), is_fit)?;
        found.ok_or_else(|| unavailable(State::Starting))
    }

    /// Scores a request with the model it means: admitted whole, answered whole, and cancelled whole when the caller
    /// drops this future. `stamps` knows when it was received and parsed.
    ///
    /// # Errors
    /// As for [`Self::resolve`], and every kind of [`Error`] that concerns a request that could be read.
    pub async fn rerank(
        &self,
        request: RerankRequest,
        stamps: Stamps,
        tenant: &Tenant,
    ) -> Result<RerankResponse, Error> {
        let serving = self.resolve(request.model.as_deref(), tenant)?;
        let response = match &serving.scoring {
            Scoring::Model(service) => service.rerank(request, stamps, tenant).await?,
            Scoring::Cascade(cascade) => {
                let _in_flight = InFlight::begin(&self.metrics);
                let name = &serving.facts.name;
                let response = cascade.rerank(name, self, request, stamps, tenant).await?;
                let took = clock::now().saturating_duration_since(stamps.received);
                self.metrics.scored(&response.tally(), took);
                response
            }
        };
        serving.counts.count(&response.tally());
        Ok(response)
    }

    /// The models a tenant may use.
    pub fn usable(&self, tenant: &Tenant) -> Vec<Arc<Serving>> {
        let all = self.registry.all();
        let usable = all.iter().filter(|entry| tenant.may_use(&entry.names));
        usable.map(|entry| Arc::clone(&entry.model)).collect()
    }

    /// What waits for all models together.
    pub fn load(&self) -> Load {
        let all = self.registry.all();
        all.iter().map(|entry| entry.model.load()).reduce(Load::beside).unwrap_or_default()
    }

    /// What each has done and holds.
    pub fn states(&self) -> Vec<ModelState> {
        let all = self.registry.all();
        let state = |serving: &Serving| ModelState {
            name: serving.facts.name.clone(),
            requests: serving.counts.requests.load(Ordering::Relaxed),
            documents: serving.counts.documents.load(Ordering::Relaxed),
            tokens: serving.counts.tokens.load(Ordering::Relaxed),
            load: serving.load(),
            memory_bytes: serving.memory.as_ref().map_or(0, Reservation::num_bytes),
        };
        all.iter().map(|entry| state(&entry.model)).collect()
    }
}

impl Counts {
    pub(super) fn count(&self, tally: &Tally<'_>) {
        let add = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        add(&self.requests, 1);
        add(&self.documents, tally.num_texts);
        add(&self.tokens, tally.prompt_tokens);
    }
}
