//! Tokens to a module: directives, variables and kernel headers. Bodies are `statement.rs`.

use super::ParseError;
use super::ast::{Entry, Ptx, Space, Type, Variable};
use super::lexer::{Token, TokenKind, lex};

/// No array of a kernel is larger; a bound against sizes that overflow.
const MAX_VARIABLE_BYTES: u64 = 1 << 30;

/// Reads a whole PTX file.
///
/// # Errors
/// The first text that is not PTX, with line and token. Unknown opcodes are no error here.
pub fn parse(source: &str) -> Result<Ptx, ParseError> {
    let tokens = lex(source)?;
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut ptx = Ptx::default();
    while let Some(token) = parser.peek() {
        match token.kind {
            TokenKind::Word(word) => parser.directive(word, &mut ptx)?,
            _ => return parser.fail("a directive is expected here"),
        }
    }
    if ptx.version == (0, 0) {
        return parser.fail("the file has no .version");
    }
    Ok(ptx)
}

pub(super) struct Parser<'t, 'a> {
    pub(super) tokens: &'t [Token<'a>],
    pub(super) at: usize,
}

impl<'a> Parser<'_, 'a> {
    pub(super) fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.at)
    }

    pub(super) fn peek_word(&self) -> Option<&'a str> {
        match self.peek()?.kind {
            TokenKind::Word(word) => Some(word),
            _ => None,
        }
    }

    pub(super) fn line(&self) -> u32 {
        self.peek().or(self.tokens.last()).map_or(1, |token| token.line)
    }

    pub(super) fn fail<T>(&self, message: &str) -> Result<T, ParseError> {
        let token = self.peek().map_or("end of file", |token| token.text).to_string();
        Err(ParseError { line: self.line(), token, message: message.into() })
    }

    pub(super) fn eat(&mut self, punct: char) -> bool {
        let found = self.peek().is_some_and(|token| token.kind == TokenKind::Punct(punct));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, punct: char) -> Result<(), ParseError> {
        if self.eat(punct) { Ok(()) } else { self.fail(&format!("'{punct}' is expected here")) }
    }

    pub(super) fn word(&mut self) -> Result<&'a str, ParseError> {
        let Some(word) = self.peek_word() else { return self.fail("a name is expected here") };
        self.at += 1;
        Ok(word)
    }

    pub(super) fn int(&mut self) -> Result<u64, ParseError> {
        let Some(TokenKind::Int(value)) = self.peek().map(|token| token.kind.clone()) else {
            return self.fail("a whole number is expected here");
        };
        self.at += 1;
        Ok(value)
    }

    pub(super) fn int32(&mut self) -> Result<u32, ParseError> {
        let value = self.int()?;
        u32::try_from(value).or_else(|_| {
            self.at -= 1;
            self.fail("the number does not fit in 32 bits")
        })
    }

    /// `.loc` and `.file` end with their line.
    pub(super) fn skip_line(&mut self) {
        let line = self.line();
        while self.peek().is_some_and(|token| token.line == line) {
            self.at += 1;
        }
    }

    pub(super) fn skip_to_semicolon(&mut self) -> Result<(), ParseError> {
        while !self.eat(';') {
            if self.peek().is_none() {
                return self.fail("';' is expected here");
            }
            self.at += 1;
        }
        Ok(())
    }

    /// Over a `{ }` with all it holds.
    fn skip_braces(&mut self) -> Result<(), ParseError> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            if self.eat('{') {
                depth += 1;
            } else if self.eat('}') {
                depth -= 1;
            } else if self.peek().is_none() {
                return self.fail("'}' is expected here");
            } else {
                self.at += 1;
            }
        }
        Ok(())
    }

    fn directive(&mut self, word: &str, ptx: &mut Ptx) -> Result<(), ParseError> {
        match word {
            ".version" => {
                self.at += 1;
                ptx.version = self.version()?;
            }
            ".target" => {
                self.at += 1;
                ptx.target = self.word()?.to_string();
                // `debug`, `texmode_...`: no effect on what is computed.
                while self.eat(',') {
                    self.word()?;
                }
            }
            ".address_size" => {
                self.at += 1;
                if self.int()? != 64 {
                    self.at -= 1;
                    return self.fail("only 64-bit addresses are emulated");
                }
            }
            ".file" | ".loc" => self.skip_line(),
            ".pragma" => self.skip_to_semicolon()?,
            ".section" => {
                self.at += 1;
                self.word()?;
                self.skip_braces()?;
            }
            ".visible" | ".weak" | ".common" => self.at += 1,
            ".entry" => {
                let entry = self.entry()?;
                ptx.entries.push(entry);
            }
            // A function is only needed by `call`, which is refused where it stands.
            ".func" => self.skip_function()?,
            ".extern" if self.tokens.get(self.at + 1).is_some_and(|t| t.text == ".func") => {
                self.at += 1;
                self.skip_function()?;
            }
            _ => {
                let variables = self.variables(word)?;
                ptx.variables.extend(variables);
            }
        }
        Ok(())
    }

    fn version(&mut self) -> Result<(u32, u32), ParseError> {
        let text = self.peek().map_or("", |token| token.text);
        let parts = text.split_once('.').map(|(major, minor)| (major.parse(), minor.parse()));
        let Some((Ok(major), Ok(minor))) = parts else {
            return self.fail("a version such as 7.8 is expected here");
        };
        self.at += 1;
        Ok((major, minor))
    }

    fn skip_function(&mut self) -> Result<(), ParseError> {
        loop {
            match self.peek().map(|token| token.kind.clone()) {
                None => return self.fail("the function has no body"),
                Some(TokenKind::Punct('{')) => return self.skip_braces(),
                Some(TokenKind::Punct(';')) => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn entry(&mut self) -> Result<Entry, ParseError> {
        self.at += 1;
        let line = self.line();
        let name = self.word()?.to_string();
        let mut params = Vec::new();
        if self.eat('(') {
            while !self.eat(')') {
                params.extend(self.variable()?);
                if !self.eat(',') && self.peek().is_some_and(|token| token.text != ")") {
                    return self.fail("',' or ')' is expected here");
                }
            }
        }
        let mut entry =
            Entry { name, params, required_threads: None, max_threads: None, body: vec![], line };
        while !self.eat('{') {
            let word = self.word()?;
            match word {
                ".reqntid" => entry.required_threads = Some(self.shape()?),
                ".maxntid" => {
                    let [x, y, z] = self.shape()?;
                    entry.max_threads = Some(x.saturating_mul(y).saturating_mul(z));
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                    self.int()?;
                }
                ".pragma" => self.skip_to_semicolon()?,
                _ => {
                    self.at -= 1;
                    return self.fail("no directive of a kernel");
                }
            }
        }
        entry.body = self.body(0)?;
        Ok(entry)
    }

    fn shape(&mut self) -> Result<[u32; 3], ParseError> {
        let mut shape = [1; 3];
        for (axis, size) in shape.iter_mut().enumerate() {
            if axis == 0 || self.eat(',') {
                *size = self.int32()?;
            }
        }
        Ok(shape)
    }

    /// One declaration up to its ';', which may name several variables.
    pub(super) fn variables(&mut self, first: &str) -> Result<Vec<Variable>, ParseError> {
        if !matches!(first, ".extern" | ".global" | ".const" | ".shared" | ".local" | ".param") {
            return self.fail("no directive the emulator knows");
        }
        let variables = self.variable()?;
        self.expect(';')?;
        Ok(variables)
    }

    fn variable(&mut self) -> Result<Vec<Variable>, ParseError> {
        let line = self.line();
        let (mut space, mut ty, mut align, mut external) = (None, None, 0, false);
        let mut vector = 1u64;
        while let Some(word) = self.peek_word().filter(|word| word.starts_with('.')) {
            self.at += 1;
            match word {
                ".extern" => external = true,
                ".align" => align = self.int32()?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                // `.ptr .global` behind a parameter says where it points, not where it is.
                ".ptr" | ".attribute" => {}
                _ => match (space_of(word), Type::parse(&word[1..])) {
                    (Some(found), _) => space = space.or(Some(found)),
                    (_, Some(found)) => ty = Some(found),
                    _ => {
                        self.at -= 1;
                        return self.fail("no part of a declaration");
                    }
                },
            }
        }
        let (Some(space), Some(ty)) = (space, ty) else {
            return self.fail("a declaration needs a space and a type");
        };
        let mut variables = Vec::new();
        loop {
            let name = self.word()?.to_string();
            let size_bytes = self.size(u64::from(ty.bytes()) * vector)?;
            let init = if self.eat('=') { self.initial(ty)? } else { Vec::new() };
            if init.len() > size_bytes as usize {
                return self.fail("more values than the variable holds");
            }
            let align = if align == 0 { ty.bytes() * vector as u32 } else { align };
            if !align.is_power_of_two() {
                return self.fail("an alignment is a power of two");
            }
            variables.push(Variable { name, space, ty, align, size_bytes, external, init, line });
            // In a parameter list the comma starts a new declaration.
            let more = self.tokens.get(self.at + 1).is_some_and(|t| !t.text.starts_with('.'));
            if !(more && self.eat(',')) {
                return Ok(variables);
            }
        }
    }

    /// `[4][8]` and `[]` behind a name.
    fn size(&mut self, element_bytes: u64) -> Result<u32, ParseError> {
        let mut bytes = element_bytes;
        while self.eat('[') {
            if self.eat(']') {
                return Ok(0);
            }
            bytes = bytes.saturating_mul(self.int()?);
            self.expect(']')?;
        }
        if bytes > MAX_VARIABLE_BYTES {
            return self.fail("the variable is too large");
        }
        Ok(bytes as u32)
    }

    fn initial(&mut self, ty: Type) -> Result<Vec<u8>, ParseError> {
        let mut bytes = Vec::new();
        let mut depth = 0u32;
        loop {
            while self.eat('{') {
                depth += 1;
            }
            let negative = self.eat('-');
            let Some(token) = self.peek() else { return self.fail("a value is expected here") };
            let bits = match token.kind {
                TokenKind::Int(value) if negative => value.wrapping_neg(),
                TokenKind::Int(value) | TokenKind::Float64(value) => value,
                TokenKind::Float32(value) => u64::from(value),
                _ => return self.fail("only numbers are taken as initial values"),
            };
            self.at += 1;
            let width = (ty.bytes() as usize).min(8);
            bytes.extend_from_slice(&bits.to_le_bytes()[..width]);
            while depth > 0 && self.eat('}') {
                depth -= 1;
            }
            if depth == 0 {
                return Ok(bytes);
            }
            self.expect(',')?;
        }
    }
}

fn space_of(word: &str) -> Option<Space> {
    Some(match word {
        ".global" => Space::Global,
        ".shared" => Space::Shared,
        ".local" => Space::Local,
        ".param" => Space::Param,
        ".const" => Space::Const,
        _ => return None,
    })
}
