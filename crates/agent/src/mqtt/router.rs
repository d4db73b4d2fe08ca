//! Topic to inbox. Never waits: what finds no room is counted and left unacknowledged, so that the broker
//! sends it again after the next reconnect.

use tokio::sync::mpsc;

use super::{Inbound, Qos};

/// What became of a message from the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed {
    Delivered,
    /// The inbox is full, or its claimant is being started again: unacknowledged, counted.
    Full,
    /// Nobody claimed its topic: acknowledge it, or it would block the window.
    Unclaimed,
    /// Nobody here claimed its topic, and it is for somebody else.
    NotOurs,
}

#[derive(Debug)]
struct Route {
    /// Who claimed it: whoever claims the same again takes its place, subscription and all.
    owner: &'static str,
    /// Filter, perhaps with `{device_id}` in it.
    template: String,
    /// The filter once everything in it is known.
    filter: Option<String>,
    qos: Qos,
    capacity: usize,
    inbox: mpsc::Sender<Inbound>,
    /// The broker has granted it on this connection.
    subscribed: bool,
}

/// All claims of this process.
#[derive(Debug, Default)]
pub(super) struct Router {
    routes: Vec<Route>,
    device_id: Option<String>,
    /// The session is another's: what nobody claims here is his.
    visiting: bool,
    /// Filters that nobody claims any more; the broker's session may have them.
    orphans: Vec<String>,
}

impl Router {
    /// Claims a filter for `owner`; `{device_id}` in it is filled in when the device has one.
    pub(super) fn claim(
        &mut self,
        owner: &'static str,
        template: &str,
        qos: Qos,
        capacity: usize,
    ) -> mpsc::Receiver<Inbound> {
        // What is not acknowledged fills the window; what has no need of that still passes.
        let qos = if self.visiting { Qos::AtMostOnce } else { qos };
        let capacity = capacity.max(1);
        let (inbox, receiver) = mpsc::channel(capacity);
        let same = |route: &&mut Route| {
            route.inbox.is_closed() && (route.owner, route.qos) == (owner, qos) && route.template == template
        };
        if let Some(vacant) = self.routes.iter_mut().find(same) {
            (vacant.inbox, vacant.capacity) = (inbox, capacity);
            return receiver;
        }
        let filter = fill(template, self.device_id.as_deref());
        let template = template.to_owned();
        self.routes.push(Route { owner, template, filter, qos, capacity, inbox, subscribed: false });
        receiver
    }

    /// Uses a session that is another's: takes what is claimed from now on, and nothing else.
    pub(super) fn visit(&mut self) {
        self.visiting = true;
    }

    /// `owner` does not come back for what it has claimed.
    pub(super) fn release(&mut self, owner: &str) {
        let gone = self.routes.extract_if(.., |route| route.owner == owner && route.inbox.is_closed());
        self.orphans.extend(gone.filter_map(|route| route.filter));
    }

    /// Some claimant is being started again.
    pub(super) fn has_vacancy(&self) -> bool {
        self.routes.iter().any(|route| route.inbox.is_closed())
    }

    /// From now on `{device_id}` is known. False where it was known before.
    pub(super) fn bind(&mut self, device_id: &str) -> bool {
        if self.device_id.replace(device_id.to_owned()).as_deref() == Some(device_id) {
            return false;
        }
        for route in &mut self.routes {
            let filter = fill(&route.template, Some(device_id));
            if filter != route.filter {
                route.filter = filter;
                route.subscribed = false;
            }
        }
        true
    }

    /// Another connection: everything claimed is to be subscribed on it.
    pub(super) fn resubscribe(&mut self) {
        self.routes.iter_mut().for_each(|route| route.subscribed = false);
    }

    /// The broker has forgotten us: there is nothing to unsubscribe.
    pub(super) fn forget_session(&mut self) {
        self.orphans.clear();
    }

    /// The filters still to subscribe, and those to unsubscribe.
    pub(super) fn changes(&mut self) -> (Vec<(String, Qos)>, Vec<String>) {
        let mut add: Vec<(String, Qos)> = Vec::new();
        for route in self.routes.iter().filter(|route| !route.subscribed) {
            if let Some(filter) = route.filter.clone()
                && !add.iter().any(|(known, _)| *known == filter)
            {
                add.push((filter, route.qos));
            }
        }
        let mut remove = std::mem::take(&mut self.orphans);
        remove.retain(|orphan| !self.routes.iter().any(|route| route.filter.as_ref() == Some(orphan)));
        (add, remove)
    }

