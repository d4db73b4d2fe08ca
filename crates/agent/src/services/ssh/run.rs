//! One tunnel, from the wish to its end.

use std::{future::pending, sync::Arc, time::Duration};

use protocol::ssh::{Report, State, Wanted};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Opener, decide,
    link::Forward,
    open::Open,
    outcome::{self, Outcome},
};
use crate::{action::Action as _, log::chain};

/// What a request gets that does not say for how long.
const TTL: Duration = Duration::from_mins(30);
/// How often the policy is looked at while a tunnel is open.
const LOOK: Duration = Duration::from_secs(3);
/// A policy that does not allow it any more is looked at again after this: somebody may be just writing it.
const AGAIN: Duration = Duration::from_secs(1);

impl Opener {
    /// How long it may be open.
    fn ttl(&self, wanted: &Wanted) -> Duration {
        wanted.ttl_s.map_or(TTL, Duration::from_secs_f64).min(self.config.max_ttl.get())
    }

    /// Opens it, keeps it open until there is a reason not to, and closes it.
    pub(super) async fn carry(&self, id: &str, wanted: &Wanted, cancel: &CancellationToken) -> Outcome {
        // It was written down just now.
        let began = Instant::now();
        let ends = began + self.ttl(wanted);
        let report = |state| Report::of(state, self.ctx.now()).on(wanted);
        let opened = tokio::select! {
            opened = self.open(wanted) => opened,
            () = cancel.cancelled() => return Outcome::of(report(State::Closed).because(outcome::REQUESTED)),
            () = sleep_until(ends) => return Outcome::of(report(State::Closed).because(outcome::TTL)),
        };
        let forward = match opened {
            Ok(forward) => Arc::new(forward),
            Err(why) => {
                warn!(id, error = why, "a tunnel cannot be opened");
                return Outcome::of(report(State::Failed).because(why));
            }
        };
        let (server, target) = (self.server(wanted).to_string(), decide::destination(wanted).to_string());
        let rport = forward.rport();
        info!(id, server, rport, target, "tunnel open");
        let since = self.ctx.now();
        let open = Open { forward: Arc::clone(&forward), server, target, since, began, ends };
        let entry = self.ctx.shared.tunnels.enter(id, open);
        let opened = self.opened(wanted, rport);
        self.tell_server(wanted.server_id.as_deref(), "", &opened);
        drop(self.send(id, opened));
        let reason = self.watch(&forward, cancel, ends, wanted).await;
        drop(forward);
        let left = entry.close().await;
        info!(id, reason, "tunnel closed");
        let report = report(State::Closed).because(reason);
        let report = left.map_or(report.clone(), |left| left.on(report));
        Outcome { report, server_id: wanted.server_id.clone() }
    }

    async fn open(&self, wanted: &Wanted) -> Result<Forward, String> {
        let links = self.way.links(&self.config, &self.ctx)?;
        let opened = links.open(&self.server(wanted), wanted.rport, decide::destination(wanted)).await;
        opened.map_err(|failure| chain(&failure))
    }

    /// Waits until there is a reason to close it.
    async fn watch(
        &self,
        forward: &Forward,
        cancel: &CancellationToken,
        ends: Instant,
        wanted: &Wanted,
    ) -> String {
        tokio::select! {
            biased;
            () = cancel.cancelled() => outcome::REQUESTED.to_owned(),
            () = sleep_until(ends) => outcome::TTL.to_owned(),
            failure = forward.lost() => format!("connection lost: {}", chain(&failure)),
            () = self.idle(forward) => outcome::IDLE.to_owned(),
            why = self.forbidden(wanted) => why,
        }
    }

    /// Waits until the policy has changed so that it does not allow it any more; why not. Without a policy that is never.
    async fn forbidden(&self, wanted: &Wanted) -> String {
        if !self.ctx.shared.actions.policy.is_set() {
            return pending().await;
        }
        loop {
            sleep(LOOK).await;
            if self.permitted(wanted).is_ok() {
                continue;
            }
            sleep(AGAIN).await;
            if let Err(refusal) = self.permitted(wanted) {
                // Where the file cannot be used that is the service's trouble, too.
                self.ready(&self.ctx);
                return refusal.reason;
            }
        }
    }

    /// Waits until nothing was connected through it for long. It looks no more often than that can have come about.
    async fn idle(&self, forward: &Forward) {
        let limit = self.config.idle_timeout.get();
        loop {
            let until = forward.idle_since().unwrap_or_else(Instant::now) + limit;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}
