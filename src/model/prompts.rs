//! What an encoder was trained to see before its texts: the prompts of a sentence-transformers folder.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::source::ModelFiles;
use crate::error::{Error, ModelError};
use crate::request::{PromptChoice, Purpose};

const FILE: &str = "config_sentence_transformers.json";

/// The prompts of a model by name, and the one that it wants where nobody chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompts {
    by_name: BTreeMap<String, String>,
    default: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    prompts: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

impl Prompts {
    /// None, where the folder has no such file.
    ///
    /// # Errors
    /// A file that is broken, or names a default that is not there.
    pub fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        let Some(json) = files.read(FILE)? else { return Ok(Self::default()) };
        let raw: Raw = serde_json::from_slice(&json)
            .map_err(|e| ModelError::invalid(FILE, "prompts", e.to_string()))?;
        let prompts = raw.prompts.unwrap_or_default().into_iter();
        let by_name: BTreeMap<String, String> =
            prompts.map(|(name, prompt)| (name, prompt.unwrap_or_default())).collect();
        let default = raw.default_prompt_name;
        if let Some(name) = default.as_ref().filter(|name| !by_name.contains_key(*name)) {
            let message = format!("is '{name}', which is none of the prompts");
            return Err(ModelError::invalid(FILE, "default_prompt_name", message));
        }
        Ok(Self { by_name, default })
    }

    /// Whether nothing ever stands before a text.
    pub fn is_empty(&self) -> bool {
        self.by_name.values().all(String::is_empty)
    }

    #[cfg(test)]
    pub fn insert(&mut self, name: &str, prompt: &str) {
        self.by_name.insert(name.to_owned(), prompt.to_owned());
    }

    /// What stands before a text; empty where the model has nothing for it.
    ///
    /// # Errors
    /// A name that the model does not have.
    pub fn choose(&self, choice: &PromptChoice) -> Result<&str, Error> {
        match choice {
            PromptChoice::Default => Ok(self.unasked()),
            PromptChoice::For(purpose) => Ok(self.of(*purpose)),
            PromptChoice::Named(name) => {
                self.by_name.get(name).map(String::as_str).ok_or_else(|| {
                    let names: Vec<_> = self.by_name.keys().map(String::as_str).collect();
                    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                    let message = format!("this model has no prompt '{name}'; it has {has}");
                    Error::invalid("prompt_name", message)
                })
            }
        }
    }

    /// The prompt for a purpose, by the names that sentence-transformers looks for and that models use, or else the
    /// default.
    pub fn of(&self, purpose: Purpose) -> &str {
        let names: &[&str] = match purpose {
            Purpose::Query => &["query", "search_query", "retrieval.query"],
            Purpose::Document => {
                &["document", "passage", "corpus", "search_document", "retrieval.passage"]
            }
            Purpose::Classification => &["classification"],
            Purpose::Clustering => &["clustering", "separation"],
        };
        let find =
            |wanted: &&str| self.by_name.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        names.iter().find_map(find).map_or_else(|| self.unasked(), |(_, prompt)| prompt)
    }

    fn unasked(&self) -> &str {
        self.default.as_ref().map_or("", |name| &self.by_name[name])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Prompts, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), json).unwrap();
        Prompts::read(&ModelFiles::open_folder(folder.path()).unwrap())
    }

    #[test]
    fn a_purpose_finds_its_prompt_by_the_names_that_models_give_it() {
        let prompts =
            read(r#"{"prompts": {"query": "query: ", "passage": "passage: ", "Clustering": "c"}}"#);
        let prompts = prompts.unwrap();
        assert_eq!(prompts.of(Purpose::Query), "query: ");
        assert_eq!(prompts.of(Purpose::Document), "passage: ");
        assert_eq!(prompts.of(Purpose::Clustering), "c");
        assert_eq!(prompts.of(Purpose::Classification), "", "and there is no default");
        assert_eq!(prompts.choose(&PromptChoice::Default), Ok(""));
    }

    #[test]
    fn the_default_stands_in_where_a_purpose_has_none() {
        let json =
            r#"{"prompts": {"web": "web: ", "document": null}, "default_prompt_name": "web"}"#;
        let prompts = read(json).unwrap();
        assert_eq!(prompts.choose(&PromptChoice::Default), Ok("web: "));
        assert_eq!(prompts.of(Purpose::Query), "web: ");
        assert_eq!(prompts.of(Purpose::Document), "", "this one is there, and empty");
    }

    #[test]
    fn a_name_that_is_not_there_hears_of_those_that_are() {
        let prompts = read(r#"{"prompts": {"query": "q: ", "document": ""}}"#).unwrap();
        let named = |name: &str| PromptChoice::Named(name.to_owned());
        assert_eq!(prompts.choose(&named("query")), Ok("q: "));
        let error = prompts.choose(&named("s2p")).unwrap_err();
        assert_eq!(error.field(), Some("prompt_name"));
        assert!(error.to_string().contains("document, query"), "{error}");
        let error = read("{}").unwrap().choose(&named("query")).unwrap_err();
        assert!(error.to_string().contains("it has none"), "{error}");
    }

    #[test]
    fn a_broken_file_is_named() {
        for json in ["{", r#"{"prompts": ["a"]}"#, r#"{"default_prompt_name": "a"}"#] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.starts_with(FILE), "{error}");
        }
    }
}
