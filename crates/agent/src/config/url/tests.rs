use super::*;

#[test]
fn brokers_get_the_port_and_path_of_their_scheme() {
    for (text, shown, local, plaintext) in [
        ("mqtts://broker.example", "mqtts://broker.example:8883", false, false),
        ("ssl://broker.example:1234/", "mqtts://broker.example:1234", false, false),
        ("TLS://10.0.0.1", "mqtts://10.0.0.1:8883", false, false),
        ("wss://b", "wss://b:443/mqtt", false, false),
        ("wss://b/x/y?z=1", "wss://b:443/x/y?z=1", false, false),
        ("ws://[::1]:8080/", "ws://[::1]:8080/mqtt", true, true),
        ("mqtt://LocalHost", "mqtt://LocalHost:1883", true, true),
        ("tcp://127.1.2.3", "mqtt://127.1.2.3:1883", true, true),
        ("tcp://[fd00::1]", "mqtt://[fd00::1]:1883", false, true),
        ("mqtt://127.0.0.1.example", "mqtt://127.0.0.1.example:1883", false, true),
        ("mqtt://localhost.example", "mqtt://localhost.example:1883", false, true),
        ("unix:///run/broker.sock", "unix:///run/broker.sock", true, false),
    ] {
        let url = BrokerUrl::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(url.to_string(), shown);
        assert_eq!((url.is_local(), url.is_plaintext()), (local, plaintext), "{text}");
        assert_eq!(BrokerUrl::parse(shown), Ok(url));
    }
}

#[test]
fn what_is_no_broker_is_refused_with_the_reason() {
    let example = "expected a URL such as mqtts://broker.example:8883";
    for (text, reason) in [
        ("", example),
        ("broker.example:8883", example),
        ("a b://c", example),
        ("mqtss://b", "the scheme `mqtss` is unknown; did you mean `mqtts`?"),
        ("http://b", "the scheme `http` is unknown; known here: mqtt, mqtts, ssl, tcp, tls, unix, ws, wss"),
        ("mqtts://", "the host is missing"),
        ("mqtts://:8883", "the host is missing"),
        ("mqtts://a b", "the host is neither a DNS name nor an IP address"),
        ("mqtts://a..b", "the host is neither a DNS name nor an IP address"),
        ("mqtts://1.2.3.256", "the host looks like an IPv4 address, but is none"),
        ("mqtts://b:0", "the port is no number from 1 to 65535"),
        ("mqtts://b:65536", "the port is no number from 1 to 65535"),
        ("mqtts://b:+1", "the port is no number from 1 to 65535"),
        ("mqtts://b:", "the port is no number from 1 to 65535"),
        ("mqtts://[::1]8883", "the port is no number from 1 to 65535"),
        ("mqtts://::1", "an IPv6 address is written in brackets: [::1]:8883"),
        ("mqtts://[::x]", "what is in brackets is no IPv6 address"),
        ("mqtts://b/path", "only ws:// and wss:// have a path"),
        ("wss://b?x", "the path is not one of a URL"),
        ("wss://b/a#b", "the path is not one of a URL"),
        ("unix://run/broker.sock", "a unix socket is written as unix:///run/broker.sock"),
        ("unix:///", "a unix socket is written as unix:///run/broker.sock"),
        (
            "mqtts://me:hunter2@b",
            "must not contain a user or password; use mqtt.username and mqtt.password_file",
        ),
    ] {
        assert_eq!(BrokerUrl::parse(text), Err(reason.to_owned()), "{text}");
    }
}

#[test]
fn the_password_of_a_proxy_is_decoded_and_hidden() {
    let proxy = Proxy::parse("http://me:p%40%3a%ff@proxy.example:3128/").unwrap();
    let (user, password) = proxy.credentials.clone().unwrap();
    assert_eq!((user.as_str(), password.bytes()), ("me", &b"p@:\xff"[..]));
    assert_eq!(proxy.to_string(), "http://********@proxy.example:3128");
    let proxy = Proxy::parse("socks5://[::1]:1080").unwrap();
    assert_eq!((proxy.kind, proxy.host.as_str()), (ProxyKind::Socks5, "::1"));
    for (text, reason) in [
        ("http://b", "the port of a proxy must be given"),
        ("https://b:1", "the scheme `https` is unknown; did you mean `http`?"),
        ("http://:x@b:1", "the user or password is not percent-encoded as in a URL"),
        ("http://a:hunter2%zz@b:1", "the user or password is not percent-encoded as in a URL"),
    ] {
        assert_eq!(Proxy::parse(text), Err(reason.to_owned()), "{text}");
    }
}
