//! Which name means what in nested scopes.

use std::collections::HashMap;

use crate::program::{Slot, Special};
use crate::ptx::ast::{Space, Type};

#[derive(Debug, Clone, Copy)]
enum Meaning {
    Register {
        slot: Slot,
        ty: Type,
    },
    /// `%r<8>` stands under `%r`: the numbered names are not spelled out.
    Numbered {
        first: Slot,
        count: u32,
        ty: Type,
    },
    Variable {
        slot: Slot,
        space: Space,
    },
    Label {
        id: u32,
    },
}

#[derive(Debug, Default)]
pub struct Names {
    scopes: Vec<HashMap<String, Meaning>>,
    /// Index of the instruction behind each label, by id.
    positions: Vec<Option<u32>>,
}

impl Names {
    pub fn push(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub fn pop(&mut self) {
        self.scopes.pop();
    }

    fn insert(&mut self, name: &str, meaning: Meaning) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_string(), meaning);
        }
    }

    pub fn register(&mut self, name: &str, slot: Slot, ty: Type) {
        self.insert(name, Meaning::Register { slot, ty });
    }

    pub fn registers(&mut self, prefix: &str, first: Slot, count: u32, ty: Type) {
        // '<' is in no name, so a prefix never hides a register spelled the same.
        self.insert(&format!("{prefix}<"), Meaning::Numbered { first, count, ty });
    }

    pub fn variable(&mut self, name: &str, slot: Slot, space: Space) {
        self.insert(name, Meaning::Variable { slot, space });
    }

    pub fn label(&mut self, name: &str) {
        let id = self.positions.len() as u32;
        self.positions.push(None);
        self.insert(name, Meaning::Label { id });
    }

    pub fn place_label(&mut self, name: &str, at: usize) {
        if let Some(id) = self.find_label(name) {
            self.positions[id as usize] = Some(at as u32);
        }
    }

    pub fn position(&self, label: u32) -> Option<u32> {
        self.positions.get(label as usize).copied().flatten()
    }

    fn find(&self, name: &str) -> Option<Meaning> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[stem.len()..].parse::<u32>().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(&meaning) = scope.get(name) {
                return Some(meaning);
            }
            let numbered = number.and_then(|_| scope.get(&format!("{stem}<")).copied());
            if let (Some(index), Some(Meaning::Numbered { first, count, ty })) = (number, numbered)
                && index < count
            {
                return Some(Meaning::Register { slot: first + index, ty });
            }
        }
        None
    }

    pub fn find_label(&self, name: &str) -> Option<u32> {
        match self.find(name)? {
            Meaning::Label { id } => Some(id),
            _ => None,
        }
    }

    pub fn slot(&self, name: &str) -> Option<Slot> {
        match self.find(name)? {
            Meaning::Register { slot, .. } | Meaning::Variable { slot, .. } => Some(slot),
            _ => None,
        }
    }

    pub fn register_slot(&self, name: &str) -> Option<Slot> {
        match self.find(name)? {
            Meaning::Register { slot, .. } => Some(slot),
            _ => None,
        }
    }

    pub fn register_type(&self, name: &str) -> Option<Type> {
        match self.find(name)? {
            Meaning::Register { ty, .. } => Some(ty),
            _ => None,
        }
    }

    pub fn space(&self, name: &str) -> Option<Space> {
        match self.find(name)? {
            Meaning::Variable { space, .. } => Some(space),
            _ => None,
        }
    }
}

pub fn special(name: &str) -> Option<Special> {
    Some(match name {
        "%tid.x" => Special::TidX,
        "%tid.y" => Special::TidY,
        "%tid.z" => Special::TidZ,
        "%ntid.x" => Special::NtidX,
        "%ntid.y" => Special::NtidY,
        "%ntid.z" => Special::NtidZ,
        "%ctaid.x" => Special::CtaidX,
        "%ctaid.y" => Special::CtaidY,
        "%ctaid.z" => Special::CtaidZ,
        "%nctaid.x" => Special::NctaidX,
        "%nctaid.y" => Special::NctaidY,
        "%nctaid.z" => Special::NctaidZ,
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%clock" | "%clock64" | "%globaltimer" | "%smid" => Special::Zero,
        _ => return None,
    })
}
