//! Arithmetic, logic, moves, comparisons and conversions.

use super::{Lowered, Lowering, plain};
use crate::alu::convert::{self, ToInt};
use crate::alu::{self, AluFn};
use crate::program::{Alu, Op, Slot};
use crate::ptx::ast::{Instruction, Operand, Type};

impl Lowering {
    pub(super) fn alu(&mut self, inst: &Instruction) -> Lowered {
        match inst.opcode[0].as_str() {
            "mov" => self.mov(inst),
            "cvta" => self.cvta(inst),
            "setp" | "set" => self.compare(inst),
            "cvt" => self.convert(inst),
            _ => self.arithmetic(inst),
        }
    }

    fn arithmetic(&mut self, inst: &Instruction) -> Lowered {
        let op = inst.opcode[0].as_str();
        let Some(ty) = inst.types().last() else { return self.unknown(inst) };
        // Directed rounding is not emulated: nothing the compilers emit for us needs it.
        if ["rz", "rm", "rp"].iter().any(|mode| inst.has(mode)) {
            return self.unknown(inst);
        }
        let approximate = inst.has("approx") || (op == "div" && inst.has("full"));
        let Some(f) = select(inst, op, ty) else { return self.unknown(inst) };
        let dst = self.target(self.operand(inst, 0)?)?;
        let mut src = Vec::new();
        for operand in &inst.operands[1..] {
            src.push(self.source(operand, ty)?);
        }
        let wanted = arity(op);
        if src.len() != wanted {
            return self.fail(format!("{inst} takes {wanted} operands"));
        }
        let mut alu = plain(f, dst, &src);
        alu.flush_inputs = inst.has("ftz") && ty == Type::F32;
        alu.flush_result = alu.flush_inputs;
        if inst.has("ftz") && ty != Type::F32 {
            return self.unknown(inst);
        }
        alu.saturate = inst.has("sat");
        if alu.saturate && ty != Type::F32 {
            return self.unknown(inst);
        }
        if approximate && ty == Type::F32 {
            alu.error_ulps = alu::float::allowed_error_ulps(op);
        }
        self.emit_for(inst, Op::Alu(alu))
    }

    fn mov(&mut self, inst: &Instruction) -> Lowered {
        let (dst, src) = (self.operand(inst, 0)?, self.operand(inst, 1)?);
        let Some(ty) = inst.types().last() else { return self.unknown(inst) };
        match (dst, src) {
            (Operand::Vector(parts), _) => {
                let value = self.source(src, ty)?;
                let bits = ty.bytes() * 8 / parts.len().max(1) as u32;
                let shr = self.function("shr", Type::B64)?;
                // Parts first into temporaries: a part may be the source itself.
                let mut moved = Vec::new();
                for index in 0..parts.len() as u32 {
                    let amount = self.constant(u64::from(index * bits));
                    let part = self.fresh()?;
                    self.emit(None, "mov", Op::Alu(plain(shr, part, &[value, amount])));
                    moved.push(part);
                }
                let mov = self.function("mov", ty)?;
                for (part, value) in parts.iter().zip(moved) {
                    let dst = self.target(part)?;
                    self.emit_for(inst, Op::Alu(plain(mov, dst, &[value])))?;
                }
                Ok(())
            }
            (_, Operand::Vector(parts)) => {
                let dst = self.target(dst)?;
                let bits = ty.bytes() * 8 / parts.len().max(1) as u32;
                let length = self.constant(u64::from(bits));
                let insert = self.function("bfi", Type::B64)?;
                let mut joined = self.constant(0);
                for (index, part) in parts.iter().enumerate() {
                    let part = self.source(part, ty)?;
                    let position = self.constant(index as u64 * u64::from(bits));
                    let next = self.fresh()?;
                    let alu = plain(insert, next, &[part, joined, position, length]);
                    self.emit(None, "mov", Op::Alu(alu));
                    joined = next;
                }
                let mov = self.function("mov", ty)?;
                self.emit_for(inst, Op::Alu(plain(mov, dst, &[joined])))
            }
            _ => {
                let dst = self.target(dst)?;
                let src = self.source(src, ty)?;
                let mov = self.function("mov", ty)?;
                self.emit_for(inst, Op::Alu(plain(mov, dst, &[src])))
            }
        }
    }

