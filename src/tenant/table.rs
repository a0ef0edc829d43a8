//! Who has which key: one table, replaced as a whole.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use subtle::Choice;

use super::KeyHash;
use super::account::Tenant;
use super::file::{self, KeyEntry, KeysError, KeysFile, TenantEntry};
use super::quota::Quota;
use crate::batch::{Share, TenantId};
use crate::error::Error;

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody needs one.
    Anonymous,
    /// Any of these, for one tenant of all.
    Keys(Vec<KeyHash>),
    /// A keys file, read again when it changes.
    File(PathBuf),
}

/// The tenant of those who use a plain list of keys.
const DEFAULT_TENANT: &str = "default";

/// The tenants and their keys, as they stand.
#[derive(Debug)]
pub struct Tenants {
    source: Source,
    table: RwLock<Arc<Table>>,
}

#[derive(Debug)]
struct Table {
    /// The text of the file it was made from.
    text: String,
    tenants: Vec<Arc<Tenant>>,
    /// `None`: nobody needs a key, and everybody is the first tenant.
    keys: Option<Vec<(KeyHash, Arc<Tenant>)>>,
    /// Numbers are not used twice: what a removed tenant left in the queue must not become another's.
    next_id: u32,
}

impl Tenants {
    /// # Errors
    /// The keys file cannot be read or is wrong.
    pub fn open(source: Source) -> Result<Self, KeysError> {
        let mut table = Table {
            text: String::new(),
            tenants: vec![Arc::new(Tenant::anonymous())],
            keys: None,
            next_id: 1,
        };
        match &source {
            Source::Anonymous => {}
            Source::Keys(hashes) => {
                let tenant = Tenant { name: DEFAULT_TENANT.into(), ..Tenant::anonymous() };
                table.tenants = vec![Arc::new(tenant)];
                let owned = |hash: &KeyHash| (hash.clone(), Arc::clone(&table.tenants[0]));
                table.keys = Some(hashes.iter().map(owned).collect());
            }
            Source::File(path) => {
                let text = file::read(path)?;
                table.tenants.clear();
                table = table.replaced_by(&KeysFile::parse(&text)?, text);
            }
        }
        Ok(Self { source, table: RwLock::new(Arc::new(table)) })
    }

    /// Nobody needs a key.
    pub fn anonymous() -> Self {
        Self::open(Source::Anonymous).expect("there is no file to be wrong")
    }

    /// Whether requests need a key.
    pub fn need_keys(&self) -> bool {
        self.table().keys.is_some()
    }

    /// The tenant of the first of these keys that is known. The time does not tell which keys there are:
    /// every key given is compared with all, each in constant time.
    ///
    /// # Errors
    /// [`Error::NoKey`] if none is given, [`Error::WrongKey`] if none is known.
    pub fn find<'a>(&self, given: impl Iterator<Item = &'a str>) -> Result<Arc<Tenant>, Error> {
        let table = self.table();
        let Some(keys) = &table.keys else { return Ok(Arc::clone(&table.tenants[0])) };
        let mut is_given = false;
        let mut found = None;
        for key in given {
            is_given = true;
            let hash = KeyHash::of(key);
            let mut owner = None;
            for (known, tenant) in keys {
                let same: Choice = known.is(&hash);
                if same.into() {
                    owner = Some(tenant);
                }
            }
            found = found.or(owner);
        }
        match found {
            Some(tenant) => Ok(Arc::clone(tenant)),
            None if is_given => Err(Error::WrongKey),
            None => Err(Error::NoKey),
        }
    }

    /// All tenants, in the order of the file.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.table().tenants.clone()
    }

    /// Reads the keys file again. Returns whether it has changed.
    ///
    /// # Errors
    /// It cannot be read or is wrong; the table stays as it was.
    pub fn reload(&self) -> Result<bool, KeysError> {
        let Source::File(path) = &self.source else { return Ok(false) };
        let text = file::read(path)?;
        let old = self.table();
        if text == old.text {
            return Ok(false);
        }
        let new = Arc::new(old.replaced_by(&KeysFile::parse(&text)?, text));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    pub(super) fn has_file(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    /// The table of `file`. Tenants that were there before keep their number, counts and buckets.
    fn replaced_by(&self, file: &KeysFile, text: String) -> Self {
        let mut next_id = self.next_id;
        let by_name = |tenants: &[Arc<Tenant>]| -> HashMap<String, Arc<Tenant>> {
            tenants.iter().map(|tenant| (tenant.name.clone(), Arc::clone(tenant))).collect()
        };
        let before = by_name(&self.tenants);
        let mut tenants = Vec::with_capacity(file.tenants.len());
        for entry in &file.tenants {
            let (id, account) = match before.get(&entry.name) {
                Some(tenant) => (tenant.share.tenant, Arc::clone(&tenant.account)),
                None => {
                    next_id += 1;
                    (TenantId(next_id - 1), Arc::default())
                }
            };
            tenants.push(Arc::new(Tenant { account, ..tenant(entry, id) }));
        }
        let named = by_name(&tenants);
        // The file was checked: every key has its tenant.
        let owned = |key: &KeyEntry| Some((key.sha256.clone(), named.get(&key.tenant)?.clone()));
        let keys = file.keys.iter().filter_map(owned);
        Self { text, keys: Some(keys.collect()), tenants, next_id }
    }
}

fn tenant(entry: &TenantEntry, id: TenantId) -> Tenant {
    Tenant {
        name: entry.name.clone(),
        share: Share { tenant: id, weight: entry.weight, class: entry.class },
        is_admin: entry.admin,
        models: entry.models.clone(),
        quota: Quota {
            requests_per_second: entry.requests_per_second,
            tokens_per_second: entry.tokens_per_second,
            max_concurrent_requests: entry.max_concurrent_requests.map(Into::into),
        },
        ..Tenant::anonymous()
    }
}
