//! Whether a tunnel may be opened: by the service's own keys, and by the owner's policy.

use protocol::ssh::Wanted;

use super::{Opener, link::Server, link::Target};
use crate::action::{
    Refusal,
    policy::{self, Verdict},
};

/// Where tunnels may lead, and through which servers.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) targets: Vec<policy::Allowed>,
    pub(super) backends: Vec<policy::Allowed>,
}

/// Where a tunnel leads.
pub(super) fn destination(wanted: &Wanted) -> Target {
    Target { host: wanted.lhost.clone().unwrap_or_else(|| "127.0.0.1".to_owned()), port: wanted.lport }
}

fn is_among(list: &[policy::Allowed], place: &str) -> bool {
    policy::Target::parse(place).is_ok_and(|place| list.iter().any(|allowed| allowed.has(&place)))
}

impl Opener {
    /// The server that a tunnel goes through.
    pub(super) fn server(&self, wanted: &Wanted) -> Server {
        let host = wanted.backend_host.clone().or_else(|| self.config.backend_host.clone());
        Server {
            host: host.unwrap_or_default(),
            port: wanted.backend_port.unwrap_or(self.config.backend_port),
        }
    }

    /// Whether it may be opened, and by which rule of the owner.
    pub(super) fn judge(&self, wanted: &Wanted) -> Result<Option<String>, Refusal> {
        let refused = |reason| Err(Refusal { rule: None, reason });
        let target = destination(wanted).to_string();
        if !is_among(&self.allowed.targets, &target) {
            return refused(format!("target not allowed: {target} is not among services.ssh.targets"));
        }
        let server = self.server(wanted);
        if server.host.is_empty() {
            return refused(
                "backend not allowed: services.ssh.backend_host is not set, and none is named".to_owned(),
            );
        }
        let backend = server.to_string();
        if !is_among(&self.allowed.backends, &backend) {
            return refused(format!("backend not allowed: {backend} is not among services.ssh.backends"));
        }
        self.permitted(wanted)
    }

    /// Whether the owner's policy allows it, and by which rule.
    pub(super) fn permitted(&self, wanted: &Wanted) -> Result<Option<String>, Refusal> {
        match self.ctx.shared.actions.policy.ssh(&destination(wanted).to_string()) {
            Verdict::Allowed { rule, .. } => Ok(rule),
            Verdict::Refused { rule, reason } => Err(Refusal { rule, reason: format!("policy: {reason}") }),
        }
    }
}
