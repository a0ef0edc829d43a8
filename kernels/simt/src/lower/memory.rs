//! Loads, stores, atomics, asynchronous copies and matrix loads.

use super::{Lowered, Lowering};
use crate::program::{Atomic, CopyAsync, Load, Op, Reduction, Store};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// The widest access of one lane.
const MAX_ACCESS_BYTES: usize = 16;

fn space(inst: &Instruction) -> Space {
    for part in inst.opcode.iter().skip(1) {
        match part.split("::").next().unwrap_or(part) {
            "global" => return Space::Global,
            "shared" => return Space::Shared,
            "local" => return Space::Local,
            "param" => return Space::Param,
            "const" => return Space::Const,
            _ => {}
        }
    }
    Space::Generic
}

pub(super) fn reduction(inst: &Instruction) -> Option<Reduction> {
    inst.opcode.iter().skip(1).find_map(|part| {
        Some(match part.as_str() {
            "add" => Reduction::Add,
            "min" => Reduction::Min,
            "max" => Reduction::Max,
            "and" => Reduction::And,
            "or" => Reduction::Or,
            "xor" => Reduction::Xor,
            "inc" => Reduction::Inc,
            "dec" => Reduction::Dec,
            "exch" => Reduction::Exchange,
            "cas" => Reduction::CompareExchange,
            _ => return None,
        })
    })
}

impl Lowering {
    pub(super) fn memory(&mut self, inst: &Instruction) -> Lowered {
        match inst.opcode[0].as_str() {
            "ld" | "ldu" => self.load(inst),
            "st" => self.store(inst),
            "atom" | "red" => self.atomic(inst),
            "cp" => self.copy(inst),
            _ => self.matrix(inst),
        }
    }

    fn element(&self, inst: &Instruction, count: usize) -> Lowered<Type> {
        let Some(ty) = inst.types().last() else { return self.unknown(inst) };
        let fits = count * ty.bytes() as usize <= MAX_ACCESS_BYTES && count.is_power_of_two();
        if ty == Type::Pred || ty == Type::B128 || !fits {
            return self.unknown(inst);
        }
        Ok(ty)
    }

    fn load(&mut self, inst: &Instruction) -> Lowered {
        let dst = self.targets(self.operand(inst, 0)?)?;
        let ty = self.element(inst, dst.len())?;
        let address = self.address(self.operand(inst, 1)?, space(inst))?;
        let load = Load { address, element_bytes: ty.bytes(), signed: ty.is_signed(), dst };
        self.emit_for(inst, Op::Load(load))
    }

    fn store(&mut self, inst: &Instruction) -> Lowered {
        let address = self.address(self.operand(inst, 0)?, space(inst))?;
        let Some(ty) = inst.types().last() else { return self.unknown(inst) };
        let src = self.sources(self.operand(inst, 1)?, ty)?;
        self.element(inst, src.len())?;
        self.emit_for(inst, Op::Store(Store { address, element_bytes: ty.bytes(), src }))
    }

    fn atomic(&mut self, inst: &Instruction) -> Lowered {
        let returns = inst.opcode[0] == "atom";
        let (Some(op), Some(ty)) = (reduction(inst), inst.types().last()) else {
            return self.unknown(inst);
        };
        let float_op = matches!(op, Reduction::Add | Reduction::Min | Reduction::Max);
        let wide = matches!(ty.bytes(), 4 | 8);
        let known = if ty.is_float() {
            (op == Reduction::Add && matches!(ty, Type::F32 | Type::F64 | Type::F16x2))
                || (float_op && matches!(ty, Type::F16x2 | Type::Bf16x2))
        } else {
            wide
        };
        if !known || inst.has("v2") || inst.has("v4") {
            return self.unknown(inst);
        }
        let mut at = 0;
        let dst = if returns {
            at += 1;
            Some(self.target(self.operand(inst, 0)?)?)
        } else {
            None
        };
        let address = self.address(self.operand(inst, at)?, space(inst))?;
        let b = self.source(self.operand(inst, at + 1)?, ty)?;
        let c = match inst.operands.get(at + 2) {
            Some(operand) if op == Reduction::CompareExchange => self.source(operand, ty)?,
            _ => b,
        };
        self.emit_for(inst, Op::Atomic(Box::new(Atomic { address, ty, op, dst, b, c })))
    }

    fn literal(&self, inst: &Instruction, index: usize) -> Lowered<u32> {
        match self.operand(inst, index)? {
            Operand::Int(value) if (0..=255).contains(value) => Ok(*value as u32),
            _ => self.fail("a small constant is expected"),
        }
    }

    fn copy(&mut self, inst: &Instruction) -> Lowered {
        let part = |index: usize| inst.opcode.get(index).map_or("", String::as_str);
        match (part(1), part(2)) {
            ("async", "commit_group") => self.emit_for(inst, Op::CopyCommit),
            ("async", "wait_all") => self.emit_for(inst, Op::CopyWait { pending_groups: None }),
            ("async", "wait_group") => {
                let pending_groups = Some(self.literal(inst, 0)?);
                self.emit_for(inst, Op::CopyWait { pending_groups })
            }
            ("async", "ca" | "cg") => self.copy_async(inst),
            _ => self.unknown(inst),
        }
    }

    fn copy_async(&mut self, inst: &Instruction) -> Lowered {
        let shared = self.address(self.operand(inst, 0)?, Space::Shared)?;
        let global = self.address(self.operand(inst, 1)?, Space::Global)?;
        let bytes = self.literal(inst, 2)?;
        let legal = if inst.has("cg") { bytes == 16 } else { matches!(bytes, 4 | 8 | 16) };
        if !legal {
            return self.fail(format!("{inst} cannot copy {bytes} bytes"));
        }
        let (mut source_bytes, mut ignore_source) = (None, None);
        if let Some(operand) = inst.operands.get(3) {
            let slot = self.source(operand, Type::U32)?;
            let is_predicate = match operand {
                Operand::Name(name) => self.names.register_type(name) == Some(Type::Pred),
                Operand::Not(_) => true,
                _ => false,
            };
            if is_predicate {
                ignore_source = Some(slot);
            } else {
                source_bytes = Some(slot);
            }
        }
        let copy = CopyAsync { shared, global, bytes, source_bytes, ignore_source };
        self.emit_for(inst, Op::CopyAsync(Box::new(copy)))
    }

    fn matrix(&mut self, inst: &Instruction) -> Lowered {
        if !inst.has("m8n8") || !inst.has("b16") {
            return self.unknown(inst);
        }
        let count = [("x1", 1), ("x2", 2), ("x4", 4)].into_iter().find(|(name, _)| inst.has(name));
        let transposed = inst.has("trans");
        let loads = inst.opcode[0] == "ldmatrix";
        let address = self.address(self.operand(inst, usize::from(loads))?, Space::Shared)?;
        let registers = self.targets(self.operand(inst, usize::from(!loads))?)?;
        if count.is_none_or(|(_, count)| count != registers.len()) {
            return self.fail(format!("{inst} has a wrong number of registers"));
        }
        self.emit_for(
            inst,
            if loads {
                Op::LoadMatrix { address, transposed, dst: registers }
            } else {
                Op::StoreMatrix { address, transposed, src: registers }
            },
        )
    }
}
