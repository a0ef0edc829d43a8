//! Instructions in which lanes meet: barriers, shuffles, votes, matrix products.

use super::memory::reduction;
use super::{Lowered, Lowering};
use crate::program::{FULL_MASK, Mma, Op, Shuffle, ShuffleOp, Vote};
use crate::ptx::ast::{Instruction, Operand, Type};

impl Lowering {
    pub(super) fn warp(&mut self, inst: &Instruction) -> Lowered {
        match inst.opcode[0].as_str() {
            "bar" | "barrier" => self.barrier(inst),
            "shfl" => self.shuffle(inst),
            "vote" => self.vote(inst),
            "activemask" => {
                let dst = self.target(self.operand(inst, 0)?)?;
                self.emit_for(inst, Op::ActiveMask { dst })
            }
            "elect" => {
                let Operand::Pair(dst, elected) = self.operand(inst, 0)? else {
                    return self.unknown(inst);
                };
                let dst = self.target(&pair_part(dst))?;
                let elected = self.target(&pair_part(elected))?;
                let members = self.source(self.operand(inst, 1)?, Type::B32)?;
                self.emit_for(inst, Op::Elect { dst, elected, members })
            }
            "redux" => self.redux(inst),
            _ => self.mma(inst),
        }
    }

    fn barrier(&mut self, inst: &Instruction) -> Lowered {
        if inst.has("warp") {
            let members = self.source(self.operand(inst, 0)?, Type::B32)?;
            return self.emit_for(inst, Op::WarpSync { members });
        }
        let arrive_only = inst.has("arrive");
        if !(arrive_only || inst.has("sync")) {
            return self.unknown(inst);
        }
        let id = self.source(self.operand(inst, 0)?, Type::U32)?;
        let threads = match inst.operands.get(1) {
            Some(operand) => Some(self.source(operand, Type::U32)?),
            None if arrive_only => return self.fail("bar.arrive needs a thread count"),
            None => None,
        };
        self.emit_for(inst, Op::Barrier { id, threads, arrive_only })
    }

    fn members(&mut self, inst: &Instruction, index: usize) -> Lowered<u32> {
        match inst.operands.get(index) {
            Some(operand) => self.source(operand, Type::B32),
            None => Ok(self.constant(u64::from(FULL_MASK))),
        }
    }

    fn shuffle(&mut self, inst: &Instruction) -> Lowered {
        let modes = [
            ("up", Shuffle::Up),
            ("down", Shuffle::Down),
            ("bfly", Shuffle::Butterfly),
            ("idx", Shuffle::Index),
        ];
        let mode = modes.into_iter().find(|(name, _)| inst.has(name));
        let (Some((_, mode)), true) = (mode, inst.has("sync")) else { return self.unknown(inst) };
        let (dst, in_range) = match self.operand(inst, 0)? {
            Operand::Pair(dst, p) => {
                (self.target(&pair_part(dst))?, Some(self.target(&pair_part(p))?))
            }
            operand => (self.target(operand)?, None),
        };
        let value = self.source(self.operand(inst, 1)?, Type::B32)?;
        let lane = self.source(self.operand(inst, 2)?, Type::B32)?;
        let clamp = self.source(self.operand(inst, 3)?, Type::B32)?;
        let members = self.members(inst, 4)?;
        let shuffle = ShuffleOp { mode, dst, in_range, value, lane, clamp, members };
        self.emit_for(inst, Op::Shuffle(Box::new(shuffle)))
    }

    fn vote(&mut self, inst: &Instruction) -> Lowered {
        let modes = [
            ("all", Vote::All),
            ("any", Vote::Any),
            ("uni", Vote::Uniform),
            ("ballot", Vote::Ballot),
        ];
        let mode = modes.into_iter().find(|(name, _)| inst.has(name));
        let (Some((_, mode)), true) = (mode, inst.has("sync")) else { return self.unknown(inst) };
        let dst = self.target(self.operand(inst, 0)?)?;
        let value = self.source(self.operand(inst, 1)?, Type::Pred)?;
        let members = self.members(inst, 2)?;
        self.emit_for(inst, Op::Vote { mode, dst, value, members })
    }

    fn redux(&mut self, inst: &Instruction) -> Lowered {
        let (Some(op), Some(ty)) = (reduction(inst), inst.types().last()) else {
            return self.unknown(inst);
        };
        if ty.is_float() || ty.bytes() != 4 {
            return self.unknown(inst);
        }
        let dst = self.target(self.operand(inst, 0)?)?;
        let value = self.source(self.operand(inst, 1)?, ty)?;
        let members = self.members(inst, 2)?;
        self.emit_for(inst, Op::Reduce { op, ty, dst, value, members })
    }

    fn mma(&mut self, inst: &Instruction) -> Lowered {
        let shape = inst.opcode.iter().find_map(|part| part.strip_prefix("m16n8k"));
        let types: Vec<Type> = inst.types().collect();
        let (Some(Ok(k)), Ok([d_type, a_type, b_type, c_type])) =
            (shape.map(str::parse::<usize>), <[Type; 4]>::try_from(types))
        else {
            return self.unknown(inst);
        };
        if d_type != c_type || !inst.has("row") || !inst.has("col") || !inst.has("sync") {
            return self.unknown(inst);
        }
        let legal = match (d_type, a_type, b_type) {
            (Type::F32 | Type::F16, Type::F16, Type::F16) | (Type::F32, Type::Bf16, Type::Bf16) => {
                matches!(k, 8 | 16)
            }
            (Type::F32, Type::Tf32, Type::Tf32) => matches!(k, 4 | 8),
            (Type::S32, Type::S8 | Type::U8, Type::S8 | Type::U8) => matches!(k, 16 | 32),
            _ => false,
        };
        if !legal {
            return self.unknown(inst);
        }
        let mma = Mma {
            k,
            a_type,
            b_type,
            acc_type: d_type,
            saturate: inst.has("satfinite"),
            d: self.targets(self.operand(inst, 0)?)?,
            a: self.sources(self.operand(inst, 1)?, Type::B32)?,
            b: self.sources(self.operand(inst, 2)?, Type::B32)?,
            c: self.sources(self.operand(inst, 3)?, d_type)?,
        };
        // A register holds 4 bytes of each of 32 lanes.
        let element = if a_type == Type::Tf32 { 4 } else { a_type.bytes() as usize };
        let accumulators = if d_type == Type::F16 { 2 } else { 4 };
        let counts = (mma.a.len(), mma.b.len(), mma.c.len(), mma.d.len());
        let wanted = (k * element / 8, k * element / 16, accumulators, accumulators);
        if counts != wanted {
            return self.fail(format!("{inst} takes {wanted:?} registers, not {counts:?}"));
        }
        self.emit_for(inst, Op::Mma(Box::new(mma)))
    }
}

/// `_` on either side of a pair drops that result.
fn pair_part(name: &str) -> Operand {
    if name == "_" { Operand::Sink } else { Operand::Name(name.to_string()) }
}
