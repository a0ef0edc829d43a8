//! What the hub's cache on this machine has.

use std::fs;
use std::path::Path;

use super::options::HubOptions;

/// A model of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    pub repo_id: String,
    /// Of all its revisions; what is still being fetched does not count.
    pub num_bytes: u64,
    /// `config.json` of the branch last fetched, or of any commit.
    pub config: Option<Vec<u8>>,
}

/// More entries than a cache has; a folder named by mistake must not be walked for ever.
const MAX_ENTRIES: usize = 10_000;

/// The models in the cache, by name. Without a cache there are none.
pub fn cached(options: &HubOptions) -> Vec<Cached> {
    let Some(folder) = &options.cache_dir else { return Vec::new() };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_ENTRIES);
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let repo_id = name.strip_prefix("models--")?.replacen("--", "/", 1);
            let (num_bytes, config) = (num_bytes(&entry.path()), config(&entry.path()));
            Some(Cached { repo_id, num_bytes, config })
        })
        .collect();
    all.sort_by(|a, b| a.repo_id.cmp(&b.repo_id));
    all
}

fn num_bytes(repo: &Path) -> u64 {
    let blobs = fs::read_dir(repo.join("blobs")).into_iter().flatten().flatten();
    let whole = blobs.filter(|blob| !blob.file_name().to_string_lossy().ends_with(".incomplete"));
    whole.take(MAX_ENTRIES).filter_map(|blob| Some(blob.metadata().ok()?.len())).sum()
}

fn config(repo: &Path) -> Option<Vec<u8>> {
    /// As for every small file of a model.
    const MAX_BYTES: u64 = 1 << 20;
    let main = fs::read_to_string(repo.join("refs/main")).ok();
    let main = main.map(|commit| repo.join("snapshots").join(commit.trim()));
    let snapshots = fs::read_dir(repo.join("snapshots")).into_iter().flatten().flatten();
    let snapshots = main.into_iter().chain(snapshots.take(MAX_ENTRIES).map(|entry| entry.path()));
    snapshots.map(|snapshot| snapshot.join("config.json")).find_map(|path| {
        let is_small = fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_BYTES);
        is_small.then(|| fs::read(&path).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_listed_by_name_and_size() {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("models--org--name");
        for (file, bytes) in [
            ("blobs/a", "12345"),
            ("blobs/b.incomplete", "1234567"),
            ("snapshots/c0ffee/config.json", "{}"),
            ("refs/main", "c0ffee\n"),
        ] {
            fs::create_dir_all(repo.join(file).parent().unwrap()).unwrap();
            fs::write(repo.join(file), bytes).unwrap();
        }
        fs::create_dir_all(folder.path().join("datasets--org--x")).unwrap();
        let env = folder.path().to_str().unwrap();
        let options = HubOptions::from_env(|name| (name == "HF_HUB_CACHE").then(|| env.to_owned()));
        let expected =
            Cached { repo_id: "org/name".into(), num_bytes: 5, config: Some(b"{}".to_vec()) };
        assert_eq!(cached(&options), [expected]);
        assert!(cached(&HubOptions::from_env(|_| None)).is_empty());
    }
}
