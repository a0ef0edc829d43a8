//! The name of a row: whose it is, which model gave it, and for which tokens.

use sha2::{Digest, Sha256};

/// A SHA-256: two different pairs that share one are not to be found, by accident or by will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

/// A tenant's part of a model's rows.
#[derive(Debug, Clone)]
pub struct Scope {
    begun: Sha256,
}

impl Scope {
    /// `model` is all by which two models' rows may differ, `tenant` the number of whoever asks.
    pub fn new(model: &[&str], tenant: u32) -> Self {
        let mut begun = Sha256::new();
        for part in model {
            // Lengths keep apart what would read alike side by side.
            begun.update((part.len() as u64).to_le_bytes());
            begun.update(part);
        }
        begun.update(tenant.to_le_bytes());
        Self { begun }
    }

    /// The name of a sequence's row; the second segment begins after `first_segment_len` tokens.
    pub fn key(&self, input_ids: &[u32], first_segment_len: usize) -> Key {
        let mut hash = self.begun.clone();
        hash.update((first_segment_len as u64).to_le_bytes());
        let mut bytes = [0; 256];
        for ids in input_ids.chunks(bytes.len() / 4) {
            for (to, id) in bytes.chunks_exact_mut(4).zip(ids) {
                to.copy_from_slice(&id.to_le_bytes());
            }
            hash.update(&bytes[..ids.len() * 4]);
        }
        Key(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn whatever_differs_has_a_name_of_its_own() {
        let long: Vec<u32> = (0..200).collect();
        let mut keys = HashSet::new();
        for model in [&["a", "bc"][..], &["ab", "c"], &["abc"]] {
            for tenant in 0..3 {
                let scope = Scope::new(model, tenant);
                for ids in [&[1, 2, 3][..], &[1, 2], &[1, 3, 2], &[], &long, &long[..199]] {
                    for first_segment_len in 0..2 {
                        assert!(keys.insert(scope.key(ids, first_segment_len)));
                        assert!(!keys.insert(scope.key(ids, first_segment_len)), "and keeps it");
                    }
                }
            }
        }
    }
}
