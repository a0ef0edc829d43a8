//! Whose request it is, and what it may take of the device against others.

use serde::Deserialize;

/// Whose request it is. Tenants are numbered by the table of keys; 0 is everybody without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u32);

impl TenantId {
    pub const ANONYMOUS: Self = Self(0);
}

/// Which requests come before which, whoever sent them; within a class weights decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    High,
    #[default]
    Normal,
    Low,
}

impl Class {
    pub const COUNT: usize = 3;
}

/// A request's standing in the queue and at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub tenant: TenantId,
    /// Tokens against other tenants of the class; at least 1.
    pub weight: u32,
    pub class: Class,
}

impl Share {
    /// Everybody's where nobody has a key.
    pub const ANONYMOUS: Self =
        Self { tenant: TenantId::ANONYMOUS, weight: 1, class: Class::Normal };
}
