//! Which models there are, and which one a request means.
//!
//! The registry knows names only: what stands behind one is the caller's.

use std::sync::{Arc, PoisonError, RwLock};

use crate::error::Error;

/// The name a model is served under, and the names that stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub served: String,
    /// So that a client written for `rerank-v3.5` needs no change.
    pub aliases: Vec<String>,
}

impl Names {
    /// Whether this is one of the names.
    pub fn has(&self, name: &str) -> bool {
        self.all().any(|own| own == name)
    }

    /// The served name first.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.served).chain(&self.aliases).map(String::as_str)
    }
}

/// A model and its names.
#[derive(Debug)]
pub struct Entry<M> {
    pub names: Names,
    pub model: Arc<M>,
}

/// The models of a server. The first that is fit is the one that is served when none is asked for by name.
///
/// The table is replaced as a whole, so a request that resolved a name keeps its model however the table changes.
#[derive(Debug)]
pub struct Registry<M> {
    table: RwLock<Arc<Vec<Entry<M>>>>,
    /// Whether a name that no model has is an error; peers differ, so the operator chooses.
    is_strict: bool,
}

impl<M> Registry<M> {
    pub fn new(is_strict: bool) -> Self {
        Self { table: RwLock::default(), is_strict }
    }

    /// The models as they are now, in the order in which they came.
    pub fn all(&self) -> Arc<Vec<Entry<M>>> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The model that a request means, of those its tenant may use; `None` while there is no model at all. Where no
    /// name tells, it is the first that `is_fit` for what is asked, or the first.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] for a name that no model has, in strict mode; [`Error::Forbidden`] for one that the
    /// tenant may not use.
    pub fn resolve(
        &self,
        asked: Option<&str>,
        may_use: impl Fn(&Names) -> bool,
        is_fit: impl Fn(&M) -> bool,
    ) -> Result<Option<Arc<M>>, Error> {
        let table = self.all();
        if table.is_empty() {
            return Ok(None);
        }
        let usable = || table.iter().filter(|entry| may_use(&entry.names));
        let first = || usable().find(|entry| is_fit(&entry.model)).or_else(|| usable().next());
        let found = match asked {
            Some(name) => match table.iter().find(|entry| entry.names.has(name)) {
                Some(entry) => Some(entry).filter(|entry| may_use(&entry.names)),
                None if self.is_strict => {
                    let served: Vec<_> = usable().flat_map(|entry| entry.names.all()).collect();
                    return Err(unknown(name, &served));
                }
                None => first(),
            },
            None => first(),
        };
        let forbidden = || Error::Forbidden("this API key may not use the model".into());
        Ok(Some(Arc::clone(&found.ok_or_else(forbidden)?.model)))
    }

    /// Whether a model of these names could be put.
    ///
    /// # Errors
    /// Another model has one of them.
    pub fn check(&self, names: &Names) -> Result<(), NameTaken> {
        check(&self.all(), names)
    }

    /// Takes a model away: requests that came before still use it.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] if none is served under this name; an alias is not enough.
    pub fn remove(&self, served: &str) -> Result<Arc<M>, Error> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<_> = table.iter().map(Entry::shared).collect();
        let Some(place) = entries.iter().position(|entry| entry.names.served == served) else {
            let names: Vec<_> = entries.iter().map(|entry| entry.names.served.as_str()).collect();
            return Err(unknown(served, &names));
        };
        let removed = entries.remove(place).model;
        *table = Arc::new(entries);
        Ok(removed)
    }

    /// Adds a model, or puts it in the place of the one that is served under its name, which is given back: requests
    /// that came before still use it. One of a new name goes before those from `place` on.
    ///
    /// # Errors
    /// Another model has one of the names.
    pub fn put(
        &self,
        place: usize,
        names: Names,
        model: Arc<M>,
    ) -> Result<Option<Arc<M>>, NameTaken> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        check(&table, &names)?;
        let mut entries: Vec<_> = table.iter().map(Entry::shared).collect();
        let old = entries.iter().position(|entry| entry.names.served == names.served);
        let old = match old {
            Some(i) => Some(std::mem::replace(&mut entries[i], Entry { names, model }).model),
            None => {
                entries.insert(place.min(entries.len()), Entry { names, model });
                None
            }
        };
        *table = Arc::new(entries);
        Ok(old)
    }
}

