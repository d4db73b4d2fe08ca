//! What a keeper and the agent tell each other, and what lies in a spool file.

use crate::executor::frame::{Decoder, Frame};

/// As in a job whose output is small.
const MAX: usize = 1 << 16;

/// Whatever comes ends in frames, or in a reason after which nothing more is read; no matter how it is cut. A frame that
/// was understood is understood again when it is written anew.
pub fn frames(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    for step in [1, 7] {
        assert_eq!(read(data, step), whole, "in steps of {step}");
    }
    for frame in &whole.0 {
        let bytes = frame.encode();
        let mut decoder = Decoder::new(bytes.len());
        decoder.push(&bytes);
        assert_eq!(decoder.next().as_ref(), Ok(&Some(frame.clone())));
        assert_eq!(decoder.next(), Ok(None), "and nothing is left");
    }
}

/// The frames, and how it ended.
fn read(data: &[u8], step: usize) -> (Vec<Frame>, Option<String>) {
    let mut decoder = Decoder::new(MAX);
    let mut frames = Vec::new();
    for piece in data.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(why) => return (frames, Some(why.to_string())),
            }
        }
    }
    (frames, None)
}
