//! PTX text to tokens. Every token remembers its line: errors, faults and `.loc` need it.

use super::ParseError;

#[derive(Debug, Clone, PartialEq)]
pub enum TokenKind<'a> {
    /// Directive, opcode, register, label or name: `.reg`, `cp.async.cg`, `%tid.x`, `$L__BB0_2`.
    Word(&'a str),
    /// An integer; `0f` and `0d` literals arrive as their bits.
    Int(u64),
    Float32(u32),
    Float64(u64),
    /// `8.5` of `.version`, and decimal floating literals.
    Decimal(&'a str),
    Str(&'a str),
    Punct(char),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Token<'a> {
    pub kind: TokenKind<'a>,
    pub text: &'a str,
    pub line: u32,
}

/// Cuts `source` into tokens.
///
/// # Errors
/// A character PTX does not know, an open comment or string, a number that does not fit.
pub fn lex(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer { source, at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn continues_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.')
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        // 0 stands for the end: PTX text has no NUL, and every caller stops there.
        self.source.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn fail<T>(&self, from: usize, message: &str) -> Result<T, ParseError> {
        let text = self.source.get(from..).unwrap_or("");
        let token: String = text.chars().take(16).take_while(|c| !c.is_whitespace()).collect();
        Err(ParseError { line: self.line, token, message: message.into() })
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, ParseError> {
        self.skip_blank()?;
        if self.at >= self.source.len() {
            return Ok(None);
        }
        let (from, line, first) = (self.at, self.line, self.peek(0));
        let kind = match first {
            b'"' => self.string()?,
            c if c.is_ascii_digit() => self.number()?,
            c if starts_word(c) => self.word(),
            c if c.is_ascii_punctuation() => {
                self.at += 1;
                TokenKind::Punct(char::from(c))
            }
            _ => return self.fail(from, "no PTX begins with this character"),
        };
        Ok(Some(Token { kind, text: &self.source[from..self.at], line }))
    }

    fn skip_blank(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => {
                    while !matches!(self.peek(0), b'\n' | 0) {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => {
                    let from = self.at;
                    let Some(len) = self.source[from..].find("*/") else {
                        return self.fail(from, "the comment has no end");
                    };
                    self.line += count_lines(&self.source[from..from + len]);
                    self.at = from + len + 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn string(&mut self) -> Result<TokenKind<'a>, ParseError> {
        let from = self.at + 1;
        let Some(len) = self.source[from..].find('"') else {
            return self.fail(self.at, "the string has no end");
        };
        self.at = from + len + 1;
        let text = &self.source[from..from + len];
        self.line += count_lines(text);
        Ok(TokenKind::Str(text))
    }

    fn word(&mut self) -> TokenKind<'a> {
        let from = self.at;
        self.at += 1;
        loop {
            let c = self.peek(0);
            if continues_word(c) {
                self.at += 1;
            } else if c == b':' && self.peek(1) == b':' {
                // `.shared::cta`; a single colon ends a label.
                self.at += 2;
            } else {
                return TokenKind::Word(&self.source[from..self.at]);
            }
        }
    }

    fn number(&mut self) -> Result<TokenKind<'a>, ParseError> {
        let from = self.at;
        while continues_word(self.peek(0)) {
            self.at += 1;
            // The sign of a decimal exponent; hexadecimal literals have none.
            let text = &self.source[from..self.at];
            if text.ends_with(['e', 'E'])
                && text.contains('.')
                && matches!(self.peek(0), b'+' | b'-')
            {
                self.at += 1;
            }
        }
        let text = &self.source[from..self.at];
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let plain = text.trim_end_matches('U');
        let bytes = text.as_bytes();
        let kind = match (bytes[0], bytes.get(1).copied().unwrap_or(0)) {
            (b'0', b'f' | b'F') => u32::from_str_radix(&text[2..], 16).ok().map(TokenKind::Float32),
            (b'0', b'd' | b'D') => hex(&text[2..]).map(TokenKind::Float64),
            (b'0', b'x' | b'X') => hex(&plain[2..]).map(TokenKind::Int),
            (b'0', b'b' | b'B') => u64::from_str_radix(&plain[2..], 2).ok().map(TokenKind::Int),
            _ if text.contains('.') => text.parse::<f64>().ok().map(|_| TokenKind::Decimal(text)),
            (b'0', b'0'..=b'7') => u64::from_str_radix(plain, 8).ok().map(TokenKind::Int),
            _ => plain.parse().ok().map(TokenKind::Int),
        };
        kind.map_or_else(|| self.fail(from, "not a number of PTX"), Ok)
    }
}

fn count_lines(text: &str) -> u32 {
    text.bytes().fold(0, |lines, c| lines + u32::from(c == b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<TokenKind<'_>> {
        lex(source).unwrap().into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn opcodes_registers_and_labels_are_one_word_each() {
        use TokenKind::{Punct, Word};
        assert_eq!(
            kinds("$L_1: ld.shared::cta.u32 %tid.x;"),
            [Word("$L_1"), Punct(':'), Word("ld.shared::cta.u32"), Word("%tid.x"), Punct(';')]
        );
    }

    #[test]
    fn every_literal_of_the_manual_is_read() {
        use TokenKind::{Decimal, Float32, Float64, Int};
        assert_eq!(
            kinds("0x1fU 017 0b101 42 0f3f800000 0d3ff0000000000000 8.5 1.0e+3"),
            [
                Int(31),
                Int(15),
                Int(5),
                Int(42),
                Float32(0x3f80_0000),
                Float64(0x3ff0_0000_0000_0000),
                Decimal("8.5"),
                Decimal("1.0e+3")
            ]
        );
    }

    #[test]
    fn comments_and_strings_keep_the_line_count() {
        let tokens = lex("/* a\nb */ // c\n\"x\" ret").unwrap();
        assert_eq!((tokens[0].line, tokens[1].line), (3, 3));
    }

    #[test]
    fn an_error_names_line_and_text() {
        let error = lex("ret;\n 0xzz").unwrap_err();
        assert_eq!((error.line, error.token.as_str()), (2, "0xzz"));
        assert!(lex("/* open").is_err() && lex("\"open").is_err() && lex("é").is_err());
    }
}
