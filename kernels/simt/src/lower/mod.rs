//! A parsed kernel to a runnable one: names become slots, opcodes functions, labels indices.

mod alu;
mod memory;
mod names;
mod warp;
mod wgmma;

use std::collections::HashMap;

use crate::program::{Alu, Inst, Kernel, Op, Param, Slot, Special};
use crate::ptx::ast::{AddressBase, Entry, Instruction, Operand, Space, Statement, Type, Variable};
use names::Names;

/// What an instruction asks for and the emulator does not know, or what makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LowerError {
    pub line: u32,
    pub what: String,
}

/// Slots are a warp's memory: 256 bytes each, so this is 64 MiB a warp.
const MAX_SLOTS: u32 = 1 << 18;

/// Dynamic shared memory begins at this multiple, as 16-byte copies into it need.
const DYNAMIC_SHARED_ALIGN: u32 = 16;

/// Lowers `entry`; `globals` are the addresses of the module's variables.
///
/// # Errors
/// The first instruction that is not emulated, or a name nobody declared.
pub fn lower(
    entry: &Entry,
    module_variables: &[Variable],
    globals: &HashMap<String, u64>,
) -> Result<Kernel, LowerError> {
    let mut lowering = Lowering {
        kernel: Kernel {
            name: entry.name.clone(),
            required_threads: entry.required_threads,
            max_threads: entry.max_threads,
            ..Kernel::default()
        },
        names: Names::default(),
        constants: HashMap::new(),
        specials: HashMap::new(),
        texts: HashMap::new(),
        line: entry.line,
        branches: Vec::new(),
        shared_externals: Vec::new(),
    };
    lowering.names.push();
    lowering.params(&entry.params);
    for variable in module_variables {
        lowering.variable(variable, globals)?;
    }
    lowering.names.push();
    lowering.scope(&entry.body, globals)?;
    lowering.finish()
}

struct Lowering {
    kernel: Kernel,
    names: Names,
    constants: HashMap<u64, Slot>,
    specials: HashMap<Special, Slot>,
    texts: HashMap<String, u32>,
    line: u32,
    /// Branches whose label's id is known and whose position is not yet.
    branches: Vec<(usize, u32)>,
    /// Slots that hold the start of the dynamic shared memory.
    shared_externals: Vec<Slot>,
}

type Lowered<T = ()> = Result<T, LowerError>;

impl Lowering {
    fn fail<T>(&self, what: impl Into<String>) -> Lowered<T> {
        Err(LowerError { line: self.line, what: what.into() })
    }

    fn unknown<T>(&self, inst: &Instruction) -> Lowered<T> {
        self.fail(format!("{inst} is not emulated"))
    }

    fn params(&mut self, params: &[Variable]) {
        let mut end = 0u32;
        for param in params {
            let offset = end.next_multiple_of(param.align);
            end = offset + param.size_bytes;
            let slot = self.constant(u64::from(offset));
            self.names.variable(&param.name, slot, Space::Param);
            self.kernel.params.push(Param { offset, bytes: param.size_bytes });
        }
        self.kernel.param_bytes = end;
    }

    fn variable(&mut self, variable: &Variable, globals: &HashMap<String, u64>) -> Lowered {
        self.line = variable.line;
        let kernel = &mut self.kernel;
        let address = match variable.space {
            Space::Shared if variable.external => {
                let slot = self.fresh()?;
                self.shared_externals.push(slot);
                self.names.variable(&variable.name, slot, Space::Shared);
                return Ok(());
            }
            Space::Shared => place(&mut kernel.shared_bytes, variable),
            Space::Local => place(&mut kernel.local_bytes, variable),
            Space::Global | Space::Const => match globals.get(&variable.name) {
                Some(&address) => address,
                None => return self.fail(format!("{} has no address", variable.name)),
            },
            Space::Param | Space::Generic => return self.fail("no variable can stand here"),
        };
        let slot = self.constant(address);
        self.names.variable(&variable.name, slot, variable.space);
        Ok(())
    }

