//! The connection as the configuration describes it, in terms of those who make it.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::{
    config::{self, BrokerUrl, Config},
    log,
    mqtt::{
        self, Credentials,
        transport::{self, Dial, Endpoint, TlsFiles},
    },
    service::Shared,
};

/// Most bytes that wait for the broker in memory.
const QUEUE: u64 = 1 << 20;

/// Where to connect, as whom, and how patiently.
///
/// # Errors
/// What a file or a secret has wrong.
pub(super) fn settings(config: &Config, shared: &Shared) -> anyhow::Result<mqtt::Settings> {
    let settings = &config.mqtt;
    let cap = config.outbox.max_size.get().min(QUEUE);
    Ok(mqtt::Settings {
        dial: Dial::new(endpoint(settings)?, shared.clock.clone()),
        version: settings.version,
        client_id: shared.identity.client_id().as_str().to_owned(),
        credentials: Credentials { username: settings.username.clone(), password: password(settings)? },
        keep_alive: settings.keep_alive.get(),
        session_expiry: settings.session_expiry.get(),
        max_packet_size: u32::try_from(settings.max_packet_size.get()).unwrap_or(u32::MAX),
        reconnect: shared.backoff,
        queue: usize::try_from(cap).unwrap_or(usize::MAX),
    })
}

/// How the broker is reached, in the transport's terms.
pub(super) fn endpoint(settings: &config::Mqtt) -> anyhow::Result<Endpoint> {
    let BrokerUrl { scheme, host, port, path } = settings.broker.clone();
    let tls = TlsFiles {
        ca: settings.ca_certificate.as_deref().map(Path::to_owned),
        certificate: settings.client_certificate.as_deref().map(Path::to_owned),
        key: settings.client_key.as_deref().map(Path::to_owned),
    };
    let proxy = settings.proxy.as_ref().map(proxy).transpose()?;
    Ok(Endpoint { scheme, host, port, path, tls, proxy })
}

fn proxy(proxy: &config::Proxy) -> anyhow::Result<transport::Proxy> {
    let credentials = proxy.credentials.as_ref().map(|(user, password)| {
        let password = password.text().context("the proxy's password is no text")?.to_owned().into();
        anyhow::Ok(transport::Credentials { user: user.clone(), password })
    });
    let credentials = credentials.transpose()?;
    Ok(transport::Proxy { kind: proxy.kind, host: proxy.host.clone(), port: proxy.port, credentials })
}

fn password(settings: &config::Mqtt) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = settings.password_file.as_ref().map(|file| file.read()).transpose()?;
    Ok(settings.password.as_ref().or(file.as_ref()).map(|secret| secret.bytes().to_vec().into()))
}

/// Which key is to blame, and for what. None for a file that is not there: it may come later, and loading has said so.
pub(super) fn fault(settings: &config::Mqtt, error: &transport::Error) -> Option<(&'static str, String)> {
    let path = match error {
        transport::Error::ReadFile { source, .. } if source.kind() == io::ErrorKind::NotFound => return None,
        transport::Error::ReadFile { path, .. } | transport::Error::BadFile { path, .. } => Some(path),
        _ => None,
    };
    let files = [
        ("mqtt.ca_certificate", settings.ca_certificate.as_deref()),
        ("mqtt.client_certificate", settings.client_certificate.as_deref()),
        ("mqtt.client_key", settings.client_key.as_deref()),
    ];
    let named = files.iter().find(|(_, file)| file.is_some() && *file == path.map(PathBuf::as_path));
    Some((named.map_or("mqtt.broker", |(key, _)| key), log::chain(error)))
}
