//! The inside of a kernel: declarations, labels, instructions and their operands.

use super::ParseError;
use super::ast::{AddressBase, Guard, Instruction, Operand, RegisterDecl, Statement, Type};
use super::lexer::TokenKind;
use super::parser::Parser;

/// Compilers nest two or three deep; the bound keeps the recursion off the stack's end.
const MAX_SCOPES: u32 = 64;

/// No instruction has more elements in a vector (wgmma m64n256: 128 registers).
const MAX_VECTOR: usize = 256;

/// A compiler's `%r<N>` is below 100,000; the bound keeps a typo from taking all memory.
const MAX_REGISTERS: u32 = 1 << 17;

impl Parser<'_, '_> {
    /// Statements up to the closing brace, which is taken as well.
    pub(super) fn body(&mut self, depth: u32) -> Result<Vec<Statement>, ParseError> {
        if depth > MAX_SCOPES {
            return self.fail("scopes are nested too deep");
        }
        let mut statements = Vec::new();
        loop {
            if self.eat('}') {
                return Ok(statements);
            }
            if self.eat('{') {
                statements.push(Statement::Scope(self.body(depth + 1)?));
                continue;
            }
            if self.eat(';') {
                continue;
            }
            if self.peek().is_some_and(|token| token.text == "@") {
                statements.push(Statement::Instruction(self.instruction()?));
                continue;
            }
            let Some(word) = self.peek_word() else {
                return self.fail("a statement or '}' is expected here");
            };
            if word.starts_with('.') {
                self.body_directive(word, &mut statements)?;
            } else if self.tokens.get(self.at + 1).is_some_and(|token| token.text == ":") {
                self.at += 2;
                statements.push(Statement::Label(word.to_string()));
            } else {
                statements.push(Statement::Instruction(self.instruction()?));
            }
        }
    }

    fn body_directive(
        &mut self,
        word: &str,
        statements: &mut Vec<Statement>,
    ) -> Result<(), ParseError> {
        match word {
            ".reg" => self.registers(statements)?,
            ".loc" | ".file" => self.skip_line(),
            ".pragma" => self.skip_to_semicolon()?,
            _ => {
                let variables = self.variables(word)?;
                statements.extend(variables.into_iter().map(Statement::Variable));
            }
        }
        Ok(())
    }

    fn registers(&mut self, statements: &mut Vec<Statement>) -> Result<(), ParseError> {
        self.at += 1;
        let line = self.line();
        let Some(ty) = Type::parse(self.word()?.trim_start_matches('.')) else {
            self.at -= 1;
            return self.fail("a type is expected here");
        };
        loop {
            let name = self.word()?.to_string();
            let count = if self.eat('<') {
                let count = self.int32()?;
                if count > MAX_REGISTERS {
                    return self.fail("too many registers");
                }
                self.expect('>')?;
                Some(count)
            } else {
                None
            };
            statements.push(Statement::Registers(RegisterDecl { name, ty, count, line }));
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    fn instruction(&mut self) -> Result<Instruction, ParseError> {
        let line = self.line();
        let guard = if self.eat('@') {
            let negated = self.eat('!');
            Some(Guard { register: self.word()?.to_string(), negated })
        } else {
            None
        };
        let opcode = self.word()?.split('.').map(ToString::to_string).collect();
        let mut operands = Vec::new();
        while !self.eat(';') {
            operands.push(self.operand()?);
            if !self.eat(',') && self.peek().is_none_or(|token| token.text != ";") {
                return self.fail("',' or ';' is expected here");
            }
        }
        Ok(Instruction { guard, opcode, operands, line })
    }

    fn operand(&mut self) -> Result<Operand, ParseError> {
        if self.eat('[') {
            return self.address();
        }
        if self.eat('{') {
            return self.vector();
        }
        if self.eat('!') {
            return Ok(Operand::Not(self.word()?.to_string()));
        }
        if let Some(word) = self.peek_word() {
            self.at += 1;
            if self.eat('|') {
                return Ok(Operand::Pair(word.to_string(), self.word()?.to_string()));
            }
            return Ok(if word == "_" { Operand::Sink } else { Operand::Name(word.to_string()) });
        }
        self.number()
    }

    fn number(&mut self) -> Result<Operand, ParseError> {
        let negative = self.eat('-');
        let Some(token) = self.peek() else { return self.fail("an operand is expected here") };
        let operand = match token.kind {
            TokenKind::Int(value) if negative => Operand::Int((value as i64).wrapping_neg()),
            TokenKind::Int(value) => Operand::Int(value as i64),
            TokenKind::Float32(bits) => Operand::F32(bits ^ (u32::from(negative) << 31)),
            TokenKind::Float64(bits) => Operand::F64(bits ^ (u64::from(negative) << 63)),
            TokenKind::Decimal(text) => {
                let value: f64 = text.parse().unwrap_or(f64::NAN);
                Operand::F64((if negative { -value } else { value }).to_bits())
            }
            _ => return self.fail("an operand is expected here"),
        };
        self.at += 1;
        Ok(operand)
    }

    fn address(&mut self) -> Result<Operand, ParseError> {
        let base = match self.peek_word() {
            Some(word) => {
                self.at += 1;
                AddressBase::Name(word.to_string())
            }
            None => AddressBase::Absolute,
        };
        let signed = self.eat('+') || self.peek().is_some_and(|token| token.text == "-");
        let offset = if signed || base == AddressBase::Absolute {
            match self.number()? {
                Operand::Int(value) => value,
                _ => return self.fail("an offset is a whole number"),
            }
        } else {
            0
        };
        self.expect(']')?;
        Ok(Operand::Address { base, offset })
    }

    fn vector(&mut self) -> Result<Operand, ParseError> {
        let mut elements = Vec::new();
        loop {
            // A vector in a vector is no PTX, and would let a text nest without end.
            if self.peek().is_some_and(|token| matches!(token.text, "{" | "[")) {
                return self.fail("a vector holds registers and numbers only");
            }
            elements.push(self.operand()?);
            if elements.len() > MAX_VECTOR {
                return self.fail("the vector is too long");
            }
            if self.eat('}') {
                return Ok(Operand::Vector(elements));
            }
            self.expect(',')?;
        }
    }
}
