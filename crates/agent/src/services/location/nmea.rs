//! NMEA 0183: sentences out of whatever comes over a line, in bounded memory.
//!
//! Only sentences with a right checksum are looked at. What is between them, be it half a sentence or a protocol of
//! the receiver's own, is passed over.

mod epoch;
mod sentence;

pub(super) use epoch::{Epochs, Judgement};
pub(super) use sentence::Sentence;

/// The longest sentence, from `$` to the checksum. The standard has 82 characters, with both ends; receivers have more.
const LONGEST: usize = 255;

/// Cuts bytes into sentences.
#[derive(Debug)]
pub(super) struct Splitter {
    /// What has come of a sentence since its `$`.
    text: [u8; LONGEST],
    length: usize,
    state: State,
    /// Sentences whose checksum was wrong.
    pub(super) damaged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Between sentences.
    Outside,
    /// Behind a `$`.
    Inside,
    /// Behind the `*`, and its first digit if that has come.
    Checksum(Option<u8>),
}

impl Default for Splitter {
    fn default() -> Self {
        Self { text: [0; LONGEST], length: 0, state: State::Outside, damaged: 0 }
    }
}

impl Splitter {
    /// The next byte; the sentence that it ends, between `$` and `*`, if its checksum is right.
    pub(super) fn push(&mut self, byte: u8) -> Option<&str> {
        match (self.state, byte) {
            // Whatever was before is not going to end any more.
            (_, b'$') => {
                (self.state, self.length) = (State::Inside, 0);
                None
            }
            (State::Outside, _) => None,
            (State::Inside, b'*') => {
                self.state = State::Checksum(None);
                None
            }
            (State::Inside, b' '..=b'~') if self.length < LONGEST => {
                self.text[self.length] = byte;
                self.length += 1;
                None
            }
            (State::Checksum(first), _) if hex(byte).is_some() => self.checksum(first, hex(byte)?),
            _ => {
                self.state = State::Outside;
                None
            }
        }
    }

    fn checksum(&mut self, first: Option<u8>, digit: u8) -> Option<&str> {
        let Some(first) = first else {
            self.state = State::Checksum(Some(digit));
            return None;
        };
        self.state = State::Outside;
        let text = &self.text[..self.length];
        if text.iter().fold(0, |sum, byte| sum ^ byte) != first << 4 | digit {
            self.damaged += 1;
            return None;
        }
        str::from_utf8(text).ok()
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod recordings;
#[cfg(test)]
mod tests;
