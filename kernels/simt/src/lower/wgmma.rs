//! wgmma: products of a warpgroup from shared memory.

use super::{Lowered, Lowering};
use crate::program::{Op, Wgmma, WgmmaA};
use crate::ptx::ast::{Instruction, Operand, Type};

impl Lowering {
    pub(super) fn wgmma(&mut self, inst: &Instruction) -> Lowered {
        if !inst.has("sync") || !inst.has("aligned") {
            return self.unknown(inst);
        }
        self.kernel.has_wgmma = true;
        match inst.opcode[1].as_str() {
            "fence" => self.emit_for(inst, Op::WgmmaFence),
            "commit_group" => self.emit_for(inst, Op::WgmmaCommit),
            "wait_group" => {
                let pending_groups = self.immediate(inst, 0, 0..=7)? as u32;
                self.emit_for(inst, Op::WgmmaWait { pending_groups })
            }
            "mma_async" => self.wgmma_product(inst),
            _ => self.unknown(inst),
        }
    }

    fn immediate(
        &self,
        inst: &Instruction,
        index: usize,
        legal: std::ops::RangeInclusive<i64>,
    ) -> Lowered<i64> {
        match self.operand(inst, index)? {
            Operand::Int(value) if legal.contains(value) => Ok(*value),
            _ => self.fail(format!("operand {index} of {inst} is a constant in {legal:?}")),
        }
    }

    /// `d, a, b, scale-d, imm-scale-a, imm-scale-b {, imm-trans-a}, imm-trans-b`: A in registers has no
    /// transposition.
    fn wgmma_product(&mut self, inst: &Instruction) -> Lowered {
        let shape = inst.opcode.iter().find_map(|part| part.strip_prefix("m64n"));
        let n = shape.and_then(|rest| rest.strip_suffix("k16")).map(str::parse::<usize>);
        let (Some(Ok(n)), Ok([Type::F32, ty, b_type])) =
            (n, <[Type; 3]>::try_from(inst.types().collect::<Vec<_>>()))
        else {
            return self.unknown(inst);
        };
        let legal = n % 8 == 0 && (8..=256).contains(&n);
        if !legal || ty != b_type || !matches!(ty, Type::F16 | Type::Bf16) {
            return self.unknown(inst);
        }
        let d = self.targets(self.operand(inst, 0)?)?;
        if d.len() != n / 2 {
            return self.fail(format!("{inst} has {} sums in a lane, not {}", n / 2, d.len()));
        }
        let a = self.operand(inst, 1)?;
        let in_registers = matches!(a, Operand::Vector(_));
        let a = if in_registers {
            WgmmaA::Registers(self.sources(a, Type::B32)?)
        } else {
            let transposed = self.immediate(inst, 6, 0..=1)? == 1;
            WgmmaA::Shared { descriptor: self.source(a, Type::B64)?, transposed }
        };
        if matches!(&a, WgmmaA::Registers(registers) if registers.len() != 4) {
            return self.fail(format!("{inst} takes four registers of A"));
        }
        let scale_a = self.immediate(inst, 4, -1..=1)?;
        let scale_b = self.immediate(inst, 5, -1..=1)?;
        if scale_a == 0 || scale_b == 0 {
            return self.fail(format!("{inst} scales by 1 or -1"));
        }
        let wgmma = Wgmma {
            n,
            ty,
            a,
            b: self.source(self.operand(inst, 2)?, Type::B64)?,
            b_transposed: self.immediate(inst, if in_registers { 6 } else { 7 }, 0..=1)? == 1,
            accumulate: self.source(self.operand(inst, 3)?, Type::Pred)?,
            negate_a: scale_a < 0,
            negate_b: scale_b < 0,
            d,
        };
        self.emit_for(inst, Op::Wgmma(Box::new(wgmma)))
    }
}
