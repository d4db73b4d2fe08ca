//! Orders as they come from a broker, and the journal that remembers them.

use std::sync::{Arc, Mutex};

use protocol::{
    command::{Order, Request},
    ssh, update,
};
use serde_json::{value::RawValue, value::to_raw_value};

use super::outbox::{Memory, files};
use crate::{
    action::journal::{self, Journal, Kept, Line, State},
    outbox::Disk,
};

/// The bytes are an order; and they are the files of a journal, as for the outbox. An order that is taken is written down and
/// read again as the same. Whatever is in the journal: it opens, what it remembers as ended stays so, and a new id
/// is taken and remembered.
pub fn orders(data: &[u8]) {
    if let Ok(Request::Run { execution_id, order, .. }) = Request::decode(data) {
        assert!(!execution_id.as_str().contains(['/', '+', '#', '\0']) && execution_id.as_str().len() <= 128);
        assert!(!order.command.contains('\0') && order.timeout_s.is_none_or(|seconds| seconds > 0.0));
        let written = to_raw_value(&order).expect("an order makes JSON");
        assert_eq!(serde_json::from_str::<Order>(written.get()).expect("what was written"), order);
    }
    if let Ok(ssh::Request::Open { request_id, wanted, .. }) = ssh::Request::decode(data) {
        let fine = |id: &str| !id.is_empty() && !id.contains(['/', '+', '#', '\0']) && id.len() <= 128;
        assert!(
            request_id.is_none_or(|id| fine(id.as_str())) && wanted.server_id.as_deref().is_none_or(fine)
        );
        assert!(wanted.lport > 0 && wanted.ttl_s.is_none_or(|seconds| seconds > 0.0));
        let written = to_raw_value(&wanted).expect("a wish makes JSON");
        assert_eq!(serde_json::from_str::<ssh::Wanted>(written.get()).expect("what was written"), wanted);
    }
    if let Ok(update::Request { update_id, wanted, .. }) = update::Request::decode(data) {
        assert!(!update_id.as_str().contains(['/', '+', '#', '\0']) && update_id.as_str().len() <= 128);
        assert!(wanted.size > 0 && !wanted.version.is_empty());
        let written = to_raw_value(&wanted).expect("a wish makes JSON");
        assert_eq!(serde_json::from_str::<update::Wanted>(written.get()).expect("what was written"), wanted);
    }
    drop(update::Offer::decode(data));
    let disk: Arc<dyn Disk> = Arc::new(Memory(Mutex::new(files(data))));
    let kept = Kept { ids: 4, bytes: 1 << 12 };
    let open = || Journal::open(Arc::clone(&disk), kept, |outcome| outcome.to_owned());
    let known = journal::read(Arc::clone(&disk)).expect("nothing is wrong with the disk");
    let mut journal = open().expect("nothing is wrong with the disk");
    let (open_orders, untold) = journal.unfinished().expect("nothing is wrong with the disk");
    assert!(open_orders.len() + untold.len() <= known.len(), "made up");
    let request = RawValue::NULL.to_owned();
    let line = Line::Accepted {
        id: "a new id".to_owned(),
        n: 0,
        at: protocol::Timestamp::from_millis(0).expect("1970"),
        boot_id: String::new(),
        unnamed: false,
        started: true,
        expires_at: None,
        request,
    };
    let was = journal.state("a new id");
    match journal.commit(vec![line]) {
        Ok(()) => {
            let expected = was.filter(|state| matches!(state, State::Ended { .. })).unwrap_or(State::Started);
            assert_eq!(open().expect("nothing is wrong with the disk").state("a new id"), Some(expected));
        }
        // There is a number after which there is none.
        Err(error) => assert!(error.to_string().contains("no number is left"), "{error}"),
    }
}
