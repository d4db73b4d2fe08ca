//! Orders that wait for a place, within a bound of number and of bytes.

use std::collections::VecDeque;

use protocol::Timestamp;

use crate::action::Action;

/// One that waits for its turn to run.
pub(super) struct Waiting<A: Action> {
    pub(super) id: String,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) request: A::Request,
    /// Bytes of the request.
    pub(super) size: usize,
}

/// Those that wait, in order.
pub(super) struct Queue<A: Action> {
    orders: VecDeque<Waiting<A>>,
    bytes: usize,
}

impl<A: Action> Default for Queue<A> {
    fn default() -> Self {
        Self { orders: VecDeque::new(), bytes: 0 }
    }
}

impl<A: Action> Queue<A> {
    pub(super) fn push_back(&mut self, order: Waiting<A>) {
        self.bytes += order.size;
        self.orders.push_back(order);
    }

    pub(super) fn push_front(&mut self, order: Waiting<A>) {
        self.bytes += order.size;
        self.orders.push_front(order);
    }

    pub(super) fn pop_front(&mut self) -> Option<Waiting<A>> {
        let order = self.orders.pop_front()?;
        self.bytes -= order.size;
        Some(order)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Waiting<A>> {
        let order = self.orders.remove(self.orders.iter().position(|order| order.id == id)?)?;
        self.bytes -= order.size;
        Some(order)
    }

    pub(super) fn len(&self) -> usize {
        self.orders.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn find(&self, id: &str) -> Option<&Waiting<A>> {
        self.orders.iter().find(|order| order.id == id)
    }
}
