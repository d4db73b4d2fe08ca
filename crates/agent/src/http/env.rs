//! The proxy that the environment names, as curl(1) reads it: `https_proxy`, `all_proxy`, `no_proxy`, in small letters
//! first.

use super::{Error, Url};
use crate::{config, mqtt::transport};

/// The proxy on the way to `url`, if there is one. What runs on this machine is asked directly; nothing else is spoken
/// to in the clear, so that `http_proxy` has no use.
///
/// # Errors
/// A value that is no proxy; it is not repeated, since it may have a password.
pub(super) fn proxy(
    url: &Url,
    variable: impl Fn(&'static str) -> Option<String>,
) -> Result<Option<transport::Proxy>, Error> {
    let set = |name: &'static str| Some((name, variable(name).filter(|value| !value.is_empty())?));
    let no_proxy = set("no_proxy").or_else(|| set("NO_PROXY"));
    if url.is_local() || no_proxy.is_some_and(|(_, names)| is_among(url.host(), &names)) {
        return Ok(None);
    }
    let named = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].into_iter().find_map(set);
    let Some((variable, value)) = named else { return Ok(None) };
    let wrong = |reason: String| Error::Proxy { variable, reason };
    let value = if value.contains("://") { value } else { format!("http://{value}") };
    let proxy = config::Proxy::parse(&value).map_err(wrong)?;
    let credentials = proxy.credentials.as_ref().map(|(user, password)| {
        let password = password.text().ok_or_else(|| wrong("its password is no text".to_owned()))?;
        Ok(transport::Credentials { user: user.clone(), password: password.to_owned().into() })
    });
    let credentials = credentials.transpose()?;
    Ok(Some(transport::Proxy { kind: proxy.kind, host: proxy.host, port: proxy.port, credentials }))
}

/// Whether a host is one of these, or below one of them; `*` is every host.
fn is_among(host: &str, names: &str) -> bool {
    let host = host.to_ascii_lowercase();
    names.split([',', ' ']).filter(|name| !name.is_empty()).any(|name| {
        let name = name.trim_matches(['[', ']']).trim_start_matches('.').to_ascii_lowercase();
        name == "*" || host.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(url: &str, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let value = |name: &'static str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let found = proxy(&url.parse().unwrap(), value).map_err(|error| error.to_string())?;
        Ok(found.map(|proxy| format!("{:?} {}:{}", proxy.kind, proxy.host, proxy.port)))
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let geo = "https://geo.example/";
        let direct = Ok(None);
        let through = |proxy: &str| Ok(Some(proxy.to_owned()));
        let p = ("HTTPS_PROXY", "http://p:3128");
        for (url, variables, expected) in [
            (geo, &[][..], &direct),
            (geo, &[p], &through("Http p:3128")),
            (geo, &[("https_proxy", "q:1"), p], &through("Http q:1")),
            (geo, &[("ALL_PROXY", "socks5://u:w@s:1080")], &through("Socks5 s:1080")),
            (geo, &[("HTTPS_PROXY", ""), ("all_proxy", "s:1")], &through("Http s:1")),
            (geo, &[p, ("NO_PROXY", "other.example, geo.example")], &direct),
            (geo, &[p, ("no_proxy", ".example")], &direct),
            (geo, &[p, ("no_proxy", "o.example,eo.example")], &through("Http p:3128")),
            (geo, &[p, ("no_proxy", "*")], &direct),
            ("http://localhost:1/", &[p, ("http_proxy", "http://p:1")], &direct),
        ] {
            assert_eq!(&found(url, variables), expected, "{url} {variables:?}");
        }
        let wrong = found(geo, &[("HTTPS_PROXY", "ftp://u:hunter2@p:1")]).unwrap_err();
        assert!(wrong.contains("HTTPS_PROXY") && !wrong.contains("hunter2"), "{wrong}");
    }
}