    fn function(&self, op: &str, ty: Type) -> Lowered<AluFn> {
        match alu::bits::select(op, ty) {
            Some(f) => Ok(f),
            None => self.fail(format!("{op} of {ty:?} is not emulated")),
        }
    }

    /// Between a space's own addresses and generic ones: a tag is put on or taken off.
    fn cvta(&mut self, inst: &Instruction) -> Lowered {
        let dst = self.target(self.operand(inst, 0)?)?;
        let src = self.source(self.operand(inst, 1)?, Type::U64)?;
        let to_space = inst.has("to");
        let f = if inst.has("shared") || inst.has("shared::cta") {
            if to_space {
                alu::lanes!(|a| a & 0xffff_ffff)
            } else {
                alu::lanes!(|a| crate::memory::address::generic_of_shared(a))
            }
        } else if inst.has("local") {
            if to_space {
                alu::lanes!(|a| a & 0xffff_ffff)
            } else {
                alu::lanes!(|a| crate::memory::address::generic_of_local(a))
            }
        } else {
            // Global, constant and parameter addresses are generic already.
            alu::lanes!(|a| a)
        };
        self.emit_for(inst, Op::Alu(plain(f, dst, &[src])))
    }

    fn compare(&mut self, inst: &Instruction) -> Lowered {
        let is_set = inst.opcode[0] == "set";
        let Some(ty) = inst.types().last() else { return self.unknown(inst) };
        let test = inst.opcode.get(1).map_or("", String::as_str);
        let Some(f) = alu::compare::select(test, ty) else { return self.unknown(inst) };
        let combine = ["and", "or", "xor"].into_iter().find(|op| inst.has(op));
        let a = self.source(self.operand(inst, 1)?, ty)?;
        let b = self.source(self.operand(inst, 2)?, ty)?;
        let mut alu = plain(f, 0, &[a, b]);
        alu.flush_inputs = inst.has("ftz") && ty == Type::F32;

        let holds = self.fresh()?;
        self.emit(None, &inst.to_string(), Op::Alu(Alu { dst: holds, ..alu }));
        if is_set {
            let result = if inst.types().next() == Some(Type::F32) {
                alu::lanes!(|p| if p & 1 == 1 { 0x3f80_0000 } else { 0 })
            } else {
                alu::lanes!(|p| (p & 1).wrapping_neg())
            };
            let dst = self.target(self.operand(inst, 0)?)?;
            return self.emit_for(inst, Op::Alu(plain(result, dst, &[holds])));
        }
        let (p, q) = match self.operand(inst, 0)? {
            Operand::Pair(p, q) => (Operand::Name(p.clone()), Some(Operand::Name(q.clone()))),
            operand => (operand.clone(), None),
        };
        // q before p: p may be the guard or the third operand of q.
        if let Some(q) = q.filter(|q| *q != Operand::Name("_".into())) {
            let not = self.function("not", Type::Pred)?;
            let fails = self.fresh()?;
            self.emit(None, "not.pred", Op::Alu(plain(not, fails, &[holds])));
            self.combined(inst, &q, fails, combine)?;
        }
        self.combined(inst, &p, holds, combine)
    }

    fn combined(
        &mut self,
        inst: &Instruction,
        dst: &Operand,
        holds: Slot,
        combine: Option<&str>,
    ) -> Lowered {
        let dst = self.target(dst)?;
        let alu = match combine {
            None => plain(self.function("mov", Type::Pred)?, dst, &[holds]),
            Some(op) => {
                let other = self.source(self.operand(inst, 3)?, Type::Pred)?;
                plain(self.function(op, Type::Pred)?, dst, &[holds, other])
            }
        };
        self.emit_for(inst, Op::Alu(alu))
    }

