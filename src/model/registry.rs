//! Which model a request means.

use crate::error::Error;

/// The name a model is served under, and the names that stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub served: String,
    /// So that a client written for `rerank-v3.5` needs no change.
    pub aliases: Vec<String>,
    /// Whether a name that is neither is an error; peers differ, so the operator chooses.
    pub strict: bool,
}

impl Names {
    /// The served name behind the one a client asked for.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] in strict mode.
    pub fn resolve(&self, asked: Option<&str>) -> Result<&str, Error> {
        match asked {
            Some(name) if self.strict && !self.has(name) => {
                Err(Error::UnknownModel { name: name.to_owned(), served: self.list().join(", ") })
            }
            _ => Ok(&self.served),
        }
    }

    /// Whether this is one of the names.
    pub fn has(&self, name: &str) -> bool {
        name == self.served || self.aliases.iter().any(|alias| alias == name)
    }

    fn list(&self) -> Vec<&str> {
        std::iter::once(&self.served).chain(&self.aliases).map(String::as_str).collect()
    }
}