    fn scope(&mut self, body: &[Statement], globals: &HashMap<String, u64>) -> Lowered {
        // A branch may jump ahead, so the labels of a scope are known before its code.
        for statement in body {
            if let Statement::Label(name) = statement {
                self.names.label(name);
            }
        }
        for statement in body {
            match statement {
                Statement::Label(name) => self.names.place_label(name, self.kernel.code.len()),
                Statement::Registers(decl) => {
                    self.line = decl.line;
                    match decl.count {
                        None => {
                            let slot = self.fresh()?;
                            self.names.register(&decl.name, slot, decl.ty);
                        }
                        Some(count) => {
                            let first = self.kernel.num_slots;
                            if count > MAX_SLOTS - first {
                                return self.fail("too many registers");
                            }
                            self.kernel.num_slots += count;
                            self.names.registers(&decl.name, first, count, decl.ty);
                        }
                    }
                }
                Statement::Variable(variable) => self.variable(variable, globals)?,
                Statement::Instruction(inst) => self.instruction(inst)?,
                Statement::Scope(inner) => {
                    self.names.push();
                    self.scope(inner, globals)?;
                    self.names.pop();
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Lowered<Kernel> {
        // Running off the end is an exit.
        self.emit(None, "exit", Op::Exit);
        for &(at, label) in &self.branches {
            let Some(target) = self.names.position(label) else {
                let line = self.kernel.code[at].line;
                return Err(LowerError { line, what: "the label is nowhere".into() });
            };
            self.kernel.code[at].op = Op::Branch { target };
        }
        let dynamic = self.kernel.shared_bytes.next_multiple_of(DYNAMIC_SHARED_ALIGN);
        self.kernel.shared_bytes = dynamic;
        for &slot in &self.shared_externals {
            self.kernel.constants.push((slot, u64::from(dynamic)));
        }
        Ok(self.kernel)
    }

    fn emit(&mut self, guard: Option<(Slot, bool)>, text: &str, op: Op) {
        let text = if let Some(&known) = self.texts.get(text) {
            known
        } else {
            let index = self.kernel.texts.len() as u32;
            self.kernel.texts.push(text.to_string());
            self.texts.insert(text.to_string(), index);
            index
        };
        self.kernel.code.push(Inst { guard, op, text, line: self.line });
    }

    fn emit_for(&mut self, inst: &Instruction, op: Op) -> Lowered {
        let guard = self.guard(inst)?;
        self.emit(guard, &inst.to_string(), op);
        Ok(())
    }

    fn guard(&mut self, inst: &Instruction) -> Lowered<Option<(Slot, bool)>> {
        match &inst.guard {
            None => Ok(None),
            Some(guard) => Ok(Some((self.named(&guard.register)?, guard.negated))),
        }
    }

    fn fresh(&mut self) -> Lowered<Slot> {
        if self.kernel.num_slots >= MAX_SLOTS {
            return self.fail("too many registers");
        }
        self.kernel.num_slots += 1;
        Ok(self.kernel.num_slots - 1)
    }

    /// Constants come before any declaration can have filled the slots, or fit in anyway: at worst
    /// the bound is passed by the number of distinct immediates.
    fn constant(&mut self, value: u64) -> Slot {
        if let Some(&slot) = self.constants.get(&value) {
            return slot;
        }
        let slot = self.kernel.num_slots;
        self.kernel.num_slots += 1;
        self.kernel.constants.push((slot, value));
        self.constants.insert(value, slot);
        slot
    }

    fn named(&mut self, name: &str) -> Lowered<Slot> {
        if let Some(slot) = self.names.slot(name) {
            return Ok(slot);
        }
        if name == "WARP_SZ" {
            return Ok(self.constant(32));
        }
        let Some(special) = names::special(name) else {
            return self.fail(format!("{name} is not declared"));
        };
        if let Some(&slot) = self.specials.get(&special) {
            return Ok(slot);
        }
        let slot = self.fresh()?;
        self.kernel.specials.push((slot, special));
        self.specials.insert(special, slot);
        Ok(slot)
    }

    /// The slot of an input; `ty` decides how a literal is read.
    fn source(&mut self, operand: &Operand, ty: Type) -> Lowered<Slot> {
        match operand {
            Operand::Name(name) => self.named(name),
            Operand::Int(value) => Ok(self.constant(*value as u64)),
            Operand::F32(bits) => Ok(self.constant(u64::from(*bits))),
            Operand::F64(bits) if ty == Type::F32 => {
                let value = f64::from_bits(*bits) as f32;
                Ok(self.constant(u64::from(value.to_bits())))
            }
            Operand::F64(bits) => Ok(self.constant(*bits)),
            Operand::Not(name) => {
                let value = self.named(name)?;
                let inverted = self.fresh()?;
                let Some(f) = crate::alu::bits::select("not", Type::Pred) else {
                    return self.fail("no negation of predicates");
                };
                self.emit(None, "not.pred", Op::Alu(plain(f, inverted, &[value])));
                Ok(inverted)
            }
            _ => self.fail("no value"),
        }
    }

    fn target(&mut self, operand: &Operand) -> Lowered<Slot> {
        match operand {
            Operand::Name(name) => match self.names.register_slot(name) {
                Some(slot) => Ok(slot),
                None => self.fail(format!("{name} is no register")),
            },
            // Written and never read.
            Operand::Sink => self.fresh(),
            _ => self.fail("no register"),
        }
    }

    /// One register or a vector of them.
    fn targets(&mut self, operand: &Operand) -> Lowered<Box<[Slot]>> {
        match operand {
            Operand::Vector(elements) => elements.iter().map(|e| self.target(e)).collect(),
            _ => Ok(Box::new([self.target(operand)?])),
        }
    }

    fn sources(&mut self, operand: &Operand, ty: Type) -> Lowered<Box<[Slot]>> {
        match operand {
            Operand::Vector(elements) => elements.iter().map(|e| self.source(e, ty)).collect(),
            _ => Ok(Box::new([self.source(operand, ty)?])),
        }
    }

    fn address(&mut self, operand: &Operand, space: Space) -> Lowered<crate::program::Address> {
        let Operand::Address { base, offset } = operand else {
            return self.fail("an address is expected");
        };
        let (base, declared) = match base {
            AddressBase::Name(name) => (self.named(name)?, self.names.space(name)),
            AddressBase::Absolute => (self.constant(0), None),
        };
        // A variable's own space holds when the instruction names none.
        let space = if space == Space::Generic { declared.unwrap_or(space) } else { space };
        // Constants live in global memory, read-only by the language.
        let space = if space == Space::Const { Space::Global } else { space };
        Ok(crate::program::Address { space, base, offset: *offset })
    }

    fn operand<'i>(&self, inst: &'i Instruction, index: usize) -> Lowered<&'i Operand> {
        match inst.operands.get(index) {
            Some(operand) => Ok(operand),
            None => self.fail(format!("{inst} lacks an operand")),
        }
    }

    fn instruction(&mut self, inst: &Instruction) -> Lowered {
        self.line = inst.line;
        match inst.opcode[0].as_str() {
            "bra" => {
                let Operand::Name(name) = self.operand(inst, 0)? else {
                    return self.fail("a label is expected");
                };
                let Some(label) = self.names.find_label(name) else {
                    return self.fail(format!("no label {name}"));
                };
                self.branches.push((self.kernel.code.len(), label));
                self.emit_for(inst, Op::Branch { target: 0 })
            }
            "ret" | "exit" => self.emit_for(inst, Op::Exit),
            "trap" => self.emit_for(inst, Op::Trap),
            "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "ldmatrix" | "stmatrix" => {
                self.memory(inst)
            }
            // A fence of global memory alone shows nothing of shared memory.
            "fence" if inst.has("proxy") && inst.has("async") && !inst.has("global") => {
                self.emit_for(inst, Op::ProxyFence)
            }
            "wgmma" => self.wgmma(inst),
            "membar" | "fence" | "prefetch" | "prefetchu" | "discard" | "applypriority"
            | "griddepcontrol" | "nanosleep" | "setmaxnreg" | "brkpt" => {
                self.emit_for(inst, Op::Fence)
            }
            "bar" | "barrier" | "shfl" | "vote" | "activemask" | "elect" | "redux" | "mma" => {
                self.warp(inst)
            }
            _ => self.alu(inst),
        }
    }
}

fn plain(f: crate::alu::AluFn, dst: Slot, src: &[Slot]) -> Alu {
    let mut padded = [src[0]; 4];
    padded[..src.len()].copy_from_slice(src);
    let (flush_inputs, flush_result) = (false, false);
    Alu { f, dst, src: padded, flush_inputs, flush_result, saturate: false, error_ulps: 0 }
}

/// Puts `variable` behind `end` and answers its offset.
fn place(end: &mut u32, variable: &Variable) -> u64 {
    let offset = end.next_multiple_of(variable.align);
    *end = offset + variable.size_bytes;
    u64::from(offset)
}