    /// There is something to subscribe or to unsubscribe.
    pub(super) fn has_changes(&self) -> bool {
        !self.orphans.is_empty()
            || self.routes.iter().any(|route| !route.subscribed && route.filter.is_some())
    }

    /// The broker answered for `filter`.
    pub(super) fn subscribed(&mut self, filter: &str) {
        let matching = self.routes.iter_mut().filter(|route| route.filter.as_deref() == Some(filter));
        matching.for_each(|route| route.subscribed = true);
    }

    /// The smallest inbox: no more unacknowledged messages than that may be on their way to us.
    pub(super) fn smallest(&self) -> Option<usize> {
        self.routes.iter().map(|route| route.capacity).min()
    }

    /// Hands a message to whoever claimed its topic.
    pub(super) fn route(&self, message: Inbound) -> Routed {
        let claims =
            |route: &&Route| route.filter.as_deref().is_some_and(|filter| matches(filter, &message.topic));
        let Some(route) = self.routes.iter().find(claims) else {
            message.leave();
            return if self.visiting { Routed::NotOurs } else { Routed::Unclaimed };
        };
        match route.inbox.try_send(message) {
            Ok(()) => Routed::Delivered,
            Err(mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message)) => {
                message.leave();
                Routed::Full
            }
        }
    }
}

fn fill(template: &str, device_id: Option<&str>) -> Option<String> {
    match device_id {
        _ if !template.contains("{device_id}") => Some(template.to_owned()),
        Some(id) => Some(template.replace("{device_id}", id)),
        None => None,
    }
}

/// MQTT 5 section 4.7: `+` is one level, `#` is the rest, and neither matches a first level with `$`.
fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let (mut filters, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (filters.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str) -> Inbound {
        Inbound::detached(topic, b"x")
    }

    #[test]
    fn wildcards_match_as_the_standard_says() {
        for (filter, topic, wanted) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("#", "a/b", true),
            ("+/b", "/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a", "a/", false),
        ] {
            assert_eq!(matches(filter, topic), wanted, "{filter} {topic}");
        }
    }

    #[test]
    fn a_filter_waits_for_the_device_id() {
        let mut router = Router::default();
        let _inbox = router.claim("test", "iot/{device_id}/command", Qos::AtLeastOnce, 4);
        assert!(!router.has_changes());
        assert!(router.bind("d1"));
        assert_eq!(router.changes().0, [("iot/d1/command".to_owned(), Qos::AtLeastOnce)]);
        router.subscribed("iot/d1/command");
        assert!(!router.has_changes());
        router.resubscribe();
        assert!(router.has_changes());
    }

    #[test]
    fn a_full_inbox_is_told() {
        let mut router = Router::default();
        let _inbox = router.claim("test", "a/+", Qos::AtLeastOnce, 1);
        assert_eq!(router.route(message("a/1")), Routed::Delivered);
        assert_eq!(router.route(message("a/2")), Routed::Full);
        assert_eq!(router.route(message("b")), Routed::Unclaimed);
    }

    /// While a service is started again its subscription stays, and its messages stay with the broker.
    #[test]
    fn a_claim_outlives_its_inbox_until_it_is_released() {
        let mut router = Router::default();
        drop(router.claim("test", "a/+", Qos::AtLeastOnce, 1));
        router.subscribed("a/+");
        assert!(router.has_vacancy() && !router.has_changes());
        assert_eq!(router.route(message("a/1")), Routed::Full);
        let inbox = router.claim("test", "a/+", Qos::AtLeastOnce, 1);
        assert!(!router.has_vacancy() && !router.has_changes(), "takes the vacant place");
        router.release("test");
        assert!(!router.has_changes(), "in use");
        drop(inbox);
        router.release("test");
        assert_eq!(router.changes(), (vec![], vec!["a/+".to_owned()]));
        assert_eq!(router.route(message("a/1")), Routed::Unclaimed);
    }
}
