//! The models of a server, and which of them a request gets.

use std::sync::Arc;

use super::{Service, unavailable};
use crate::api::info::ModelFacts;
use crate::error::Error;
use crate::health::State;
use crate::metrics::Load;
use crate::model::registry::{NameTaken, Names, Registry};
use crate::request::{RerankRequest, RerankResponse, Stamps};
use crate::tenant::Tenant;

/// A model and what it says of itself.
#[derive(Debug)]
pub struct Serving {
    pub service: Service,
    pub facts: ModelFacts,
}

/// All models of a server; empty while the first is loading.
#[derive(Debug)]
pub struct Models {
    registry: Registry<Serving>,
}

impl Models {
    /// With `is_strict`, a name that no model has is an error; else the first model is served for it.
    pub fn new(is_strict: bool) -> Self {
        Self { registry: Registry::new(is_strict) }
    }

    /// Adds a model, or puts it in the place of the one of its name.
    ///
    /// # Errors
    /// Another model has one of its names.
    pub fn put(&self, serving: Serving) -> Result<(), NameTaken> {
        let ModelFacts { name, aliases, .. } = &serving.facts;
        let names = Names { served: name.clone(), aliases: aliases.clone() };
        self.registry.put(names, Arc::new(serving)).map(drop)
    }

    /// The model that a request of this tenant means.
    ///
    /// # Errors
    /// There is none yet, none of this name, or none that the tenant may use.
    pub fn resolve(&self, asked: Option<&str>, tenant: &Tenant) -> Result<Arc<Serving>, Error> {
        let found = self.registry.resolve(asked, |names| tenant.may_use(names))?;
        found.ok_or_else(|| unavailable(State::Starting))
    }

    /// Scores a request with the model it means; see [`Service::rerank`].
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
        serving.service.rerank(request, stamps, tenant).await
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
        let loads = all.iter().map(|entry| entry.model.service.load());
        loads.reduce(Load::beside).unwrap_or_default()
    }
}