/// Whether no other model has one of the names.
fn check<M>(table: &[Entry<M>], names: &Names) -> Result<(), NameTaken> {
    let others = || table.iter().filter(|entry| entry.names.served != names.served);
    match names.all().find(|name| others().any(|entry| entry.names.has(name))) {
        Some(name) => Err(NameTaken(name.to_owned())),
        None => Ok(()),
    }
}

impl<M> Entry<M> {
    fn shared(&self) -> Self {
        Self { names: self.names.clone(), model: Arc::clone(&self.model) }
    }
}

/// A name that another model has already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another model has the name '{0}' already")]
pub struct NameTaken(pub String);

fn unknown(name: &str, served: &[&str]) -> Error {
    Error::UnknownModel { name: name.to_owned(), served: served.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(served: &str, aliases: &[&str]) -> Names {
        let aliases = aliases.iter().map(|&alias| alias.to_owned()).collect();
        Names { served: served.into(), aliases }
    }

    fn registry(is_strict: bool) -> Registry<u32> {
        let registry = Registry::new(is_strict);
        registry.put(usize::MAX, names("small", &["rerank-v3.5"]), Arc::new(1)).unwrap();
        registry.put(usize::MAX, names("large", &[]), Arc::new(2)).unwrap();
        registry
    }

    #[test]
    fn a_request_gets_the_model_it_names_and_else_the_first() {
        let registry = registry(false);
        for (asked, expected) in [
            (None, 1),
            (Some("small"), 1),
            (Some("rerank-v3.5"), 1),
            (Some("large"), 2),
            (Some("gpt"), 1),
        ] {
            assert_eq!(
                *registry.resolve(asked, |_| true, |_| true).unwrap().unwrap(),
                expected,
                "{asked:?}"
            );
        }
    }

    #[test]
    fn where_no_name_tells_it_is_the_first_that_is_fit() {
        let registry = registry(false);
        let resolve =
            |asked, fit| *registry.resolve(asked, |_| true, |m| *m == fit).unwrap().unwrap();
        assert_eq!(resolve(None, 2), 2);
        assert_eq!(resolve(Some("gpt"), 2), 2);
        assert_eq!(resolve(Some("small"), 2), 1, "a name tells");
        assert_eq!(resolve(None, 3), 1, "unfit, but there is no other");
    }

    #[test]
    fn a_strict_server_names_what_it_has_to_those_who_may_use_it() {
        let registry = registry(true);
        let error = registry.resolve(Some("gpt"), |_| true, |_| true).unwrap_err().to_string();
        assert!(error.ends_with("small, rerank-v3.5, large"), "{error}");
        let error =
            registry.resolve(Some("gpt"), |names| names.has("large"), |_| true).unwrap_err();
        assert!(error.to_string().ends_with("has: large"), "{error}");
    }

    #[test]
    fn a_tenant_is_served_the_first_model_that_it_may_use() {
        let registry = registry(false);
        let may_use = |names: &Names| names.has("large");
        assert_eq!(*registry.resolve(None, may_use, |_| true).unwrap().unwrap(), 2);
        assert_eq!(*registry.resolve(Some("gpt"), may_use, |_| true).unwrap().unwrap(), 2);
        let error = registry.resolve(Some("small"), may_use, |_| true).unwrap_err();
        assert_eq!(error.verdict().status, 403);
        assert_eq!(registry.resolve(None, |_| false, |_| true).unwrap_err().verdict().status, 403);
    }

    #[test]
    fn a_model_takes_the_place_of_the_one_under_its_name_and_no_other() {
        let registry = registry(false);
        let before = registry.resolve(None, |_| true, |_| true).unwrap().unwrap();
        let old = registry.put(usize::MAX, names("small", &["a"]), Arc::new(3)).unwrap();
        assert_eq!((old.as_deref(), *before), (Some(&1), 1));
        assert_eq!(
            *registry.resolve(None, |_| true, |_| true).unwrap().unwrap(),
            3,
            "it is still the first"
        );
        let taken = registry.put(usize::MAX, names("other", &["a"]), Arc::new(4));
        assert_eq!(taken, Err(NameTaken("a".into())));
        assert_eq!(*registry.remove("large").unwrap(), 2);
        assert!(registry.remove("a").is_err(), "an alias is not enough");
    }
}
