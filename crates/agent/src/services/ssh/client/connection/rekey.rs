//! Further exchanges of keys on a connection at work (RFC 4253, section 9): the server begins one, or we do, or both.

use super::{Error, Work};
use crate::services::ssh::{
    client::kex::{Exchange, Keys, propose},
    wire::msg,
};

/// How far a further exchange of keys is.
pub(super) enum Rekey {
    Not,
    /// We have begun one, with this proposal: the server's is to come.
    Proposed(Vec<u8>),
    /// The server's half is to come.
    Begun(Box<Exchange>),
    /// The server is to say that it uses them from then on.
    Agreed(Keys),
}

impl Work {
    /// Begins an exchange where a key was used for long. The server begins one of its own accord, but need not.
    pub(super) fn renew(&mut self) -> Result<(), Error> {
        let mut state = self.core.state();
        let worn = self.opener.is_worn(&self.limit) || state.port.is_worn(&self.limit);
        if worn && matches!(self.rekey, Rekey::Not) {
            let ours = propose(&self.session)?;
            state.port.hold();
            state.port.exchange(&ours);
            self.rekey = Rekey::Proposed(ours);
        }
        Ok(())
    }

    /// Keys are agreed on anew. What is on its way from the server meanwhile is under the old ones.
    pub(super) fn exchange(&mut self, message: &[u8]) -> Result<(), Error> {
        let mut state = self.core.state();
        match (std::mem::replace(&mut self.rekey, Rekey::Not), message[0]) {
            (Rekey::Not, msg::KEXINIT) => {
                let (exchange, messages) = Exchange::begin(&mut self.session, message)?;
                state.port.hold();
                messages.iter().for_each(|message| state.port.exchange(message));
                self.rekey = Rekey::Begun(Box::new(exchange));
            }
            (Rekey::Proposed(ours), msg::KEXINIT) => {
                let (exchange, init) = Exchange::agree(&self.session, &ours, message)?;
                state.port.exchange(&init);
                self.rekey = Rekey::Begun(Box::new(exchange));
            }
            (Rekey::Begun(mut exchange), 30..=49) if exchange.skip => {
                exchange.skip = false;
                self.rekey = Rekey::Begun(exchange);
            }
            (Rekey::Begun(exchange), 30..=49) => {
                let keys = exchange.finish(&mut self.session, message)?;
                let strict = self.session.strict;
                state.port.release(|sealer| keys.seal(sealer, strict));
                self.rekey = Rekey::Agreed(keys);
            }
            (Rekey::Agreed(keys), msg::NEWKEYS) => keys.open(&mut self.opener, self.session.strict),
            (_, other) => return Err(Error::Unexpected(other)),
        }
        Ok(())
    }
}
