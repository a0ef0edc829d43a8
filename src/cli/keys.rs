//! `rerankd keys`: makes, lists and revokes keys in a keys file, and leaves the rest of the file as it is.

use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::Failure;
use crate::config::ConfigError;
use crate::tenant::file::{KeysFile, is_name};
use crate::tenant::{KeyHash, generate};

/// Make, list and revoke API keys
///
/// A key is printed once and kept only as a hash. A server that was started
/// with the same file takes changes over within a second. Limits, weights and
/// classes of tenants are written into the file by hand.
///
/// Examples:
///   rerankd keys new search                  # prints the key
///   rerankd keys new ops --admin             # may see all usage, and change the models
///   rerankd keys list
///   rerankd keys revoke 5e884898da28
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The keys file; `new` creates it
    #[arg(
        long,
        env = "RERANKD_KEYS_FILE",
        default_value = "keys.toml",
        global = true,
        value_name = "FILE"
    )]
    keys_file: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a key for a tenant, and the tenant if it is new
    New {
        /// 1 to 64 letters, digits or - _ . @
        tenant: String,
        /// The tenant, if it is new, may see the usage of all
        #[arg(long)]
        admin: bool,
    },
    /// List the keys by their ids, with their tenants
    List,
    /// Remove a key
    Revoke {
        /// As `list` shows it
        id: String,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let path = &args.keys_file;
    match &args.action {
        Action::New { tenant, admin } => new(path, tenant, *admin),
        Action::List => list(path),
        Action::Revoke { id } => revoke(path, id),
    }
}

fn new(path: &Path, tenant: &str, admin: bool) -> Result<(), Failure> {
    if !is_name(tenant) {
        let message = format!("'{tenant}' is no name: 1 to 64 letters, digits or - _ . @");
        return Err(Failure::Usage(message));
    }
    let (mut document, file) = match read(path) {
        Err(Failure::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            (DocumentMut::new(), KeysFile::default())
        }
        other => other?,
    };
    if !file.tenants.iter().any(|entry| entry.name == tenant) {
        let mut table = Table::new();
        table["name"] = value(tenant);
        if admin {
            table["admin"] = value(true);
        }
        tables(&mut document, "tenants").push(table);
    } else if admin {
        let message =
            format!("tenant '{tenant}' is there already: write 'admin = true' into the file");
        return Err(Failure::Usage(message));
    }
    let no_chance = |e| Failure::io("cannot make a key", std::io::Error::other(format!("{e}")));
    let key = generate().map_err(no_chance)?;
    let hash = KeyHash::of(&key);
    let mut table = Table::new();
    table["tenant"] = value(tenant);
    table["sha256"] = value(hash.hex());
    tables(&mut document, "keys").push(table);
    write(path, &document)?;
    eprintln!("key {} of {tenant}, shown this once:", hash.id());
    println!("{key}");
    Ok(())
}

fn list(path: &Path) -> Result<(), Failure> {
    let (_, file) = read(path)?;
    for key in &file.keys {
        println!("{}  {}", key.sha256.id(), key.tenant);
    }
    Ok(())
}

fn revoke(path: &Path, id: &str) -> Result<(), Failure> {
    let (mut document, file) = read(path)?;
    let Some(index) = file.keys.iter().position(|key| key.sha256.id() == id) else {
        return Err(Failure::Usage(format!("no key {id} in {}", path.display())));
    };
    tables(&mut document, "keys").remove(index);
    write(path, &document)?;
    eprintln!("revoked key {id} of {}", file.keys[index].tenant);
    Ok(())
}

/// The file as text to edit and as what it means, checked.
fn read(path: &Path) -> Result<(DocumentMut, KeysFile), Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io(name.clone(), e))?;
    let wrong = |message: String| ConfigError::new(&name, message);
    let file = KeysFile::parse(&text).map_err(|e| wrong(e.to_string()))?;
    let document = text.parse::<DocumentMut>().map_err(|e| wrong(e.to_string()))?;
    // `keys = [{..}]` means the same, but is not what this command writes.
    for list in ["tenants", "keys"] {
        if document.get(list).is_some_and(|item| !item.is_array_of_tables()) {
            return Err(wrong(format!("'{list}' must be written as [[{list}]]")).into());
        }
    }
    Ok((document, file))
}

fn tables<'a>(document: &'a mut DocumentMut, name: &str) -> &'a mut ArrayOfTables {
    let item = document.entry(name).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    item.as_array_of_tables_mut().expect("`read` refuses other forms")
}

/// Puts a whole new file in place of the old one, so that no server reads half of it.
fn write(path: &Path, document: &DocumentMut) -> Result<(), Failure> {
    let fail = |e| Failure::io(format!("cannot write {}", path.display()), e);
    // A link stays a link: what it points to is replaced.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = std::fs::metadata(&target).map_or(0o600, |old| old.permissions().mode());
    let mut name = target.clone().into_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(document.to_string().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &target)
    })();
    written.inspect_err(|_| drop(std::fs::remove_file(&temporary))).map_err(fail)
}
