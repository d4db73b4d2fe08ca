//! A request as it goes out, and whether a reply fits it.

use anyhow::Context as _;
use protocol::{
    ClientId, Timestamp,
    proof::Psk,
    registration::{Nonce, PlainRequest, Reply, ReplyError, Request, open_plain_reply, open_reply},
};

use super::{Config, Proof};
use crate::{
    config::Secret,
    service::{Context, Invalid},
};

/// A request, as far as its reply has to fit it.
pub(super) enum Asked {
    /// `proof: psk-hmac`.
    Signed { psk: Psk, nonce: Nonce },
    /// `proof: plain`: any reply fits.
    Plain,
}

impl Asked {
    /// A new request and its payload, signed at `server_time` where the backend has told that ours is wrong.
    pub(super) fn make(
        proof: Proof,
        secret: &Secret,
        ctx: &Context,
        server_time: Option<Timestamp>,
    ) -> anyhow::Result<(Self, Vec<u8>)> {
        match proof {
            Proof::PskHmac => signed(psk(secret)?, ctx, server_time.unwrap_or_else(|| ctx.now())),
            Proof::Plain => plain(text(secret)?, ctx),
        }
    }

    /// The reply in `payload`, if it answers this request.
    pub(super) fn open(&self, client_id: &ClientId, payload: &[u8]) -> Result<Reply, ReplyError> {
        match self {
            Self::Signed { psk, nonce } => open_reply(psk, client_id, nonce, payload),
            Self::Plain => open_plain_reply(payload),
        }
    }
}

/// The device secret. Read anew for each request: it may have been mended meanwhile.
pub(super) fn secret(config: &Config) -> anyhow::Result<Secret> {
    match (&config.device_secret, &config.device_secret_file) {
        (Some(secret), _) => Ok(secret.clone()),
        (None, Some(file)) => Ok(file.read()?),
        (None, None) => {
            anyhow::bail!("no device secret: name a file in services.registration.device_secret_file")
        }
    }
}

/// What can be told of the secret without reading its file.
pub(super) fn check_written(config: &Config) -> Result<(), Invalid> {
    let Some(secret) = &config.device_secret else { return Ok(()) };
    let wrong = |message: String| Invalid::key("device_secret", message);
    if config.device_secret_file.is_some() {
        return Err(wrong("is also in device_secret_file".to_owned()));
    }
    match config.proof {
        Proof::PskHmac => Psk::from_file_bytes(secret.bytes()).map(drop).map_err(|e| wrong(e.to_string())),
        Proof::Plain => Ok(()),
    }
}

/// That a request can be made with the secret; the error has its key.
pub(super) fn check(config: &Config) -> Result<(), (&'static str, anyhow::Error)> {
    let key = if config.device_secret.is_some() { "device_secret" } else { "device_secret_file" };
    let checked = secret(config).and_then(|secret| match config.proof {
        Proof::PskHmac => psk(&secret).map(drop),
        Proof::Plain => text(&secret).map(drop),
    });
    checked.map_err(|error| (key, error))
}

/// Whether there is a secret now.
pub(super) fn has_secret(config: &Config) -> bool {
    config.device_secret.is_some() || config.device_secret_file.as_ref().is_some_and(|file| file.exists())
}

fn signed(psk: Psk, ctx: &Context, timestamp: Timestamp) -> anyhow::Result<(Asked, Vec<u8>)> {
    let nonce = Nonce::from_random(random()?);
    let identity = ctx.identity();
    let profile = identity.profile().clone();
    let request = Request {
        client_id: identity.client_id().clone(),
        device_id: identity.device().borrow().as_ref().map(|device| device.device_id.clone()),
        device_name: profile.device_name,
        org_id: profile.org_id,
        metadata: profile.metadata,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        proof: None,
    };
    let payload = request.signed(&psk, nonce.clone(), timestamp);
    Ok((Asked::Signed { psk, nonce }, payload))
}

fn plain(device_secret: String, ctx: &Context) -> anyhow::Result<(Asked, Vec<u8>)> {
    let request = PlainRequest { client_id: ctx.identity().client_id().clone(), device_secret };
    Ok((Asked::Plain, serde_json::to_vec(&request).context("encode the request")?))
}

fn psk(secret: &Secret) -> anyhow::Result<Psk> {
    Psk::from_file_bytes(secret.bytes()).context("the device secret")
}

/// The secret as JSON can carry it.
fn text(secret: &Secret) -> anyhow::Result<String> {
    Ok(secret.text().context("the device secret is no text")?.trim_end().to_owned())
}

fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness for a nonce: {error}"))?;
    Ok(bytes)
}
