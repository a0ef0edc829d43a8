//! A repository of the Hugging Face hub, through the cache it shares with every other tool.

mod cache;
mod client;
mod download;
mod failure;
pub(super) mod listing;
pub(super) mod options;
mod wanted;

use std::collections::BTreeSet;

use cache::Cache;
use client::{Client, Revision, is_commit};
use failure::{Failure, Retries};
use options::HubOptions;

use super::files::{ModelFiles, Weights, check_name, find_weights, list, shards};
use super::folder;
use crate::error::ModelError;

/// Makes every file that the model needs readable from the cache, fetching what is not there.
///
/// A branch or tag is looked up once; the files are then all of the commit that it was at.
pub(super) fn open(
    repo_id: &str,
    revision: &str,
    options: &HubOptions,
) -> Result<ModelFiles, ModelError> {
    let repo = Repo { repo_id, revision, options };
    let Some(cache_dir) = &options.cache_dir else {
        return Err(repo.error("no cache folder: set HF_HOME or HF_HUB_CACHE".to_owned()));
    };
    let cache = Cache::new(cache_dir, repo_id);
    let cached =
        if is_commit(revision) { Some(revision.to_owned()) } else { cache.read_ref(revision) };
    if options.offline {
        return repo.open_offline(&cache, cached.as_deref());
    }
    // A commit never changes: if all its files are here, there is nothing to ask.
    if is_commit(revision)
        && is_settled(&cache, revision)
        && whole(repo_id, &cache, revision).is_ok()
    {
        return Ok(repo.snapshot(&cache, revision));
    }
    let client = Client::new(repo_id, options).map_err(|failure| repo.failed(failure))?;
    // With a way out at hand a server's start need not wait for a hub that is down.
    let way_out = cached.filter(|commit| whole(repo_id, &cache, commit).is_ok());
    let retries = if way_out.is_some() { Retries::none() } else { client.retries() };
    match (client.revision(revision, retries), way_out) {
        (Ok(found), _) => repo.download(&client, &cache, &found),
        // A token that ran out must not keep a server from starting again, either.
        (Err(failure @ (Failure::Transient { .. } | Failure::Refused(_))), Some(commit)) => {
            let error = repo.failed(failure);
            tracing::warn!(commit, "{error}; using what the cache has");
            Ok(repo.snapshot(&cache, &commit))
        }
        (Err(failure), _) => Err(repo.failed(failure)),
    }
}

struct Repo<'a> {
    repo_id: &'a str,
    revision: &'a str,
    options: &'a HubOptions,
}

impl Repo<'_> {
    fn open_offline(&self, cache: &Cache, commit: Option<&str>) -> Result<ModelFiles, ModelError> {
        let Some(commit) = commit else {
            return Err(self.error(format!(
                "HF_HUB_OFFLINE is set and the cache has no revision '{}' of it",
                self.revision
            )));
        };
        match whole(self.repo_id, cache, commit) {
            Ok(()) => Ok(self.snapshot(cache, commit)),
            Err(error) => Err(self
                .error(format!("HF_HUB_OFFLINE is set and the cache has not all of it: {error}"))),
        }
    }

    fn snapshot(&self, cache: &Cache, commit: &str) -> ModelFiles {
        ModelFiles::open_snapshot(self.repo_id, commit, cache.snapshot(commit))
    }

    fn download(
        &self,
        client: &Client,
        cache: &Cache,
        found: &Revision,
    ) -> Result<ModelFiles, ModelError> {
        let Revision { commit, files } = found;
        // Both checks need the listing only: no byte is fetched of a model that cannot be loaded.
        let small = wanted::small(self.repo_id, files)?;
        let names: Vec<String> = files.iter().cloned().collect();
        let weights = find_weights(self.repo_id, &names)?;

        let fetch = |file: &str| -> Result<(), ModelError> {
            check_name(file)?;
            download::fetch(client, cache, commit, file).map_err(|failure| self.failed(failure))
        };
        small.iter().try_for_each(|file| fetch(file))?;
        let snapshot = self.snapshot(cache, commit);
        if let Some(modules) = snapshot.read(wanted::MODULES)? {
            let modules = wanted::of_modules(&modules, files)?;
            modules.iter().try_for_each(|file| fetch(file))?;
        }
        match weights {
            Weights::Single(file) => fetch(file)?,
            Weights::Sharded { index } => {
                fetch(index)?;
                let shards = shards(&snapshot.require(index)?)?;
                shards.iter().try_for_each(|file| fetch(file))?;
            }
        }
        if self.revision != commit {
            cache.write_ref(self.revision, commit);
        }
        // Last: these marks tell a later start that nothing of the commit is left to ask for.
        for file in wanted::OPTIONAL.iter().filter(|file| !files.contains(**file)) {
            cache.mark_absent(commit, file);
        }
        Ok(snapshot)
    }

    fn failed(&self, failure: Failure) -> ModelError {
        match failure {
            Failure::Disk { file, source } => ModelError::Io { file, source },
            Failure::NotFound(message) | Failure::Refused(message) | Failure::Broken(message) => {
                self.error(message)
            }
            Failure::Transient { message, .. } => self.error(format!(
                "{message}; without a network, give the path of a folder with the model's files, \
                 or set HF_HUB_OFFLINE=1 to use the cache only"
            )),
        }
    }

    fn error(&self, message: String) -> ModelError {
        let (model, endpoint) = (self.repo_id.to_owned(), self.options.endpoint.clone());
        ModelError::Hub { model, endpoint, message }
    }
}

/// Whether the cache knows of every optional file if the commit has it.
fn is_settled(cache: &Cache, commit: &str) -> bool {
    let known = |file: &str| cache.has(commit, file) || cache.is_known_absent(commit, file);
    wanted::OPTIONAL.iter().all(|file| known(file))
}

/// Checks that what the cache has of a commit is enough to load a model.
fn whole(repo_id: &str, cache: &Cache, commit: &str) -> Result<(), ModelError> {
    let root = cache.snapshot(commit);
    let names = folder::names(&root);
    wanted::small(repo_id, &names.iter().cloned().collect::<BTreeSet<String>>())?;
    if let Weights::Sharded { index } = find_weights(repo_id, &names)? {
        let files = ModelFiles::open_snapshot(repo_id, commit, root);
        let shards = shards(&files.require(index)?)?;
        if let Some(shard) = shards.iter().find(|shard| !cache.has(commit, shard)) {
            let hint = format!("there is {}", list(&names));
            let (model, file) = (repo_id.to_owned(), shard.clone());
            return Err(ModelError::Missing { model, file, hint });
        }
    }
    Ok(())
}