    fn convert(&mut self, inst: &Instruction) -> Lowered {
        let mut types = inst.types();
        let (Some(to), Some(from)) = (types.next(), types.next()) else {
            return self.unknown(inst);
        };
        let Some(f) = conversion(inst, to, from) else { return self.unknown(inst) };
        let dst = self.target(self.operand(inst, 0)?)?;
        let mut src = Vec::new();
        for operand in &inst.operands[1..] {
            src.push(self.source(operand, from)?);
        }
        let packs = matches!(to, Type::F16x2 | Type::Bf16x2);
        if src.len() != 1 + usize::from(packs) {
            return self.fail(format!("{inst} has a wrong number of operands"));
        }
        let mut alu = plain(f, dst, &src);
        // A widening from f16 gives no subnormal f32: only f32 and f64 sources need the flush.
        alu.flush_inputs = inst.has("ftz") && from == Type::F32;
        alu.flush_result = inst.has("ftz") && to == Type::F32;
        if to.is_float() && inst.has("sat") {
            if to != Type::F32 {
                return self.unknown(inst);
            }
            alu.saturate = true;
        }
        self.emit_for(inst, Op::Alu(alu))
    }
}

fn conversion(inst: &Instruction, to: Type, from: Type) -> Option<AluFn> {
    let toward_zero = inst.has("rz");
    if inst.has("rm") || inst.has("rp") || inst.has("satfinite") {
        return None;
    }
    let mode = inst.opcode.iter().find_map(|part| ToInt::parse(part));
    if matches!(to, Type::F16x2 | Type::Bf16x2) {
        return convert::pack(to, toward_zero, inst.has("relu"));
    }
    if to == Type::Tf32 {
        return inst.has("rna").then(convert::to_tf32);
    }
    if inst.has("relu") {
        return None;
    }
    match (from.is_float(), to.is_float()) {
        (false, false) => convert::int_to_int(to, from, inst.has("sat")),
        (false, true) => convert::int_to_float(to, from),
        (true, false) => convert::float_to_int(to, from, mode?),
        (true, true) => match mode {
            Some(mode) if to == from => convert::round_float(to, mode),
            Some(_) => None,
            None => convert::float_to_float(to, from, toward_zero),
        },
    }
}

fn select(inst: &Instruction, op: &str, ty: Type) -> Option<AluFn> {
    match op {
        "shf" => return Some(alu::bits::funnel(inst.has("l"), inst.has("wrap"))),
        "dp4a" => {
            let mut types = inst.types();
            let (a, b) = (types.next()?, types.next()?);
            return Some(alu::int::dp4a(a.is_signed(), b.is_signed()));
        }
        "testp" => return alu::float::select(&format!("testp.{}", inst.opcode.get(1)?), ty),
        // Byte selection modes beside the plain one are not emulated.
        "prmt" if inst.opcode.len() > 2 => return None,
        "lop3" if inst.operands.len() != 5 => return None,
        "bfind" if inst.has("shiftamt") => return None,
        _ => {}
    }
    if let Some(f) = alu::bits::select(op, ty) {
        return Some(f);
    }
    if ty.is_float() {
        let op = if op == "fma" && inst.has("relu") { "fma.relu" } else { op };
        // max.NaN keeps a NaN; not emulated.
        if inst.has("NaN") || inst.has("xorsign") {
            return None;
        }
        return alu::float::select(op, ty);
    }
    let part = ["lo", "hi", "wide"].into_iter().find(|part| inst.has(part)).unwrap_or("");
    alu::int::select(op, part, ty)
}

/// Inputs an opcode takes.
fn arity(op: &str) -> usize {
    match op {
        "not" | "cnot" | "neg" | "abs" | "popc" | "clz" | "brev" | "bfind" | "rcp" | "sqrt"
        | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "testp" => 1,
        "mad" | "fma" | "sad" | "selp" | "bfe" | "prmt" | "shf" | "dp4a" => 3,
        "bfi" | "lop3" => 4,
        _ => 2,
    }
}
